"""What a run wrote: `record` is its JSON, `table` its CSV, and `runs` reads both back."""
