"""Attention over several processes: `ring` passes keys and values around, `tiles` computes one
piece."""
