"""Batch norms whose statistics are those of all processes' images, on GPUs and on CPUs."""

import torch.distributed as dist
from lightning.pytorch.plugins import LayerSync
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce

from mtmamba.models.encoders.encoder import BATCH_NORMS, is_frozen


class SyncBatchNorm(nn.BatchNorm2d):
    """What `torch.nn.SyncBatchNorm` is on GPUs, for CPUs, where that refuses to train.

    Shape: ``(B, C, H, W) → (B, C, H, W)``.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise by the statistics of all processes' maps in training, else by the running ones."""
        if not self.training or not dist.is_initialized():
            return super().forward(x)
        wide = x.float() if x.dtype.itemsize < 4 else x
        count = all_reduce(wide.new_tensor(x.numel() // x.shape[1]))
        mean = all_reduce(wide.sum((0, 2, 3))) / count
        centred = wide - mean[:, None, None]
        variance = all_reduce(centred.square().sum((0, 2, 3))) / count
        self._note(mean.detach(), variance.detach() * count / (count - 1))
        y = centred * (variance + self.eps).rsqrt()[:, None, None]
        if self.affine:
            y = y * self.weight[:, None, None] + self.bias[:, None, None]
        return y.to(x.dtype)

    def _note(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics towards a batch's, ``(C,)`` each."""
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked.add_(1)
        for running, value in ((self.running_mean, mean), (self.running_var, variance)):
            assert running is not None
            running.lerp_(value.to(running.dtype), self.momentum)


class SyncBatchNorms(LayerSync):
    """Let Lightning exchange a network's batch norms for such when several processes train it.

    Args:
        on_gpu: whether they do on GPUs.
    """

    def __init__(self, on_gpu: bool) -> None:
        self.on_gpu = on_gpu

    def apply(self, model: nn.Module) -> nn.Module:
        """Exchange every batch norm that is trained, keeping parameters, buffers and what timm's have beside them.

        Frozen ones stay the modules that `mtmamba.models.multitask.MultiTaskModel` holds in evaluation mode.

        Raises:
            ValueError: on CPUs, a batch norm of another class than `torch.nn.BatchNorm2d`.
        """
        for name, module in list(model.named_modules()):
            if not isinstance(module, BATCH_NORMS) or isinstance(module, SyncBatchNorm) or is_frozen(module):
                continue
            if self.on_gpu:
                model.set_submodule(name, convert_sync_batchnorm(module))
            elif type(module) is nn.BatchNorm2d:
                module.__class__ = SyncBatchNorm
            else:
                raise ValueError(
                    f"Expected torch.nn.BatchNorm2d in a network that several processes train on CPUs, got "
                    f"{type(module).__name__} at {name}: use trainer.devices=1, GPUs, or another encoder."
                )
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        """Leave them: in evaluation they are as others."""
        return model
