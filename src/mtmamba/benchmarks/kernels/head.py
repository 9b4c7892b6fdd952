"""Time the heads' kernels for many tiles on a GPU: ``python -m mtmamba.benchmarks.kernels.head [B H W C]``."""

import json
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mtmamba.benchmarks.timing import kernel_ms
from mtmamba.kernels import head_triton as kernels
from mtmamba.kernels.head import EPS, norm_project, torch_norm_project
from mtmamba.kernels.head_triton import Tile

SCALE = 4
CANDIDATES: Mapping[str, tuple[Tile, ...]] = {
    "forward": (
        kernels.FORWARD[2],
        *(Tile(64, programs, 4, 3) for programs in (528, 2112)),
        Tile(64, 1056, 4, 2),
        Tile(64, 1056, 8, 3),
        Tile(32, 1056, 4, 3),
        Tile(128, 1056, 8, 2),
    ),
    "backward": (
        kernels.BACKWARD[2],
        *(Tile(32, programs, 8, 3) for programs in (264, 1056)),
        Tile(32, 528, 8, 2),
        Tile(32, 528, 8, 4),
        Tile(64, 528, 8, 2),
        Tile(64, 528, 8, 3),
        Tile(16, 528, 4, 3),
    ),
}
"""Tiles for each kernel, for maps of half precision."""


def benchmark_head(shape: tuple[int, ...] = (8, 112, 144, 192), outputs: int = 40) -> dict[str, Any]:
    """Time each kernel with each tile, and the whole operator beside PyTorch's, on a bfloat16 map ``(B, H, W, 16 C)``.

    Every tile's results are first compared with PyTorch's in float32 on a small map.

    Args:
        shape: B, H, W and C.
        outputs: n.

    Returns:
        ``forward`` and ``backward``: a record for each tile, the fastest first, of median milliseconds and of GB/s
        where each map is read or written once. ``operator_ms`` and ``pytorch_ms``: forward, and forward and backward,
        of the operator with the tiles now set and of PyTorch's layer norm and linear layer. ``roofline_ms``: the time
        of copies that move as many bytes as ``x``, its gradient and the logits have, in both directions.

    Raises:
        AssertionError: a tile's results are wrong.
    """
    x, *parameters, dlogits = _inputs(shape, outputs, torch.bfloat16)
    weight, bias = parameters[2:]
    found = kernels.forward(x, weight, bias, SCALE, EPS)
    statistics = 2 * found[1].nbytes
    runs: dict[str, tuple[int, Callable[[Tile], object]]] = {
        "forward": (
            x.nbytes + dlogits.nbytes + statistics,
            lambda tile: kernels.forward(x, weight, bias, SCALE, EPS, tile),
        ),
        "backward": (
            2 * x.nbytes + 2 * dlogits.nbytes + statistics,
            lambda tile: kernels.backward(dlogits, x, weight, bias, *found, SCALE, tile),
        ),
    }
    result: dict[str, Any] = {"device": torch.cuda.get_device_name(), "shape": shape, "outputs": outputs}
    for name, (moved, run) in runs.items():
        records = []
        for tile in CANDIDATES[name]:
            _check(shape[-1], outputs, {name: tile})
            ms = kernel_ms(partial(run, tile))
            records.append({**tile._asdict(), "ms": ms, "gb_s": moved / ms / 1e6})
        result[name] = sorted(records, key=lambda record: record["ms"])
    leaves = [tensor.requires_grad_() for tensor in (x, *parameters)]
    for name, function in (("operator_ms", norm_project), ("pytorch_ms", partial(torch_norm_project, scale=SCALE))):
        result[name] = {
            "forward": kernel_ms(torch.no_grad()(partial(function, *leaves))),
            "forward_backward": kernel_ms(partial(_step, function, leaves, dlogits)),
        }
    copied = torch.empty_like(x)
    maps = (3 * x.nbytes + 2 * dlogits.nbytes) / (2 * x.nbytes)
    result["roofline_ms"] = maps * kernel_ms(lambda: copied.copy_(x.detach()))
    return result


def _inputs(shape: tuple[int, ...], outputs: int, dtype: torch.dtype) -> list[Tensor]:
    """Return x, the four parameters, and a gradient of the logits."""
    batch, height, width, channels = shape
    generator = torch.Generator("cuda").manual_seed(0)
    shapes = (
        (batch, height, width, SCALE * SCALE * channels),
        *((channels,), (channels,), (outputs, channels), (outputs,)),
        (batch, outputs, SCALE * height, SCALE * width),
    )
    x, *rest = (torch.randn(s, generator=generator, device="cuda") for s in shapes)
    return [x.to(dtype), *rest]


def _step(function: Callable[..., Tensor], leaves: list[Tensor], dlogits: Tensor) -> object:
    return torch.autograd.grad(function(*leaves), leaves, dlogits)


def _check(channels: int, outputs: int, tiles: Mapping[str, Tile]) -> None:
    """Compare a tile's results with PyTorch's in float32, on a map whose rows and programs are not full."""
    x, norm_weight, norm_bias, weight, bias, dlogits = _inputs((2, 13, 21, channels), outputs, torch.bfloat16)
    norm_weight.fill_(1)
    norm_bias.zero_()
    leaves = [tensor.float().requires_grad_() for tensor in (x, weight, bias)]
    expected = torch_norm_project(leaves[0], norm_weight, norm_bias, leaves[1], leaves[2], SCALE)
    gradients = torch.autograd.grad(expected, leaves, dlogits)
    found = kernels.forward(x, weight, bias, SCALE, EPS, tiles.get("forward"))
    results = found[0], *kernels.backward(dlogits, x, weight, bias, *found, SCALE, tiles.get("backward"))
    for result, wanted in zip(results, (expected, *gradients), strict=True):
        atol = 1.6e-2 * wanted.abs().max().item()
        torch.testing.assert_close(result, wanted, rtol=0, atol=atol, check_dtype=False)


if __name__ == "__main__":
    sizes = tuple(int(size) for size in sys.argv[1:]) or (8, 112, 144, 192)
    json.dump([benchmark_head(sizes, outputs) for outputs in (40, 3, 1)], sys.stdout, indent=1)
