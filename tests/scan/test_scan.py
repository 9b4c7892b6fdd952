"""The selective scan and SS2D against recurrences and pixel loops written out here."""

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mtmamba.benchmarks.scan import benchmark_scan
from mtmamba.scan import available_backends, registry, selective_scan, ss2d
from mtmamba.scan.backends import torch as chunked
from triton_runs import gpu

SRC = Path(__file__).parents[2] / "src"
NAMES = ("u", "delta", "A", "B", "C", "D", "delta_bias")
SIZES = [  # b, g, d, l, n
    (1, 1, 1, 1, 1),
    (2, 3, 5, 2, 4),
    (1, 4, 3, 7, 16),
    (2, 2, 4, 17, 1),
    (1, 1, 40, 100, 16),
    (3, 4, 24, 96, 2),
]


@contextmanager
def small_blocks() -> Iterator[None]:
    """Cut even tiny problems into many blocks of uneven width."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunked, "CPU_BLOCK", 200)
        patch.setattr(chunked, "MIN_CHANNELS", 3)
        yield


def make_inputs(b: int, g: int, d: int, l: int, n: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:  # noqa: E741
    generator = torch.Generator().manual_seed(b + 10 * g + 100 * d + 1000 * l + n)
    shapes = [(b, g * d, l), (b, g * d, l), (g * d, n), (b, g, n, l), (b, g, n, l), (g * d,), (g * d,)]
    u, delta, A, B, C, D, bias = (torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes)
    return [x.to(dtype).requires_grad_() for x in (u, delta, -A.exp(), B, C, D, bias)]


def numpy_scan(u, delta, A, B, C, D, delta_bias) -> np.ndarray:
    """One channel and one step at a time."""
    batch, channels, length = u.shape
    d = channels // B.shape[1]
    y = np.zeros(u.shape)
    for b in range(batch):
        for c in range(channels):
            h = np.zeros(A.shape[1])
            for t in range(length):
                step = np.logaddexp(0, delta[b, c, t] + delta_bias[c])
                h = np.exp(step * A[c]) * h + step * B[b, c // d, :, t] * u[b, c, t]
                y[b, c, t] = C[b, c // d, :, t] @ h + D[c] * u[b, c, t]
    return y


def run(inputs: list[Tensor], backend: str) -> list[Tensor]:
    """Output and the gradients of all inputs for a fixed cotangent."""
    y = selective_scan(*inputs, backend=backend)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(y)
    return [y, *torch.autograd.grad(y, inputs, dy)]


def assert_same(results: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    for name, x, reference in zip(("y", *NAMES), results, expected, strict=True):
        error = (x - reference).norm() / reference.norm().clamp_min(1e-30)
        assert error <= tolerance, f"{name}: relative error {error:.1e}"


@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize("size", SIZES)
def test_equals_numpy_loop(size: tuple[int, ...], backend: str) -> None:
    inputs = make_inputs(*size)
    expected = numpy_scan(*(x.detach().numpy() for x in inputs))
    np.testing.assert_allclose(selective_scan(*inputs, backend=backend).detach(), expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("size", SIZES)
def test_gradients_equal_autograd_of_reference(size: tuple[int, ...]) -> None:
    inputs = make_inputs(*size)
    assert_same(run(inputs, "torch"), run(inputs, "reference"), 1e-12)


@settings(max_examples=40, deadline=None)
@given(
    b=st.integers(1, 3), g=st.integers(1, 4), d=st.integers(1, 9), length=st.integers(1, 40), n=st.sampled_from([1, 3])
)
def test_any_shape_in_many_blocks(b: int, g: int, d: int, length: int, n: int) -> None:
    inputs = make_inputs(b, g, d, length, n)
    with small_blocks():
        results = run(inputs, "torch")
    assert_same(results, run(inputs, "reference"), 1e-12)


def test_strided_inputs() -> None:
    """Inputs that are views, channels last or a part of something wider, change nothing."""
    inputs = make_inputs(2, 3, 5, 30, 4)
    views = [torch.stack([x, x], dim=-1).transpose(0, -2).contiguous().transpose(0, -2)[..., 0] for x in inputs]
    assert not any(x.is_contiguous() for x in views)
    views = [x.detach().requires_grad_() for x in views]
    assert_same(run(views, "torch"), run(inputs, "reference"), 1e-12)


def test_gradcheck() -> None:
    inputs = make_inputs(2, 2, 4, 5, 2)
    with small_blocks():
        assert torch.autograd.gradcheck(lambda *x: selective_scan(*x, backend="torch"), inputs)


@pytest.mark.parametrize("t", [0, 3, 4, 15, 16, 19])
def test_impulse_crosses_chunks(t: int) -> None:
    """With A = 0 nothing decays: an impulse at step t appears at t and at every later step, in every chunk."""
    zeros, ones = torch.zeros(1, 1, 20), torch.ones(1, 1, 1, 20)
    u = zeros.clone()
    u[..., t] = 1
    delta = torch.full((1, 1, 20), float(np.log(np.expm1(1.0))))  # softplus gives 1
    y = selective_scan(u, delta, torch.zeros(1, 1), ones, ones, torch.zeros(1), torch.zeros(1), backend="torch")
    torch.testing.assert_close(y[0, 0], (torch.arange(20) >= t).float())


@pytest.mark.parametrize("scale", [1e-4, 30.0, 1e3])
def test_extreme_time_steps_stay_finite(scale: float) -> None:
    """Decays that underflow to 0, or hardly decay, give neither NaN nor infinity and the reference's values."""
    inputs = make_inputs(1, 2, 4, 50, 4, torch.float32)
    with torch.no_grad():
        inputs[1].mul_(scale)
    results = run(inputs, "torch")
    assert all(x.isfinite().all() for x in results)
    assert_same(results, run([x.detach().double().requires_grad_() for x in inputs], "reference"), 1e-5)


def test_float32_is_close_to_float64() -> None:
    inputs = make_inputs(2, 4, 24, 384, 16, torch.float32)
    assert_same(run(inputs, "torch"), run([x.detach().double().requires_grad_() for x in inputs], "torch"), 1e-5)


@pytest.mark.parametrize("size", [*SIZES, (1, 2, 24, 384, 16)])
def test_compiled_scan_equals_reference(size: tuple[int, ...]) -> None:
    inputs = make_inputs(*size, torch.float32)
    views = [torch.stack([x, x], dim=-1)[..., 0].detach().requires_grad_() for x in inputs]  # not contiguous
    wide = [x.detach().double().requires_grad_() for x in inputs]
    assert_same(run(views, "numba"), run(wide, "reference"), 2e-6)


@pytest.mark.parametrize("scale", [1e-4, 30.0, 1e3])
def test_compiled_scan_with_extreme_time_steps(scale: float) -> None:
    inputs = make_inputs(1, 2, 4, 50, 4, torch.float32)
    with torch.no_grad():
        inputs[1].mul_(scale)
    wide = [x.detach().double().requires_grad_() for x in inputs]
    assert_same(run(inputs, "numba"), run(wide, "reference"), 1e-5)


def test_compiled_scan_is_the_same_on_any_number_of_threads() -> None:
    inputs, threads = make_inputs(3, 2, 5, 40, 4, torch.float32), torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 8):  # 8: more threads than rows
            torch.set_num_threads(count)
            results.append(run(inputs, "numba"))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(x, y) for other in results[1:] for x, y in zip(other, results[0], strict=True))


def test_mixed_precision_and_autocast() -> None:
    """A bfloat16 signal is scanned in float32, also under autocast; gradients have their inputs' dtypes."""
    inputs = make_inputs(1, 2, 3, 30, 4, torch.float32)
    inputs[:2] = [x.detach().bfloat16().requires_grad_() for x in inputs[:2]]
    wide = [x.detach().float().requires_grad_() for x in inputs]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        results, expected = run(inputs, "torch"), run(wide, "torch")
    assert [x.dtype for x in results] == [torch.bfloat16, *(x.dtype for x in inputs)]
    assert_same([x.float() for x in results], expected, 5e-3)
    assert_same(expected, run(wide, "torch"), 0)


@pytest.mark.parametrize("backend", ["torch", "numba"])
@pytest.mark.parametrize("power", [1, 2])  # of a sum, whose gradient is constant; of a gradient with a graph of its own
def test_second_derivative_is_refused(backend: str, power: int) -> None:
    inputs = make_inputs(1, 1, 1, 4, 1, torch.float32)
    y = selective_scan(*inputs, backend=backend)
    (du,) = torch.autograd.grad((y**power).sum(), inputs[0], create_graph=True)
    with pytest.raises(RuntimeError, match=r"first derivatives of the scan .*: use backend=reference"):
        du.sum().backward()


@pytest.mark.parametrize("backend", ["torch", "numba"])
def test_second_derivative_of_four_directions_is_refused(backend: str) -> None:
    inputs = [x.float().requires_grad_() for x in make_ss2d(1, 1, 2, 2, 4, 1, 1)]
    (dx,) = torch.autograd.grad((ss2d(*inputs, backend=backend) ** 2).sum(), inputs[0], create_graph=True)
    with pytest.raises(RuntimeError, match=r"first derivatives of the scan .*: use backend=reference"):
        dx.sum().backward()


def test_second_derivative_of_the_reference() -> None:
    inputs = make_inputs(1, 1, 2, 4, 2)
    assert torch.autograd.gradgradcheck(lambda *x: selective_scan(*x, backend="reference"), inputs)


@pytest.mark.parametrize(
    ("name", "wrong", "error", "message"),
    [
        ("u", (2, 6), ValueError, r"Expected u of shape \(b, g\*d, l\)"),
        ("u", (2, 7, 5), ValueError, r"Expected u with a multiple of B's g = 3 channels, got 7"),
        ("delta", (2, 6, 4), ValueError, r"Expected delta of shape \(b, g\*d, l\) = \(2, 6, 5\), got \(2, 6, 4\)"),
        ("A", (6, 3), ValueError, r"Expected A of shape \(g\*d, n\) = \(6, 4\)"),
        ("B", (2, 3, 0, 5), ValueError, r"Expected B of shape \(b, g, n, l\), no axis empty"),
        ("C", (2, 3, 4, 1), ValueError, r"Expected C of shape"),
        ("D", (3,), ValueError, r"Expected D of shape \(g\*d\) = \(6,\), got \(3,\)"),
        ("delta_bias", (6, 1), ValueError, r"Expected delta_bias of shape"),
        ("C", torch.int64, TypeError, r"Expected C of a floating-point dtype, got torch.int64"),
        ("D", "meta", ValueError, r"Expected D on u's device cpu, got meta"),
    ],
)
def test_wrong_arguments_are_named(name: str, wrong: object, error: type[Exception], message: str) -> None:
    inputs = dict(zip(NAMES, make_inputs(2, 3, 2, 5, 4), strict=True))
    inputs[name] = torch.zeros(wrong) if isinstance(wrong, tuple) else inputs[name].detach().to(wrong)
    with pytest.raises(error, match=message):
        selective_scan(**inputs)


def test_backend_choice(caplog: pytest.LogCaptureFixture) -> None:
    registry.choose.cache_clear()
    inputs = make_inputs(1, 1, 2, 3, 1)
    with caplog.at_level(logging.INFO, logger="mtmamba.scan"):
        for dtype in (torch.float32, torch.float64, torch.float32):
            selective_scan(*(x.to(dtype) for x in inputs))
    assert [record.getMessage() for record in caplog.records] == [
        f"Selective scan on cpu: backend {chosen} (not cuda: it needs CUDA tensors, got cpu; "
        f"not mamba_ssm: it needs CUDA tensors, got cpu{skipped})."
        for chosen, skipped in (("numba", ""), ("torch", "; not numba: it has no float64 code"))
    ]
    assert available_backends("cpu") == {
        "cuda": "it needs CUDA tensors, got cpu",
        "mamba_ssm": "it needs CUDA tensors, got cpu",
        "numba": None,
        "torch": None,
        "reference": None,
    }
    with pytest.raises(RuntimeError, match=r"got 'mamba_ssm': it needs CUDA tensors, got cpu.*auto, torch, reference"):
        selective_scan(*inputs, backend="mamba_ssm")
    with pytest.raises(ValueError, match="one of auto, cuda, mamba_ssm, numba, torch, reference, got 'fast'"):
        selective_scan(*inputs, backend="fast")


@gpu
@pytest.mark.parametrize("backend", ["mamba_ssm", "torch"])
@pytest.mark.parametrize("size", [(2, 4, 24, 100, 16), (1, 3, 5, 2049, 4)])
def test_cuda_parity(size: tuple[int, ...], backend: str) -> None:
    reason = available_backends("cuda")[backend]
    if reason is not None:
        pytest.skip(reason)
    inputs = make_inputs(*size, torch.float32)
    on_cuda = [x.detach().cuda().requires_grad_() for x in inputs]
    expected = run([x.detach().double().requires_grad_() for x in inputs], "torch")
    assert_same([x.cpu() for x in run(on_cuda, backend)], expected, 2e-5)


# --- SS2D ---------------------------------------------------------------------------------------------------------


def make_ss2d(tasks: int, b: int, h: int, w: int, e: int, n: int, r: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [
        (tasks, b, h, w, e),
        (tasks, 4, r + 2 * n, e),
        (tasks, 4, e, r),
        (tasks, 4, e),
        (tasks, 4, e, n),
        (tasks, 4, e),
    ]
    return [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes]


def pixel_order(direction: int, h: int, w: int) -> list[tuple[int, int]]:
    rows = [(i, j) for i in range(h) for j in range(w)]
    columns = [(i, j) for j in range(w) for i in range(h)]
    return {0: rows, 1: columns, 2: rows[::-1], 3: columns[::-1]}[direction]


def naive_ss2d(x, x_proj, dt_weight, dt_bias, A_log, D, source) -> np.ndarray:
    """One task, image and direction at a time, pixel by pixel."""
    tasks, batch, h, w, e = x.shape
    n, r = A_log.shape[-1], dt_weight.shape[-1]
    y = np.zeros(x.shape)
    for task in range(tasks):
        for b in range(batch):
            for k in range(4):
                state = np.zeros((e, n))
                for i, j in pixel_order(k, h, w):
                    low_rank, B, C = np.split(x_proj[task, k] @ source[task, b, i, j], [r, r + n])
                    step = np.logaddexp(0, dt_weight[task, k] @ low_rank + dt_bias[task, k])[:, None]
                    signal = x[task, b, i, j]
                    state = np.exp(-step * np.exp(A_log[task, k])) * state + step * B * signal[:, None]
                    y[task, b, i, j] += state @ C + D[task, k] * signal
    return y


@pytest.mark.parametrize("with_source", [False, True])
@pytest.mark.parametrize("size", [(2, 2, 3, 5, 4, 3, 2), (1, 1, 1, 4, 2, 1, 1), (3, 1, 4, 2, 5, 2, 1)])
def test_ss2d_equals_pixel_loop(size: tuple[int, ...], with_source: bool) -> None:
    inputs = make_ss2d(*size)
    source = make_ss2d(*size, seed=1)[0] if with_source else None
    arrays = [x.detach().numpy() for x in (*inputs, inputs[0] if source is None else source)]
    y = ss2d(*inputs, source=source)
    np.testing.assert_allclose(y.detach(), naive_ss2d(*arrays), rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("with_source", [False, True])
def test_ss2d_gradcheck(with_source: bool) -> None:
    inputs = make_ss2d(2, 1, 2, 3, 2, 2, 1)
    if with_source:
        inputs.append(make_ss2d(2, 1, 2, 3, 2, 2, 1, seed=1)[0])
    assert torch.autograd.gradcheck(lambda *x: ss2d(*x[:6], source=x[6] if with_source else None), inputs)


@pytest.mark.parametrize("threads", [1, 5])
@pytest.mark.parametrize("size", [(2, 2, 3, 5, 4, 3, 2), (1, 1, 1, 4, 2, 1, 1), (1, 1, 9, 12, 24, 16, 2)])
def test_compiled_ss2d_equals_float64(size: tuple[int, ...], threads: int) -> None:
    """Output and gradients, the source's too; with more threads than maps, directions go to threads of their own."""
    wide = [*make_ss2d(*size), make_ss2d(*size, seed=1)[0]]
    single = [x.detach().float().requires_grad_() for x in wide]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        y, expected = (ss2d(*x[:6], source=x[6], backend=name) for x, name in ((single, "numba"), (wide, "torch")))
        dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        gradients = torch.autograd.grad(y, single, dy.float()), torch.autograd.grad(expected, wide, dy)
    finally:
        torch.set_num_threads(before)
    for found, reference in ((y, expected), *zip(*gradients, strict=True)):
        assert (found - reference).norm() <= 5e-6 * reference.norm()


def test_compiled_ss2d_trains_after_a_validation_without_gradients() -> None:
    inputs = [x.detach().float().requires_grad_() for x in make_ss2d(1, 1, 3, 7, 4, 2, 2)]
    with torch.inference_mode():  # as Lightning validates
        ss2d(*inputs, backend="numba")
    ss2d(*inputs, backend="numba").sum().backward()
    assert all(x.grad is not None for x in inputs)


def test_ss2d_without_states_sums_the_skips() -> None:
    x, x_proj, dt_weight, dt_bias, A_log, D = make_ss2d(2, 2, 3, 4, 5, 3, 2)
    with torch.no_grad():
        x_proj[:, :, 2:5] = 0  # B
    y = ss2d(x, x_proj, dt_weight, dt_bias, A_log, D)
    torch.testing.assert_close(y, D.sum(1)[:, None, None, None] * x)


def test_ss2d_keeps_dtype_and_scans_in_float32_under_autocast() -> None:
    inputs = make_ss2d(2, 1, 4, 6, 8, 4, 2)
    expected = ss2d(*inputs)
    single = [x.detach().float() for x in inputs]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = ss2d(single[0].bfloat16(), *single[1:])
    assert y.dtype == torch.bfloat16
    assert (y - expected).norm() / expected.norm() < 0.03
    assert ss2d(*single).dtype == torch.float32


def test_ss2d_names_wrong_arguments() -> None:
    inputs = make_ss2d(2, 1, 2, 3, 4, 3, 2)
    with pytest.raises(ValueError, match=r"Expected x_proj of shape \(T, 4, r \+ 2n, e\) = \(2, 4, 8, 4\), got"):
        ss2d(inputs[0], inputs[1][:, :, :-1], *inputs[2:])
    with pytest.raises(ValueError, match=r"Expected source of shape"):
        ss2d(*inputs, source=inputs[0][:1])
    with pytest.raises(ValueError, match=r"Expected x of shape \(T, B, H, W, e\)"):
        ss2d(inputs[0][0], *inputs[1:])


# --- cost ---------------------------------------------------------------------------------------------------------


def test_benchmark_reports_every_backend() -> None:
    results = benchmark_scan(length=30, channels=8, d_state=2, backends=("torch", "reference"), repeats=1)
    assert [result["backend"] for result in results] == ["torch", "reference"]
    assert all(result["forward_s"] > 0 and 0 < result["peak_extra_mib"] < 10 for result in results)


MEASURE = """
import torch
from mtmamba.benchmarks.scan import scan_inputs
from mtmamba.scan import selective_scan

def resident(key):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key)) / 1024

def step(inputs, dy):
    y = selective_scan(*inputs, backend="torch")
    return y, torch.autograd.grad(y, inputs, dy)

def problem(channels):
    inputs = scan_inputs(1, 4, channels, 1024, 16, "cpu")
    return inputs, torch.randn_like(inputs[0])

step(*problem(8))  # threads and libraries
inputs, dy = problem(768)
before = resident("VmRSS")
y, grads = step(inputs, dy)
print(resident("VmHWM") - before - sum(x.nbytes for x in (y, *grads)) / 2**20)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's resident memory")
def test_memory_promise() -> None:
    """One image, 4 directions x 768 channels, l = 1024, n = 16: at most 250 MiB beyond inputs, output, gradients."""
    environment = os.environ | {"PYTHONPATH": str(SRC)}
    command = [sys.executable, "-c", MEASURE]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert float(done.stdout) <= 250
