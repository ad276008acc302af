"""Benchmarks of chot: one file a thing measured, peers beside us in the same run."""
