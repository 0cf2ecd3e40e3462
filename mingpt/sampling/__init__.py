"""Generating text: `generate.py` draws tokens, `cache.py` keeps keys and values, `cache_plan.py`
plans which to keep, and `speculate.py` drafts tokens ahead."""
