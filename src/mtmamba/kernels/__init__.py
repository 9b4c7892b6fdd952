"""Kernels of our own for what the networks spend their time on, each beside its form in plain PyTorch.

A function decides by itself (`dispatch`) and is called alike on every device. There are two ways to a gradient, by one
rule. What launches kernels is a pair of custom operators (`torch.library.custom_op`) that ``register_autograd`` joins:
a compiler sees one node each, a CUDA graph captures it, and PyTorch checks its promises (``opcheck``). So kernels of
Triton and NVRTC are treated alike; `torch.library.triton_op` takes Triton's alone, and launches that a compiler can
trace, while ours are chosen in Python from sizes and strides. What only puts PyTorch's operators together, or returns
its input or views, which a custom operator must not, is a `torch.autograd.Function`, which a compiler sees through.
Neither can be differentiated twice, and both say so (`derivatives`).
"""
