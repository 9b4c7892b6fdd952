"""Sees what a forward pass executes, for counts of it."""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode


class ForwardWatcher(TorchDispatchMode):
    """Sees every module and, in ``__torch_dispatch__``, every operator; attention appears as its two products."""

    def watch(self, module: nn.Module, *inputs: Tensor) -> Any:
        """Run a module in evaluation mode, without gradients, and return its output."""
        with (
            register_module_forward_pre_hook(self.enter),
            register_module_forward_hook(self.leave),
            sdpa_kernel(SDPBackend.MATH),
            torch.no_grad(),
            self,
        ):
            return module.eval()(*inputs)

    @abstractmethod
    def enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Note that a module's forward pass begins."""

    @abstractmethod
    def leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Note that it has ended."""
