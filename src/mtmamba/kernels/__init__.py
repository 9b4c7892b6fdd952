"""Kernels of our own for what the networks spend their time on, each beside its form in plain PyTorch."""
