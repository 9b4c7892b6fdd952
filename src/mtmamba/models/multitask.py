"""The whole network: an encoder and a decoder, at any image size."""

from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtmamba.kernels.dispatch import exporting
from mtmamba.models.decoders import Decoder
from mtmamba.models.encoders import Encoder, freeze
from mtmamba.models.encoders.lora import add_lora
from mtmamba.models.precision import rounded_parameters
from mtmamba.models.recomputation import recomputed
from mtmamba.types import Logits

STRIDE = 32
"""Stride of the encoder's coarsest map: image sides are padded to a multiple of it."""

COMPILED_VARIANTS = 64
"""Forms of a block's code, by stage, shift, size, training or evaluation. PyTorch's own limit is 8."""


class MultiTaskModel(nn.Module):
    """Predict every task of a batch of images.

    Args:
        encoder: images → four channels-last maps at strides 4, 8, 16, 32.
        decoder: those maps → logits by task; it may adapt the encoder first (``adapt``).

    Attributes:
        description: the configuration it was built from, where that is known: what its checkpoints say of it.

    Shape: images ``(B, 3, H, W)``, ImageNet-normalised → ``{task: (B, n, H, W)}``, any H and W.
    """

    description: dict[str, Any] | None = None

    def __init__(self, encoder: Encoder, decoder: Decoder) -> None:
        super().__init__()
        adapt = getattr(decoder, "adapt", None)
        self.encoder: Encoder = encoder if adapt is None else adapt(encoder)
        self.decoder = decoder
        self._for_bfloat16 = False
        self._frozen: tuple[nn.Module, ...] = ()

    def freeze_encoder(self, part: int | str) -> None:
        """Exclude ``all`` of the encoder, or its first blocks, from training: `mtmamba.models.encoders.freeze`."""
        self._frozen = freeze(self.encoder, part)
        self.train(self.training)

    def add_lora(self, rank: int, alpha: int | None = None) -> None:
        """Freeze what is pretrained of the encoder, but for low-rank updates: `mtmamba.models.encoders.lora`."""
        self.freeze_encoder("all")
        add_lora(self.encoder, rank, alpha)

    def train(self, mode: bool = True) -> Self:
        """Choose between training and evaluation; what is frozen stays in evaluation."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def recompute(self, part: str) -> None:
        """Keep fewer activations for the backward pass, which computes them again.

        Args:
            part: ``none``; ``heads``: not the full-resolution maps; ``blocks``: nor anything inside a block of the
                encoder or the decoder.
        """
        choices = ("none", "heads", "blocks")
        if part not in choices:
            raise ValueError(f"Expected model.checkpointing to be one of {', '.join(choices)}, got {part}.")
        for module in self.decoder.modules() if part != "none" else ():
            if hasattr(module, "recompute"):
                module.recompute = True  # type: ignore[assignment]
        if part == "blocks":
            for block in (*self.encoder.blocks(), *self.decoder.blocks()):
                block.forward = partial(recomputed, block.forward)

    def compile_blocks(self) -> None:
        """Let ``torch.compile`` fuse what is left in the encoder's blocks; the decoder's operators are fused already.

        Blocks that are alike share their code, so it takes a minute where the whole network takes many. It is done anew
        for each image size, batch size, and for evaluation.
        """
        from torch._dynamo import config  # a second that only compilers need

        config.recompile_limit = max(config.recompile_limit, COMPILED_VARIANTS)
        for block in self.encoder.blocks():
            block.compile(dynamic=False)

    def weights_to_bfloat16(self) -> Self:
        """Round once the weights that bfloat16 autocast would round at every use: the same results in half the memory.

        From then on the network is for evaluation under that autocast alone: no parameter is trained.
        """
        for parameter in rounded_parameters(self):
            parameter.data = parameter.data.to(torch.bfloat16)
        self._for_bfloat16 = True
        return self.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> Logits:
        """Pad right and bottom to a multiple of 32, encode, decode, and crop back."""
        if self._for_bfloat16:
            self._check_use(images.device.type)
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"Expected images of shape (B, 3, H, W), got {tuple(images.shape)}.")
        height, width = images.shape[2:]
        rows, columns = ((side + STRIDE - 1) // STRIDE * STRIDE for side in (height, width))
        if exporting() or (rows, columns) != (height, width):  # padding by nothing would copy
            images = F.pad(images, (0, columns - width, 0, rows - height))
        logits = self.decoder(self.encoder(images))
        return {task: x[..., :height, :width] for task, x in logits.items()}

    def with_auxiliary(self, images: Tensor) -> tuple[Logits, dict[str, Logits]]:
        """Return the logits, and in training the decoder's intermediate ones too, resized to the images' size.

        Shape: images ``(B, 3, H, W)`` → ``{task: (B, n, H, W)}, {name: {task: (B, n, H, W)}}``.
        """
        logits = self(images)
        height, width = images.shape[2:]
        padded = (height + -height % STRIDE, width + -width % STRIDE)

        def resized(x: Tensor) -> Tensor:
            return F.interpolate(x, padded, mode="bilinear", align_corners=False)[..., :height, :width]

        auxiliary = self.decoder.auxiliary if self.training else {}
        return logits, {name: {task: resized(x) for task, x in own.items()} for name, own in auxiliary.items()}

    def _check_use(self, device: str) -> None:
        """Refuse training, and another precision, of weights that were rounded."""
        if self.training:
            raise RuntimeError(
                "Expected evaluation of a network whose weights are held in bfloat16, got training: build it anew from "
                "its checkpoint, or call eval()."
            )
        if not torch.is_autocast_enabled(device) or torch.get_autocast_dtype(device) != torch.bfloat16:
            raise RuntimeError(
                "Expected bfloat16 autocast of a network whose weights are held in bfloat16, got none or another: call "
                f'it within torch.autocast("{device}", torch.bfloat16).'
            )
