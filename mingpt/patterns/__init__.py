"""Patterns: which keys a query may see. `pattern` is one of them, `kinds` lists them, `schedule`
gives every layer its own."""
