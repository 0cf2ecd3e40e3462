"""One training run: `run` trains an arm, `seeded` builds its model, `resume` continues it,
`evaluation` measures it."""
