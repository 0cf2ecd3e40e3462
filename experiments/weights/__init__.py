"""Weights on disk: `checkpoint` saves a run so that it can resume, `saved` loads a run's model,
`export` writes it for Hugging Face, and `begin` starts a run from earlier weights."""
