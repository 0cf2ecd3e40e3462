"""Attention over a pattern. `backends.py` chooses how it is computed; the other files compute it
without the pairs that the pattern leaves out."""
