"""One run: `run` trains an arm, `seeded` builds it, `resume` continues it, `evaluation` measures
it."""
