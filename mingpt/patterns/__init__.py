"""Attention patterns: which keys a query may see. `pattern.py` defines what every pattern can do,
`kinds.py` lists the patterns, `schedule.py` gives each layer a pattern, and `files.py` reads
schedules from JSON files."""
