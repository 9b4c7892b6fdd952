"""The fused kernels against the written-out recurrence: their own source, run thread by thread on the CPU, or a GPU."""

import ctypes
import shutil
import subprocess
import weakref
from collections.abc import Callable
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mtmamba.benchmarks.cases import OPERATORS
from mtmamba.benchmarks.timing import peak_bytes, tf32
from mtmamba.kernels import nvrtc
from mtmamba.scan import cuda_operators, selective_scan, ss2d
from mtmamba.scan.backends.cuda import scan_cuda, ss2d_cuda
from mtmamba.scan.cuda_operators import Shape, Walk
from mtmamba.scan.dt_proj import widen
from mtmamba.scan.order import along, padded_order
from triton_runs import gpu

HERE = Path(__file__).parents[1]
FORWARD, BACKWARD = {torch.float32: 1e-5, torch.bfloat16: 1e-2}, {torch.float32: 1e-4, torch.bfloat16: 2e-2}
NAMES = ("x", "x_proj", "dt_weight", "dt_bias", "A_log", "D")


class Grid(ctypes.Structure):
    _fields_ = [(axis, ctypes.c_uint) for axis in "xyz"]


@pytest.fixture(scope="session")
def emulate(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., None]:
    """A launcher that runs a kernel on CPU tensors."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("needs a C++ compiler: apt install g++")
    folder = tmp_path_factory.mktemp("emulator")
    libraries: dict[tuple[str, ...], ctypes.CDLL] = {}

    def launch(
        source: str,
        name: str,
        options: tuple[str, ...],
        grid: tuple[int, int, int],
        threads: int,
        arguments: tuple[Any, ...],
    ) -> None:
        key = (name, *options)
        if key not in libraries:
            library, kernel = folder / f"{len(libraries)}.so", folder / f"{name}.cu"
            kernel.write_text(source, encoding="utf-8")
            own = [f'-DSOURCE="{kernel}"', f"-DNAME={name}"]
            command = [compiler, "-O1", "-w", "-shared", "-fPIC", *options, *own, str(HERE / "cuda_emulator.cpp")]
            subprocess.run([*command, "-o", str(library)], check=True)
            libraries[key] = ctypes.CDLL(str(library))
        values = [
            ctypes.c_int(x) if isinstance(x, int) else ctypes.c_void_p(None if x is None else x.data_ptr())
            for x in arguments
        ]
        pointers = (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))
        shared = 0 if name == "sum_of_steps" else ctypes.c_uint.in_dll(libraries[key], "shared_bytes").value
        libraries[key].run(pointers, Grid(*grid), ctypes.c_size_t(shared))

    return launch


@pytest.fixture
def emulated(emulate: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvrtc, "launch", emulate)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """Where the kernels run: in the emulator or on a GPU."""
    if request.param == "cpu":
        request.getfixturevalue("emulated")
    return str(request.param)


def make(
    tasks: int, batch: int, height: int, width: int, e: int, r: int = 3, n: int = 16, seed: int = 0
) -> tuple[Tensor, ...]:
    """Inputs of ss2d in float64, in its order; time steps about 0.02."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return (
        normal(tasks, batch, height, width, e),
        normal(tasks, 4, r + 2 * n, e) * e**-0.5,
        normal(tasks, 4, e, r) * r**-0.5,
        normal(tasks, 4, e) - 4,
        normal(tasks, 4, e, n) * 0.3 + torch.arange(1.0, n + 1, dtype=torch.float64).log(),
        normal(tasks, 4, e),
    )


def both(inputs: tuple[Tensor, ...], dtype: torch.dtype, source: Tensor | None = None) -> list[list[Tensor]]:
    """Output and gradients of the fused scan, and of the recurrence in float64 from the same rounded signal."""
    leaves = [x.to(dtype if i == 0 else torch.float32).requires_grad_() for i, x in enumerate(inputs)]
    wide = [x.detach().double().requires_grad_() for x in leaves]
    source = leaves[0] if source is None else source.to(dtype)
    y = ss2d_cuda(*leaves, source)
    expected = ss2d(*wide, source=wide[0] if source is leaves[0] else source.double(), backend="torch")
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y)
    return [[y, *torch.autograd.grad(y, leaves, dy)], [expected, *torch.autograd.grad(expected, wide, dy.double())]]


def assert_close(results: list[Tensor], expected: list[Tensor], dtype: torch.dtype) -> None:
    for i, (result, exact) in enumerate(zip(results, expected, strict=True)):
        error = ((result.double() - exact).norm() / exact.norm().clamp_min(1e-30)).item()
        assert error < (BACKWARD if i else FORWARD)[dtype], f"{('y', *NAMES)[i]}: {error:.2e}"


@pytest.mark.usefixtures("emulated")
@pytest.mark.parametrize(
    ("dtype", "forward", "backward"),
    [
        pytest.param(dtype, *shapes, marks=[pytest.mark.slow] * (dtype == torch.bfloat16 and i > 0))
        for dtype in (torch.float32, torch.bfloat16)
        for i, shapes in enumerate(zip_longest(cuda_operators.FORWARD, cuda_operators.BACKWARD, fillvalue=Shape(1, 4)))
    ],
)
def test_equals_the_recurrence(
    forward: Shape, backward: Shape, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_operators, "FORWARD", (forward,))
    monkeypatch.setattr(cuda_operators, "BACKWARD", (backward,))
    assert_close(*both(make(2, 1, 5, 9, 40), dtype), dtype)  # two saved states; a block that is not full


@pytest.mark.usefixtures("emulated")
@pytest.mark.parametrize("channels", [1, 2])
def test_no_thread_reads_what_another_has_yet_to_write(channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between barriers threads run in any order: from the last to the first, the results have the same bits."""
    monkeypatch.setattr(cuda_operators, "FORWARD", (Shape(channels, 4),))
    monkeypatch.setattr(cuda_operators, "BACKWARD", (Shape(channels, 4),))
    inputs = make(1, 1, 9, 11, 40)  # seven saved states
    in_order, _ = both(inputs, torch.float32)
    monkeypatch.setenv("EMULATOR_REVERSED", "1")
    assert all(torch.equal(a, b) for a, b in zip(both(inputs, torch.float32)[0], in_order, strict=True))


@pytest.mark.usefixtures("emulated")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_stretches_change_nothing(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight launches instead of two, the last with steps that have no pixel: the same bits but for sums over steps."""
    inputs = make(1, 2, 9, 23, 8)
    two, _ = both(inputs, dtype)
    monkeypatch.setattr(cuda_operators, "STRETCH_STEPS", 32)
    monkeypatch.setattr(cuda_operators, "STRETCH_BYTES", 1)
    walk = Walk(inputs[0].to(dtype), 4)
    assert [stretch.first for stretch in walk.stretches(backwards=True)] == [*range(224, -1, -32)]
    eight, expected = both(inputs, dtype)
    assert all(torch.equal(a, b) for a, b in zip(two[:3], eight[:3], strict=True))
    assert_close(eight, expected, dtype)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (5, 7), (8, 8), (13, 37)])
def test_order_of_steps(height: int, width: int) -> None:
    """As the reference walks; a direction and its reverse visit different pixels in the same half of their steps."""
    order = padded_order(height, width, 4, 64, torch.device("cpu"))
    pixels = torch.arange(height * width).view(height, width)
    for k, row in enumerate(order):
        assert torch.equal(row[row >= 0].long(), along(pixels, k))
    for half in order.view(4, 2, -1).unbind(1):
        for k in range(2):
            assert sorted(half[k::2][half[k::2] >= 0].tolist()) == pixels.flatten().tolist()


def test_a_backward_pass_holds_one_stretch_of_time_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of eight: when the next is computed, neither its time steps and ranks nor the gradients' shares are left."""
    x = torch.zeros(1, 1, 64, 64, 64, dtype=torch.bfloat16)
    projected, states = torch.zeros(1, 1, 4096, 4 * 40, dtype=x.dtype), torch.zeros(1, 4, 1, 128, 64, 16, dtype=x.dtype)
    A, vector, weight = -torch.ones(1, 4, 64, 16), torch.zeros(1, 4, 64), torch.zeros(1, 4, 64, 8, dtype=x.dtype)
    held: list[weakref.ref[Tensor]] = []
    shapes: list[tuple[int, ...]] = []

    def widened(*arguments: Any) -> tuple[Tensor, Tensor]:
        assert all(tensor() is None for tensor in held)
        dt, ranks = widen(*arguments)
        held.extend(map(weakref.ref, (dt, ranks)))
        shapes.append(tuple(dt.shape))
        return dt, ranks

    def launched(source: str, name: str, *rest: Any) -> None:
        if name == "sum_of_steps":
            held.append(weakref.ref(rest[-1][0]))  # the parts of a gradient

    monkeypatch.setattr(cuda_operators, "widen", widened)
    monkeypatch.setattr(nvrtc, "launch", launched)
    monkeypatch.setattr(cuda_operators, "STRETCH_STEPS", 512)
    monkeypatch.setattr(cuda_operators, "STRETCH_BYTES", 1)
    cuda_operators.ss2d_backward(x, x, projected, A, weight, vector, vector, states)
    assert shapes == [(1, 4, 1, 512, 64)] * 8
    assert len(held) == 8 * 4


@pytest.mark.usefixtures("emulated")
@pytest.mark.parametrize(("size", "r", "n"), [((1, 1, 1, 1, 1), 1, 16), ((1, 2, 3, 2, 11), 9, 5)])
def test_channels_states_and_ranks_that_the_kernel_fills_up(size: tuple[int, ...], r: int, n: int) -> None:
    assert_close(*both(make(*size, r=r, n=n), torch.float32), torch.float32)


@pytest.mark.parametrize("bias", [-100.0, -16.0, 0.0, 50.0])
@tf32(False)
def test_time_steps_that_underflow_and_saturate(bias: float, device: str) -> None:
    x, x_proj, dt_weight, dt_bias, A_log, D = (t.to(device) for t in make(1, 1, 3, 4, 8))
    results, expected = both((x, x_proj, dt_weight, dt_bias + bias, A_log, D), torch.float32)
    assert all(result.isfinite().all() for result in results)
    assert_close(results[:2], expected[:2], torch.float32)


@tf32(False)
def test_another_map_steers_the_scan_and_layouts_do_not_matter(device: str) -> None:
    x, *parameters = (t.to(device) for t in make(1, 2, 3, 4, 8))
    source = make(1, 2, 3, 4, 8, seed=1)[0].to(device)
    turned = x.transpose(2, 3).contiguous().transpose(2, 3)
    results, expected = both((turned, *parameters), torch.float32, source)
    assert_close(results, expected, torch.float32)


@pytest.mark.usefixtures("emulated")
def test_autocast_leaves_a_float32_signal_its_precision() -> None:
    inputs = [x.float() for x in make(1, 2, 3, 4, 8)]
    with torch.autocast("cpu", torch.bfloat16):
        y = ss2d_cuda(*inputs, inputs[0])
    assert torch.equal(y, ss2d_cuda(*inputs, inputs[0]))


def test_maps_beyond_what_the_kernels_count_are_refused() -> None:
    length, d = 2**21, 512
    shapes = ((1, d, length), (1, d, length), (d, 16), (1, 1, 16, length), (1, 1, 16, length), (d,), (d,))
    with pytest.raises(ValueError, match="smaller images"):
        scan_cuda(*(torch.empty(shape, device="meta") for shape in shapes))


@pytest.mark.usefixtures("emulated")
def test_recomputed_in_the_backward_pass() -> None:
    inputs = [x.float().requires_grad_() for x in make(1, 1, 3, 4, 8)]

    def total(*tensors: Tensor) -> Tensor:
        return ss2d_cuda(*tensors, tensors[0]).square().sum()

    expected = torch.autograd.grad(total(*inputs), inputs)
    for a, b in zip(
        torch.autograd.grad(checkpoint(total, *inputs, use_reentrant=False), inputs), expected, strict=True
    ):
        assert torch.equal(a, b)


@pytest.mark.parametrize("power", [1, 2])
def test_second_derivative_is_refused(power: int, device: str) -> None:
    inputs = [x.float().to(device).requires_grad_() for x in make(1, 1, 3, 4, 8)]
    total = (ss2d_cuda(*inputs, inputs[0]) ** power).sum()
    for gradient in torch.autograd.grad(total, inputs, create_graph=True):
        with pytest.raises(RuntimeError, match=r"first derivatives of the scan .*: use backend=reference"):
            gradient.sum().backward(retain_graph=True)


@pytest.mark.usefixtures("emulated")
@pytest.mark.parametrize("n", [4, 20])
def test_plain_scan(n: int) -> None:
    """Two groups of three channels, forty steps, fewer and more states than the kernel's sixteen."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 6, 40), (2, 6, 40), (6, n), (2, 2, n, 40), (2, 2, n, 40), (6,), (6,))
    inputs = [torch.randn(shape, generator=generator) for shape in shapes]
    inputs[2] = -inputs[2].exp()
    wide = [x.double().requires_grad_() for x in inputs]
    leaves = [x.requires_grad_() for x in inputs]
    y, expected = scan_cuda(*leaves), selective_scan(*wide, backend="reference")
    dy = torch.randn(y.shape, generator=generator)
    results = [y, *torch.autograd.grad(y, leaves, dy)]
    assert_close(results[:7], [expected, *torch.autograd.grad(expected, wide, dy.double())][:7], torch.float32)


@pytest.mark.usefixtures("emulated")
def test_operators_keep_their_promises() -> None:
    """Their shapes and dtypes under tracing, and that they change no input, as PyTorch checks it."""
    x, x_proj, dt_weight, dt_bias, A_log, D = (t.float() for t in make(1, 1, 2, 3, 8, r=8))
    projected = (x.flatten(1, 3) @ x_proj.flatten(1, 2).mT).view(1, 1, 6, 160)
    leaves = [t.detach().requires_grad_() for t in (x, projected, -A_log.exp(), dt_weight, dt_bias, D)]
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(cuda_operators.ss2d_forward, (*leaves, 4, True), test_utils=tests)
    states = cuda_operators.ss2d_forward(*leaves, 4, True)[1]
    inputs = [t.detach() for t in (x, *leaves, states)]
    torch.library.opcheck(cuda_operators.ss2d_backward, inputs, test_utils=tests)


def test_older_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    assert "capability" in str(nvrtc.why_unavailable())


@pytest.mark.skipif(nvrtc.why_unavailable() is not None, reason=f"{nvrtc.why_unavailable()}")
@pytest.mark.parametrize("kernel", ["ss2d_forward", "ss2d_backward", "steps"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiles_for_a_gpu(kernel: str, dtype: torch.dtype) -> None:
    for shape in {"ss2d_forward": cuda_operators.FORWARD}.get(kernel, cuda_operators.BACKWARD):
        options = ("--gpu-architecture=sm_90", *cuda_operators.options(dtype, 4, shape, 32 // shape.channels))
        assert nvrtc.compile_source(cuda_operators.source(kernel), options).startswith(b"\x7fELF")
    with pytest.raises(RuntimeError, match="error: "):
        nvrtc.compile_source(f"{cuda_operators.source(kernel)} oops", options)


@gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [(1, 1, 1, 1, 8), (5, 2, 13, 37, 72), (4, 2, 28, 36, 96), (1, 1, 256, 256, 16)])
@tf32(False)
def test_on_a_gpu(size: tuple[int, ...], dtype: torch.dtype) -> None:
    inputs = tuple(x.cuda() for x in make(*size))
    results, expected = both(inputs, dtype)
    assert_close(results, expected, dtype)
    assert all(torch.equal(a, b) for a, b in zip(both(inputs, dtype)[0], results, strict=True))


@gpu
def test_a_core_of_the_largest_stage_takes_a_gibibyte() -> None:
    core = OPERATORS["ss2d"](1, 384, "cuda").cuda()
    x = torch.randn(1, 8, 112, 144, 384, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    dy, inputs = torch.randn_like(x), [x, *core.parameters()]

    def step() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            y = core(x)
        torch.autograd.grad(y, inputs, dy.to(y.dtype))

    step()
    held = x.nbytes + dy.nbytes
    assert held + peak_bytes(step, x.device) < 2**30


@gpu
def test_compiled_into_one_graph() -> None:
    inputs = [x.float().cuda().requires_grad_() for x in make(2, 1, 6, 5, 16)]

    def total(*tensors: Tensor) -> Tensor:
        return ss2d(*tensors, backend="cuda").square().sum()

    expected = torch.autograd.grad(total(*inputs), inputs)
    for a, b in zip(torch.autograd.grad(torch.compile(total, fullgraph=True)(*inputs), inputs), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("emulated")
def test_a_compiler_sees_one_graph() -> None:
    inputs = [x.float().requires_grad_() for x in make(2, 1, 3, 5, 8)]

    def total(*tensors: Tensor) -> Tensor:
        return ss2d_cuda(*tensors, tensors[0]).square().sum()

    expected = torch.autograd.grad(total(*inputs), inputs)
    compiled = torch.compile(total, fullgraph=True, backend="aot_eager")
    for a, b in zip(torch.autograd.grad(compiled(*inputs), inputs), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
