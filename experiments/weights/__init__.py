"""Weights on disk: `checkpoint` for going on, `saved` for reading a run's model, `export` for
Hugging Face."""
