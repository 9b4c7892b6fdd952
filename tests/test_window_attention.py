"""Window attention against attention among all pixels written out here, its kernels in Triton's interpreter too."""

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from mtmamba.kernels.window_attention import window_attention

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # decided when Triton is imported, hence a process of its own
ON_GPU = torch.cuda.is_available() and not INTERPRETED
DEVICE = "cuda" if ON_GPU else "cpu"
gpu = pytest.mark.skipif(not ON_GPU, reason="needs a CUDA device")
kernel = pytest.mark.skipif(not (ON_GPU or INTERPRETED), reason="needs a CUDA device or Triton's interpreter")
PRECISION = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}


@pytest.fixture(autouse=True)
def loop_bounds_for_the_interpreter(monkeypatch):
    """NumPy from 2.4 makes no integer of an array of one element, which Triton's interpreter takes bounds for."""
    if INTERPRETED:
        from triton.runtime import interpreter

        patch = interpreter._patch_lang_tensor

        def with_index(tensor, scope):
            patch(tensor, scope)
            scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

        monkeypatch.setattr(interpreter, "_patch_lang_tensor", with_index)


def inputs(
    batch: int, height: int, width: int, heads: int, head_dim: int, window: int, dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    """Leaves qkv, padding and table, and a gradient of the output."""
    generator = torch.Generator().manual_seed(height * width + window)
    channels = heads * head_dim
    shapes = (batch, height, width, 3 * channels), (3 * channels,), ((2 * window - 1) ** 2, heads)
    qkv, padding, table = (torch.randn(shape, generator=generator).to(DEVICE) for shape in shapes)
    dout = torch.randn(batch, height, width, channels, generator=generator).to(DEVICE, dtype)
    return [qkv.to(dtype).requires_grad_(), padding.to(dtype).requires_grad_(), table.requires_grad_(), dout]


def attention_among_all(qkv: Tensor, padding: Tensor, table: Tensor, window: int, shift: int) -> Tensor:
    """Let all pixels of the padded map attend to all, and forbid it where no window holds both."""
    (batch, height, width, _), heads = qkv.shape, table.shape[1]
    rows, columns = height + -height % window, width + -width % window
    padded = padding.expand(batch, rows, columns, -1).clone()
    padded[:, :height, :width] = qkv
    q, k, v = padded.reshape(batch, rows * columns, 3, heads, -1).permute(2, 0, 3, 1, 4)

    pixels = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))
    wrapped = pixels < shift  # and so put after the last row or column
    shifted = pixels - shift + wrapped * torch.tensor([rows, columns])
    offset = shifted[:, None] - shifted + window - 1
    index = (offset[..., 0] * (2 * window - 1) + offset[..., 1]).clamp(0, len(table) - 1).to(table.device)
    bias = table[index].permute(2, 0, 1)
    apart = (wrapped[:, None] != wrapped).any(-1).to(table.device)
    together = (shifted[:, None] // window == shifted // window).all(-1).to(table.device)
    scores = q @ k.mT / q.shape[-1] ** 0.5 + bias - 100.0 * apart
    y = scores.masked_fill(~together, float("-inf")).softmax(-1) @ v
    return y.transpose(1, 2).reshape(batch, rows, columns, -1)[:, :height, :width]


def reference(qkv: Tensor, padding: Tensor, table: Tensor, dout: Tensor, *sizes: int) -> tuple[Tensor, ...]:
    """The result and the gradients of all inputs, in float64."""
    leaves = [tensor.detach().double().requires_grad_() for tensor in (qkv, padding, table)]
    y = attention_among_all(*leaves, *sizes)
    return y.detach(), *torch.autograd.grad(y, leaves, dout.double())


def assert_near(results: tuple[Tensor, ...], expected: tuple[Tensor, ...], precision: float) -> None:
    """Errors below ``precision`` of the largest value."""
    for result, wanted in zip(results, expected, strict=True):
        assert result.shape == wanted.shape
        torch.testing.assert_close(result.double(), wanted, rtol=0, atol=precision * wanted.abs().max().item() + 1e-12)


@kernel
@pytest.mark.parametrize(
    ("shape", "window", "shift"),  # batch, height, width, heads, head_dim
    [
        ((2, 4, 4, 1, 16), 4, 0),  # nothing is padded
        ((1, 4, 4, 1, 16), 4, 2),  # one window, cut in four
        ((2, 6, 9, 2, 16), 4, 2),  # three rows and columns of windows, with padding wrapped among pixels
        ((1, 3, 11, 1, 32), 5, 0),  # lower than a window
        ((2, 7, 6, 1, 16), 7, 3),  # 49 tokens
    ],
)
def test_kernel_is_attention_among_all_pixels_of_a_window(shape, window, shift):
    qkv, padding, table, dout = inputs(*shape, window)
    y, _ = torch.ops.mtmamba.window_attention(qkv, padding, table, window, shift)
    gradients = torch.autograd.grad(y, (qkv, padding, table), dout)
    assert all(t.is_contiguous() for t in (y, *gradients))  # as compiled programs are told
    assert_near((y.detach(), *gradients), reference(qkv, padding, table, dout, window, shift), 1e-5)
