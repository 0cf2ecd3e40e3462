"""From TOML and flags to one tree of settings: `arms`, `study`, `settings`, `spec`, `names`,
`ranges`."""
