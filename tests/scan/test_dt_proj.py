"""The low-rank time steps and their gradients, the kernels in Triton's interpreter, against products in float64."""

from functools import partial
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from mtmamba.benchmarks.timing import tf32
from mtmamba.scan import dt_proj
from triton_runs import DEVICE, INTERPRETED, compile_for_hopper, compiler, gpu, kernel

PRECISION = {torch.float32: 1e-5, torch.float16: 2e-3}
if not INTERPRETED:  # which multiplies the bits of bfloat16 as integers
    PRECISION[torch.bfloat16] = 1.6e-2
BESIDE = 5
"""Channels of the map that holds the ranks, after these."""
SHAPES = [(1, 1, 1, 8, 8), (2, 4, 70, 40, 8), (3, 2, 33, 300, 24), (1, 1, 130, 520, 48)]
"""T, K, S, e and r."""


class Inputs(NamedTuple):
    """Of two images: a gradient of time steps, and what they are projected from."""

    dt: Tensor
    weight: Tensor
    low: Tensor
    pixels: Tensor


def inputs(tasks: int, directions: int, steps: int, e: int, r: int, dtype: torch.dtype, images: int = 2) -> Inputs:
    """Maps of seven pixels more than steps, of which each direction visits others; the last step has no pixel."""
    generator = torch.Generator().manual_seed(steps)
    length = steps + 7
    shapes = (
        (tasks, directions, images, steps, e),
        (tasks, directions, e, r),
        (tasks, images, length, directions * r + BESIDE),
    )
    dt, weight, wide = (torch.randn(shape, generator=generator).to(DEVICE, dtype) for shape in shapes)
    order = torch.stack([torch.randperm(length, generator=generator) for _ in range(directions)]).to(torch.int32)
    order[:, steps - 1] = -1
    dt[..., -1, :] = 0
    return Inputs(dt, weight, wide[..., :-BESIDE], order.to(DEVICE)[:, :steps])


def exact_ranks(low: Tensor, pixels: Tensor) -> Tensor:
    """Ranks of each step in float64, zero where there is no pixel: direction by direction."""
    parts = low.double().chunk(len(pixels), dim=-1)
    found = torch.stack([part[:, :, row.long()] for part, row in zip(parts, pixels, strict=True)], dim=1)
    return found * (pixels >= 0)[:, None, :, None]


def assert_widened(function, given: Inputs, precision: float, atol: float | None = None) -> None:
    """Errors below ``precision`` of the largest value of float64's, or of each beside ``atol``."""
    time_steps, ranks = (result.double() for result in function(given.low, given.weight, given.pixels))
    expected = exact_ranks(given.low, given.pixels)
    there = given.pixels >= 0
    assert torch.equal(ranks * there[:, None, :, None], expected)
    product = expected @ given.weight.double().mT[:, :, None]
    rtol, atol = (0, precision * product.abs().max().item()) if atol is None else (precision, atol)
    torch.testing.assert_close(time_steps * there[:, None, :, None], product, rtol=rtol, atol=atol)


def assert_gradients(function, given: Inputs, precision: float) -> list[Tensor]:
    """Errors below ``precision`` of the largest value of float64's; the weight's gradient is added to what there is."""
    dt, weight, low, pixels = given
    ranks = exact_ranks(low, pixels)
    dweight = torch.ones(weight.shape, device=dt.device)
    parts = function(dt, weight, ranks.to(dt.dtype), dweight)
    results = [parts.double().sum(0), dweight.double() - 1]
    exact = dt.double() @ weight.double()[:, :, None], (dt.double().mT @ ranks).sum(2)
    for result, expected in zip(results, exact, strict=True):
        torch.testing.assert_close(result, expected, rtol=0, atol=precision * expected.abs().max().item())
    return results


@pytest.mark.parametrize("shape", SHAPES)
def test_products_where_there_is_no_kernel(shape):
    given = inputs(*shape, torch.float32)
    assert_widened(dt_proj.widen, given, 1.3e-6, atol=1e-5)
    assert_gradients(dt_proj.widen_backward, given, 1e-5)


def test_the_identity_takes_the_ranks_as_time_steps():
    given = inputs(2, 1, 9, 8, 8, torch.float32)
    dt, ranks = dt_proj.widen(given.low, None, given.pixels)
    assert dt is ranks
    assert torch.equal(dt[0, 0, 1, :8].double(), exact_ranks(given.low, given.pixels)[0, 0, 1, :8])
    assert torch.equal(dt_proj.widen_backward(dt, None, ranks, torch.zeros(0)), dt[None])


@kernel
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", PRECISION)
@pytest.mark.parametrize(("rows", "chunk"), [(None, 128), (32, 64)])
def test_kernel_widens(shape, dtype, rows, chunk):
    from mtmamba.scan import dt_proj_triton as kernels

    assert_widened(partial(kernels.widen, rows=rows, chunk=chunk), inputs(*shape, dtype), PRECISION[dtype])


@kernel
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", PRECISION)
def test_kernel_gradients(shape, dtype):
    from mtmamba.scan import dt_proj_triton as kernels

    assert_gradients(kernels.gradients, inputs(*shape, dtype), PRECISION[dtype])


@kernel
@pytest.mark.parametrize(("rows", "chunk", "chunks", "programs"), [(16, 64, 1, 1), (32, 128, 3, 9), (64, 128, 2, 264)])
def test_kernel_gradients_do_not_depend_on_how_they_are_shared(rows, chunk, chunks, programs):
    from mtmamba.scan import dt_proj_triton as kernels

    launch = kernels.Launch(rows, chunk, chunks, warps=8, stages=2, programs=programs)
    given = inputs(2, 2, 75, 260, 24, torch.float16)
    ones = given._replace(dt=given.dt.sign(), weight=given.weight.sign(), low=given.low.sign())  # whose sums are exact
    assert_gradients(partial(kernels.gradients, launch=launch), ones, 0)


@gpu
@pytest.mark.parametrize("shape", [(5, 4, 1009, 384, 16), (4, 4, 333, 768, 24), (1, 4, 672, 1536, 48)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@tf32(False)
def test_on_a_gpu(shape, dtype):
    given = inputs(*shape, dtype, images=3)
    assert_widened(dt_proj.widen, given, PRECISION[dtype], atol=1e-4)
    runs = [assert_gradients(dt_proj.widen_backward, given, PRECISION[dtype]) for _ in range(2)]
    assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True))


@pytest.mark.slow
@compiler
@pytest.mark.parametrize(("e", "r"), [(192, 8), (384, 16), (768, 24), (1536, 48)])
def test_kernel_compiles_for_hopper_without_spills(e, r, tmp_path, monkeypatch):
    triton = pytest.importorskip("triton")
    from mtmamba.scan import dt_proj_triton as kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    rows, chunk, chunks, warps, stages, _ = kernels.DEFAULT
    chunks = min(chunks, triton.cdiv(e, chunk))
    constants = {"R": r, "RANKS": max(16, triton.next_power_of_2(r))}
    constants |= {"ROWS": rows, "CHUNK": chunk, "CHUNKS": chunks, "STAGES": stages}
    types = {f"{name}_ptr": "*bf16" for name in ("dt", "weight", "ranks", "dranks")} | {"partial_ptr": "*fp32"}
    names = [p.name for p in kernels.gradients_kernel.params]
    aligned = [name for name in names if name not in constants]
    compiled = compile_for_hopper(kernels.gradients_kernel, types, constants, aligned, num_warps=warps)
    assert compiled.stack + compiled.local == 0
    assert "wgmma" in compiled.ptx  # the matrix unit reads tiles where the copies put them
    assert "cp.async.cg" in compiled.ptx
