"""Attention over several processes. `ring.py` passes keys and values between the processes;
`tiles.py` computes attention between two stretches of the text."""
