"""Attention over a pattern. `backends` chooses how it is computed; the others skip what the pattern
leaves out."""
