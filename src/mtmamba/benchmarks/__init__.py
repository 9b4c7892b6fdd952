"""Measurements of speed and memory, called by the benchmark script."""
