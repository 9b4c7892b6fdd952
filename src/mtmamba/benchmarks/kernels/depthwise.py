"""Time depthwise kernels for many tiles on a GPU: ``python -m mtmamba.benchmarks.kernels.depthwise [T B H W C]``."""

import json
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mtmamba.benchmarks.timing import kernel_ms
from mtmamba.kernels import depthwise_triton as kernels
from mtmamba.kernels.depthwise import depthwise_silu, torch_depthwise_silu
from mtmamba.kernels.depthwise_triton import Tile

CANDIDATES: Mapping[str, tuple[Tile, ...]] = {
    "convolve": (
        kernels.CONVOLVE,
        *(Tile(64, 16, 2, rows, 2, 8) for rows in (28, 112)),
        Tile(64, 16, 2, 56, 1, 8),
        Tile(64, 8, 2, 56, 2, 4),
        Tile(64, 16, 4, 56, 1, 4),
        Tile(64, 16, 4, 56, 2, 4),
        Tile(64, 16, 2, 56, 1, 4),
        Tile(64, 16, 2, 56, 2, 4),
        Tile(128, 16, 2, 56, 2, 8),
        Tile(128, 8, 2, 56, 2, 4),
        Tile(64, 16, 1, 56, 2, 8),
        Tile(64, 48, 3, 56, 2, 16),
    ),
    "activation_gradient": (
        kernels.ACTIVATION_GRADIENT,
        *(Tile(64, 16, 4, rows, 2, 4) for rows in (28, 112)),
        Tile(64, 16, 4, 56, 1, 4),
        Tile(64, 16, 2, 56, 1, 8),
        Tile(64, 16, 2, 56, 2, 8),
        Tile(64, 16, 2, 56, 4, 8),
        Tile(64, 8, 2, 56, 2, 4),
        Tile(64, 24, 3, 56, 2, 8),
        Tile(64, 16, 2, 56, 1, 4),
        Tile(64, 16, 2, 56, 2, 4),
        Tile(128, 16, 4, 56, 2, 8),
        Tile(32, 16, 2, 56, 2, 4),
    ),
}
"""Tiles for each kernel; ``convolve`` serves the forward pass and the input's gradient."""


def benchmark_depthwise(
    shape: tuple[int, ...] = (4, 8, 112, 144, 384),
    dtype: torch.dtype = torch.bfloat16,
    candidates: Mapping[str, Iterable[Tile]] = CANDIDATES,
) -> dict[str, Any]:
    """Time each kernel with each tile, and the whole operator beside PyTorch's, on maps ``(T, B, H, W, C)``.

    Every tile's results are first compared with PyTorch's in float32 on a small map.

    Returns:
        ``forward``, ``activation_gradient`` and ``input_gradient``: a record for each tile, the fastest first, of
        median milliseconds and of GB/s where each map is read or written once. ``forward_backward_ms``: of the operator
        with the tiles now set, of PyTorch's convolution on ``(B, T C, H, W)``, and of one for each task where
        channels lie last. ``roofline_ms``: the time of copies that move as many bytes.

    Raises:
        AssertionError: a tile's results are wrong.
    """
    x, dy, weight, bias = _inputs(shape, dtype)
    runs: dict[str, tuple[str, int, Callable[[Tile], object]]] = {
        "forward": ("convolve", 2, lambda tile: kernels.forward(x, weight, bias, tile)),
        "activation_gradient": (
            "activation_gradient",
            3,
            lambda tile: kernels.activation_gradient(dy, x, weight, bias, tile),
        ),
        "input_gradient": ("convolve", 2, lambda tile: kernels.input_gradient(dy, weight, tile)),
    }
    result: dict[str, Any] = {"device": torch.cuda.get_device_name(), "shape": shape, "dtype": str(dtype)}
    for name, (kind, maps, run) in runs.items():
        records = []
        for tile in candidates[kind]:
            _check(shape, dtype, kind, tile)
            ms = kernel_ms(partial(run, tile))
            records.append({**tile._asdict(), "ms": ms, "gb_s": maps * x.nbytes / ms / 1e6})
        result[name] = sorted(records, key=lambda record: record["ms"])
    result["forward_backward_ms"] = {
        "operator": kernel_ms(_training_step(depthwise_silu, x, dy, weight, bias)),
        "pytorch": kernel_ms(_training_step(torch_depthwise_silu, x, dy, weight, bias)),
        "pytorch_channels_last": kernel_ms(_training_step(_a_convolution_each, x, dy, weight, bias)),
    }
    result["roofline_ms"] = 3.5 * kernel_ms(lambda: dy.copy_(x))  # seven maps read or written, a copy's are two
    return result


def _inputs(shape: tuple[int, ...], dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator("cuda").manual_seed(0)
    shapes = shape, shape, (shape[0], shape[-1], 1, 3, 3), (shape[0], shape[-1])
    x, dy, weight, bias = (torch.randn(s, generator=generator, device="cuda") for s in shapes)
    return [x.to(dtype), dy.to(dtype), weight / 3, bias]


def _check(shape: tuple[int, ...], dtype: torch.dtype, kind: str, tile: Tile) -> None:
    """Compare a tile's results with PyTorch's in float32, on a map with a strip and a tile that are not full."""
    tasks, *_, channels = shape
    x, dy, weight, bias = _inputs((tasks, 2, 61, 19, channels), dtype)
    leaves = [tensor.float().requires_grad_() for tensor in (x, weight, bias)]
    expected = torch_depthwise_silu(*leaves)
    dx, dweight, dbias = torch.autograd.grad(expected, leaves, dy.float())
    close = partial(torch.testing.assert_close, rtol=2e-2, atol=2e-2, check_dtype=False)
    if kind == "convolve":
        dz, _ = kernels.activation_gradient(dy, x, weight, bias)
        close(kernels.forward(x, weight, bias, tile), expected)
        close(kernels.input_gradient(dz, weight, tile), dx)
    else:
        _, sums = kernels.activation_gradient(dy, x, weight, bias, tile)
        expected = torch.cat([dweight.flatten(), dbias.flatten()])
        torch.testing.assert_close(sums, expected, rtol=1e-3, atol=1e-2)


def _training_step(
    function: Callable[[Tensor, Tensor, Tensor], Tensor], x: Tensor, dy: Tensor, weight: Tensor, bias: Tensor
) -> Callable[[], object]:
    leaves = [tensor.detach().requires_grad_() for tensor in (x, weight, bias)]
    return lambda: torch.autograd.grad(function(*leaves), leaves, dy)


def _a_convolution_each(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """One task after another, on maps ``(B, C, H, W)`` whose channels lie last."""
    tasks = zip(x.permute(0, 1, 4, 2, 3), weight.to(x.dtype), bias.to(x.dtype), strict=True)
    z = [F.conv2d(maps, filters, offset, padding=1, groups=len(filters)) for maps, filters, offset in tasks]
    return torch.stack([F.silu(maps).permute(0, 2, 3, 1) for maps in z])


if __name__ == "__main__":
    sizes = tuple(int(size) for size in sys.argv[1:]) or (4, 8, 112, 144, 384)
    json.dump(benchmark_depthwise(sizes), sys.stdout, indent=1)
