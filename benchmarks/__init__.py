"""Benchmarks: our code beside its peers. The sides take turns in one run; ratios are reported."""
