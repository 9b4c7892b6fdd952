"""Kernels of our own for what the networks spend their time on, each beside its form in plain PyTorch.

A function decides by itself (`dispatch`) and is called alike on every device. There are two ways to a gradient, by one
rule; docs/architecture.md has the measurements. What launches kernels, Triton's and NVRTC's alike, is a pair of custom
operators (`torch.library.custom_op`) that ``register_autograd`` joins: a compiler sees one node each, a CUDA graph
captures it, and PyTorch checks its promises (``opcheck``). What only puts PyTorch's operators together, or returns its
input or views, which a custom operator must not, is a `torch.autograd.Function`, which a compiler sees through; it is
never given one tensor twice, of which a compiler loses a gradient. Neither can be differentiated twice, and both say so
(`derivatives`).
"""
