"""The low-rank time steps and their gradients, the kernels in Triton's interpreter, against products in float64."""

import pytest
import torch
from torch import Tensor

from mtmamba.benchmarks.timing import tf32
from mtmamba.kernels import time_steps
from triton_runs import DEVICE, INTERPRETED, compile_for_hopper, compiler, gpu, kernel, run_in_the_interpreter

pytestmark = pytest.mark.usefixtures("loop_bounds_for_the_interpreter")
PRECISION = {torch.float32: 1e-5, torch.float16: 2e-3}
if not INTERPRETED:  # which multiplies the bits of bfloat16 as integers
    PRECISION[torch.bfloat16] = 1.6e-2
BESIDE = 5
"""Channels of the map that holds the ranks, after these."""
SHAPES = [(1, 1, 1, 8, 8), (2, 4, 70, 40, 8), (3, 2, 33, 300, 24), (1, 4, 130, 520, 48)]
"""T, K, N, e and r."""


def inputs(tasks: int, directions: int, rows: int, e: int, r: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """dt, the weight, and the ranks where they lie in a wider map."""
    generator = torch.Generator().manual_seed(rows)
    shapes = ((tasks, directions, rows, e), (tasks, directions, e, r), (tasks, rows, directions * r + BESIDE))
    dt, weight, low = (torch.randn(shape, generator=generator).to(DEVICE, dtype) for shape in shapes)
    return dt, weight, ranks(low, directions)


def ranks(wide: Tensor, directions: int) -> Tensor:
    return wide[..., :-BESIDE].unflatten(-1, (directions, -1)).transpose(1, 2)


def assert_gradients(function, dt: Tensor, weight: Tensor, low: Tensor, precision: float) -> list[Tensor]:
    """Errors below ``precision`` of the largest value of float64's, and nothing written beside."""
    tasks, directions, rows, r = low.shape
    wide = torch.full((tasks, rows, directions * r + BESIDE), 7.0, device=dt.device, dtype=dt.dtype)
    dlow = ranks(wide, directions)
    dweight = function(dt, weight, low, dlow)
    assert (wide[..., -BESIDE:] == 7).all()
    exact = dt.double() @ weight.double(), dt.double().mT @ low.double()
    for result, expected in zip((dlow, dweight), exact, strict=True):
        torch.testing.assert_close(result.double(), expected, rtol=0, atol=precision * expected.abs().max().item())
    return [dlow, dweight]


def test_in_the_interpreter():
    run_in_the_interpreter(__file__)


@pytest.mark.parametrize("shape", SHAPES)
def test_products_where_there_is_no_kernel(shape):
    dt, weight, low = inputs(*shape, torch.float32)
    torch.testing.assert_close(time_steps.widen(low, weight), low.contiguous() @ weight.mT)
    assert_gradients(time_steps.widen_backward, dt, weight, low, 1e-5)


@kernel
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", PRECISION)
@pytest.mark.parametrize(("rows", "chunk"), [(None, 128), (32, 64)])
def test_kernel_widens(shape, dtype, rows, chunk):
    from mtmamba.kernels import time_steps_triton as kernels

    _, weight, low = inputs(*shape, dtype)
    expected = low.double() @ weight.double().mT
    result = kernels.widen(low, weight, rows, chunk).double()
    torch.testing.assert_close(result, expected, rtol=0, atol=PRECISION[dtype] * expected.abs().max().item())


@kernel
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", PRECISION)
def test_kernel_gradients(shape, dtype):
    from mtmamba.kernels import time_steps_triton as kernels

    assert_gradients(kernels.gradients, *inputs(*shape, dtype), PRECISION[dtype])


@kernel
@pytest.mark.parametrize(("rows", "chunk", "chunks", "programs"), [(16, 64, 1, 1), (32, 128, 3, 9), (64, 128, 2, 264)])
def test_kernel_gradients_do_not_depend_on_how_they_are_shared(rows, chunk, chunks, programs):
    from mtmamba.kernels import time_steps_triton as kernels

    launch = kernels.Launch(rows, chunk, chunks, warps=8, stages=2, programs=programs)
    dt, weight, low = (t.sign() for t in inputs(2, 2, 150, 260, 24, torch.float16))  # sums of few ones are exact

    def shared(*tensors: Tensor) -> Tensor:
        return kernels.gradients(*tensors, launch)

    assert_gradients(shared, dt, weight, low, 0)


@gpu
@pytest.mark.parametrize("shape", [(5, 4, 3 * 1009, 384, 16), (4, 4, 999, 768, 24), (1, 4, 2016, 1536, 48)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@tf32(False)
def test_on_a_gpu(shape, dtype):
    tensors = inputs(*shape, dtype)
    runs = [assert_gradients(time_steps.widen_backward, *tensors, PRECISION[dtype]) for _ in range(2)]
    assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True))
    _, weight, low = tensors
    expected = low.double() @ weight.double().mT
    torch.testing.assert_close(time_steps.widen(low, weight).double(), expected, rtol=PRECISION[dtype], atol=1e-4)


@pytest.mark.slow
@compiler
@pytest.mark.parametrize(("e", "r"), [(192, 8), (384, 16), (768, 24), (1536, 48)])
def test_kernel_compiles_for_hopper_without_spills(e, r, tmp_path, monkeypatch):
    triton = pytest.importorskip("triton")
    from mtmamba.kernels import time_steps_triton as kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    rows, chunk, chunks, warps, stages, _ = kernels.DEFAULT
    chunks = min(chunks, triton.cdiv(e, chunk))
    constants = {"R": r, "RANKS": max(16, triton.next_power_of_2(r))}
    constants |= {"ROWS": rows, "CHUNK": chunk, "CHUNKS": chunks, "STAGES": stages}
    types = {f"{name}_ptr": "*bf16" for name in ("dt", "weight", "low", "dlow")} | {"partial_ptr": "*fp32"}
    names = [p.name for p in kernels._gradients.params]
    aligned = [name for name in names if name not in constants and name != "tasks"]
    compiled = compile_for_hopper(kernels._gradients, types, constants, aligned, num_warps=warps)
    assert compiled.stack + compiled.local == 0
    assert "wgmma" in compiled.ptx  # the matrix unit reads tiles where the copies put them
    assert "cp.async.cg" in compiled.ptx
