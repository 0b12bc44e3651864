"""Benchmarks: how good an engine is, and how fast."""
