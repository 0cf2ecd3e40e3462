"""Generating text: `generate` draws tokens, `cache` keeps keys and values, `speculate` drafts
ahead."""
