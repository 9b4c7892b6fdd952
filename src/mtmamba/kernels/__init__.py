"""Kernels of our own for what the decoder spends its time on, each beside its form in plain PyTorch."""
