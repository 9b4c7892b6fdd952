"""Time the fused norms: ``python -m mtmamba.benchmarks.kernels.norm [launches]`` on a GPU.

With ``launches``, each kernel is also timed with every one of `CANDIDATES`.
"""

import json
import sys
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mtmamba.benchmarks.timing import kernel_ms
from mtmamba.kernels import blend_triton, norm_triton
from mtmamba.kernels.blend import blend
from mtmamba.kernels.norm import gated_norm, joint_layer_norm, layer_norm
from mtmamba.kernels.norm_triton import Launch

SHAPES = ((4, 8, 112, 144, 192), (4, 8, 112, 144, 384), (4, 8, 56, 72, 768), (4, 8, 28, 36, 1536))
"""Maps ``(T, B, H, W, C)`` in the decoder of Swin-L at 448x576 pixels."""
CANDIDATES = tuple(
    Launch(elements, per_thread, programs)
    for elements, per_thread in ((512, 4), (1024, 8), (2048, 8), (2048, 16), (4096, 16), (4096, 32))
    for programs in (528, 2112)
)
FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "layer_norm": layer_norm,
    "layer_norm_upscale": partial(layer_norm, upscale=2),
    "joint_layer_norm": joint_layer_norm,
    "gated_norm": lambda x, weight, bias, both, scale: gated_norm(x, weight, bias, _half(both), scale),
    "blend": lambda features, both, *rest: blend(features, _half(both), *rest),
}
"""The gates are half of a wider map's channels, as a joint projection leaves them."""
OPTIONS = {"layer_norm_upscale": {"upscale": 2}, "joint_layer_norm": {"joined": 4}}


def benchmark_norms(
    shapes: Iterable[tuple[int, ...]] = SHAPES,
    dtype: torch.dtype = torch.bfloat16,
    candidates: Iterable[Launch] = (),
) -> dict[str, Any]:
    """Check each operator against PyTorch in float64 on a small map, and time it on maps ``(4, B, H, W, C)``.

    Returns:
        ``operators``: for each operator and shape the median milliseconds of forward, and of forward and backward, the
        GB/s where each map is read or written once, and ``roofline_ms``, the time of a copy that moves as many bytes.
        ``launches``: of ``forward`` and ``backward`` kernels, a record for each candidate, the fastest first.

    Raises:
        AssertionError: an operator's results are wrong.
    """
    operators, launches = [], []
    for shape in shapes:
        for name, function in FUNCTIONS.items():
            check(name, (shape[0], 2, 6, 8, shape[-1]), dtype)
            leaves, rest, dy = _inputs(name, shape, dtype)
            size = {"operator": name, "shape": shape, "dtype": str(dtype)}
            copy_ms = kernel_ms(partial(torch.empty_like(dy).copy_, dy))  # which moves two maps
            one = 1 / shape[0] if name == "blend" else 0  # the shared map
            passes: dict[str, tuple[float, Callable[[], object]]] = {
                "forward": (_maps(name) + one, torch.no_grad()(partial(function, *leaves, *rest))),
                "forward_backward": (
                    3 * _maps(name) - 1 + 3 * one,
                    partial(_training_step, function, leaves, rest, dy),
                ),
            }
            for direction, (maps, call) in passes.items():
                ms, gigabytes = kernel_ms(call), maps * dy.nbytes / 1e9
                record = {"pass": direction, "ms": ms, "gb_s": gigabytes / ms * 1e3, "roofline_ms": maps / 2 * copy_ms}
                operators.append({**size, **record})
            launches += [
                {**size, "kernel": kernel, **_time_candidates(call, candidates)}
                for kernel, call in _kernels(name, leaves, rest, dy).items()
                if candidates
            ]
    return {"device": torch.cuda.get_device_name(), "operators": operators, "launches": launches}


def _maps(name: str) -> int:
    """Count the maps that the forward pass reads and writes."""
    return {"gated_norm": 3, "blend": 3}.get(name, 2)


def check(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Compare an operator's result and gradients with PyTorch's in float64, which no kernel takes."""
    leaves, rest, dy = _inputs(name, shape, dtype)
    doubles = [leaf.detach().double().requires_grad_() for leaf in leaves]
    expected = FUNCTIONS[name](*doubles, *rest)
    found = FUNCTIONS[name](*leaves, *rest)
    gradients = zip(
        torch.autograd.grad(found, leaves, dy), torch.autograd.grad(expected, doubles, dy.double()), strict=True
    )
    for result, wanted in ((found, expected), *gradients):
        precision = 1e-5 if result.dtype == torch.float32 else 2e-2
        error = (result.double() - wanted).abs().max() / wanted.abs().max()
        assert error < precision, f"{name} {shape} {dtype}: error {error:.2g} of the largest value."


def _inputs(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Draw the leaves, the factors after them, and a gradient of the result."""
    tasks, batch, height, width, channels = shape
    x, both, parameters = shape, (*shape[:-1], 2 * channels), [(tasks, channels)] * 2
    sizes = {
        "layer_norm": [x, *parameters],
        "layer_norm_upscale": [(tasks, batch, height // 2, width // 2, 4 * channels), *parameters],
        "joint_layer_norm": [x, (tasks * channels,), (tasks * channels,)],
        "gated_norm": [x, *parameters, both],
        "blend": [(tasks + 1, *shape[1:]), both, *parameters, (1, channels), (1, channels)],
    }
    draw = partial(torch.randn, generator=torch.Generator("cuda").manual_seed(0), device="cuda")
    leaves = [draw(size).to(dtype if len(size) == 5 else torch.float32).requires_grad_() for size in sizes[name]]
    rest = [draw(tasks, batch)] if name in ("gated_norm", "blend") else []
    dy = draw(shape).to(dtype)
    if name == "joint_layer_norm":
        dy = dy.view(1, *shape[1:-1], tasks * channels)
    return leaves, rest, dy


def _half(both: Tensor) -> Tensor:
    return both[..., both.shape[-1] // 2 :]


def _training_step(function: Callable[..., Tensor], leaves: list[Tensor], rest: list[Tensor], dy: Tensor) -> None:
    torch.autograd.grad(function(*leaves, *rest), leaves, dy)


def _kernels(name: str, leaves: list[Tensor], rest: list[Tensor], dy: Tensor) -> dict[str, Callable[[Launch], object]]:
    """Return the kernels behind an operator, to be called with a launch."""
    tensors, scale = [leaf.detach() for leaf in leaves], rest[0] if rest else None
    if name == "blend":
        features, gate, parameters = tensors[0], _half(tensors[1]), tensors[2:]
        _, statistics = blend_triton.forward(features, gate, parameters, scale)
        return {
            "forward": lambda launch: blend_triton.forward(features, gate, parameters, scale, launch),
            "backward": lambda launch: blend_triton.backward(dy, features, gate, parameters, statistics, scale, launch),
        }
    x, weight, bias, *gates = tensors
    extras: dict[str, Any] = OPTIONS.get(name, {})
    if name == "gated_norm":
        extras = {"gate": _half(*gates), "scale": scale}
    _, statistics = norm_triton.forward(x, weight, bias, **extras)
    return {
        "forward": lambda launch: norm_triton.forward(x, weight, bias, **extras, launch=launch),
        "backward": lambda launch: norm_triton.backward(dy, x, weight, bias, statistics, **extras, launch=launch),
    }


def _time_candidates(call: Callable[[Launch], object], candidates: Iterable[Launch]) -> dict[str, Any]:
    records = [{**launch._asdict(), "ms": kernel_ms(partial(call, launch))} for launch in candidates]
    return {"candidates": sorted(records, key=lambda record: record["ms"])}


if __name__ == "__main__":
    json.dump(benchmark_norms(candidates=CANDIDATES if "launches" in sys.argv else ()), sys.stdout, indent=1)
