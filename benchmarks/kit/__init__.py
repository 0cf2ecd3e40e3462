"""The code that the benchmarks share: turns, the machine, the peers, tables and figures."""
