"""Benchmarks: `make bench` measures speed side by side in one run."""
