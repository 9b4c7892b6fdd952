"""Time window attention in a Swin-L's blocks: ``python -m mtmamba.benchmarks.kernels.window_attention`` on a GPU."""

import json
import sys
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mtmamba.benchmarks.timing import kernel_ms
from mtmamba.kernels import window_attention_backward_triton as backward_kernels
from mtmamba.kernels import window_attention_triton as kernels
from mtmamba.kernels.window_attention import torch_window_attention, window_attention
from mtmamba.kernels.window_attention_triton import Plan
from mtmamba.models.encoders.swin_blocks import SwinBlock

STAGES = ((112, 144, 6), (56, 72, 12), (28, 36, 24), (14, 18, 48))
"""Height, width and heads of each map of a Swin-L, from images of 448x576."""
HEAD_DIM, WINDOW, SHIFT = 32, 12, 6

CANDIDATES: Mapping[str, tuple[Plan, ...]] = {
    "forward": (
        kernels.FORWARD,
        Plan(64, 64, 4, 2, 1056),
        Plan(64, 128, 4, 3, 1056),
        *(Plan(64, 128, 4, 2, programs) for programs in (528, 2112)),
    ),
    "query_gradients": (
        backward_kernels.QUERY_GRADIENTS,
        Plan(64, 64, 4, 2, 1056),
        Plan(64, 32, 4, 3, 1056),
        *(Plan(64, 32, 4, 2, programs) for programs in (528, 2112)),
    ),
    "key_gradients": (
        backward_kernels.KEY_GRADIENTS,
        Plan(64, 32, 4, 2, 1056),
        Plan(64, 64, 4, 3, 1056),
        *(Plan(64, 64, 4, 2, programs) for programs in (528, 2112)),
    ),
}
"""Plans of the forward pass, and of either kernel of a backward pass whose other one has the plan now set."""


def benchmark_window_attention(
    batch: int = 8, candidates: Mapping[str, Iterable[Plan]] = CANDIDATES
) -> list[dict[str, Any]]:
    """Time the operator with each plan, and a shifted block's attention with the operator and with PyTorch's.

    The operator is first compared with its plain form on a map of the third stage in float32, gradients included, and
    every plan with the plan now set in bfloat16.

    Returns:
        A record for each stage: ``forward``, ``query_gradients`` and ``key_gradients``: a record for each plan, the
        fastest first, of median milliseconds of the forward or of the whole backward pass in bfloat16. ``block_ms``:
        of attention with its linear layers under bfloat16 autocast, forward and forward with backward.

    Raises:
        AssertionError: a result is wrong.
    """
    height, width, heads = STAGES[2]  # whose height is padded
    _check_block(_block(heads), torch.randn(2, height, width, heads * HEAD_DIM, device="cuda"))
    records = []
    for height, width, heads in STAGES:
        shape = batch, height, width, heads * HEAD_DIM
        record: dict[str, Any] = {"device": torch.cuda.get_device_name(), "shape": shape}
        record |= {name: _time_plans(name, shape, heads, plans) for name, plans in candidates.items()}
        record["block_ms"] = _time_block(_block(heads), torch.randn(shape, device="cuda"))
        records.append(record)
    return records


def _block(heads: int) -> SwinBlock:
    block = SwinBlock(heads * HEAD_DIM, heads, WINDOW, SHIFT)
    torch.nn.init.normal_(block.attn.relative_position_bias_table)
    torch.nn.init.normal_(block.attn.qkv.bias)
    return block.cuda()


FORMS = {"operator": window_attention, "pytorch": torch_window_attention}


def _attend(block: SwinBlock, form: str, x: Tensor) -> Tensor:
    qkv, proj = block.attn.qkv, block.attn.proj
    table = block.attn.relative_position_bias_table
    return FORMS[form](x, qkv.weight, qkv.bias, proj.weight, proj.bias, table, WINDOW, SHIFT)


def _step(block: SwinBlock, form: str, x: Tensor, dy: Tensor) -> tuple[Tensor, ...]:
    y = _attend(block, form, x)
    return y, *torch.autograd.grad(y, (x, *block.attn.parameters()), dy.to(y.dtype))


def _check_block(block: SwinBlock, x: Tensor) -> None:
    """Compare the operator with its plain form in float32, relative to each result's largest value."""
    dy = torch.randn_like(x)
    x.requires_grad_()
    for result, expected in zip(*(_step(block, form, x, dy) for form in FORMS), strict=True):
        scale = expected.abs().max()
        torch.testing.assert_close(result / scale, expected / scale, rtol=0, atol=1e-4)


def _time_plans(name: str, shape: tuple[int, ...], heads: int, plans: Iterable[Plan]) -> list[dict[str, Any]]:
    *sides, channels = shape
    generator = torch.Generator("cuda").manual_seed(0)
    normal = partial(torch.randn, generator=generator, device="cuda")
    qkv, padding, dout = (normal(s).bfloat16() for s in ((*sides, 3 * channels), (3 * channels,), shape))
    table = normal((2 * WINDOW - 1) ** 2, heads)
    out, lse = kernels.forward(qkv, padding, table, WINDOW, SHIFT)

    def run(plan: Plan | None) -> tuple[Tensor, ...]:
        if name == "forward":
            return kernels.forward(qkv, padding, table, WINDOW, SHIFT, plan)
        chosen = {f"{name.split('_')[0]}_plan": plan} if plan else {}
        return backward_kernels.backward(dout, qkv, padding, table, out, lse, WINDOW, SHIFT, **chosen)

    expected, records = run(None), []
    for plan in plans:
        for result, wanted in zip(run(plan), expected, strict=True):
            scale = wanted.abs().max()
            torch.testing.assert_close(result / scale, wanted / scale, rtol=0, atol=1e-2)
        records.append({**plan._asdict(), "ms": kernel_ms(partial(run, plan))})
    return sorted(records, key=lambda record: record["ms"])


def _time_block(block: SwinBlock, x: Tensor) -> dict[str, dict[str, float]]:
    dy = torch.randn_like(x)
    x.requires_grad_()
    times = {}
    for name in FORMS:
        with torch.autocast("cuda", torch.bfloat16):
            with torch.no_grad():
                forward = kernel_ms(partial(_attend, block, name, x))
            times[name] = {"forward": forward, "forward_backward": kernel_ms(partial(_step, block, name, x, dy))}
    return times


if __name__ == "__main__":
    json.dump(benchmark_window_attention(), sys.stdout, indent=1)
