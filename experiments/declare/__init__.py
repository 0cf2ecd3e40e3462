"""Turns TOML files and flags into one tree of settings: `arms`, `study`, `settings`, `spec`,
`names`, `ranges`."""
