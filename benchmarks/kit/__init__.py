"""What the benchmarks share: taking turns, the machine, the peers, tables and figures."""
