"""What a run writes: `record` writes its CSV and JSON, `table` reads a CSV, `runs` finds runs and
reads them back."""
