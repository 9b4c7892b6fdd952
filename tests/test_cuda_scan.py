"""The fused kernels against the written-out recurrence: their own source, run thread by thread on the CPU, or a GPU."""

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mtmamba.scan import cuda, nvrtc, selective_scan, ss2d
from mtmamba.scan.cuda import scan_cuda, ss2d_cuda

HERE = Path(__file__).parent
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
        shared_bytes: int,
        arguments: tuple[Any, ...],
    ) -> None:
        key = (name, *options)
        if key not in libraries:
            library, kernel = folder / f"{len(libraries)}.so", folder / f"{name}.cu"
            kernel.write_text(source, encoding="utf-8")
            own = [f'-DKERNEL="{kernel}"', *(["-DFORWARD"] if name == "ss2d_forward" else [])]
            command = [compiler, "-O2", "-w", "-shared", "-fPIC", *options, *own, str(HERE / "cuda_emulator.cpp")]
            subprocess.run([*command, "-o", str(library)], check=True)
            libraries[key] = ctypes.CDLL(str(library))
        if name == "ss2d_backward":
            assert shared_bytes == libraries[key].chunk_bytes()
        values = [ctypes.c_void_p(x.data_ptr() if isinstance(x, Tensor) else None) for x in arguments[:-5]]
        libraries[key].run(*values, *arguments[-5:], Grid(*grid), ctypes.c_size_t(shared_bytes))

    return launch


@pytest.fixture
def emulated(emulate: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvrtc, "launch", emulate)


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


def both(inputs: tuple[Tensor, ...], dtype: torch.dtype, **change: Any) -> tuple[list[Tensor], list[Tensor]]:
    """Output and gradients of the fused scan and of the recurrence in float64, from the same rounded signal."""
    leaves = [x.to(dtype if i == 0 else torch.float32).requires_grad_() for i, x in enumerate(inputs)]
    wide = [x.detach().double().requires_grad_() for x in leaves]
    y = ss2d_cuda(*leaves, change.get("source", leaves[0]))
    expected = ss2d(*wide, backend="reference")
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    return [y, *torch.autograd.grad(y, leaves, dy)], [expected, *torch.autograd.grad(expected, wide, dy.double())]


def assert_close(results: list[Tensor], expected: list[Tensor], dtype: torch.dtype) -> None:
    for name, result, exact in zip(("y", *NAMES), results, expected, strict=True):
        error = ((result.double() - exact).norm() / exact.norm()).item()
        assert error < (FORWARD if name == "y" else BACKWARD)[dtype], f"{name}: {error:.2e}"


@pytest.mark.usefixtures("emulated")
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equals_the_recurrence(channels: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "_channels", lambda *_: channels)
    assert_close(*both(make(2, 2, 9, 11, 40), dtype), dtype)  # two saved states; a block that is not full


@pytest.mark.skipif(nvrtc.why_unavailable() is not None, reason=f"{nvrtc.why_unavailable()}")
@pytest.mark.parametrize("kernel", ["ss2d_forward", "ss2d_backward"])
@pytest.mark.parametrize("real", ["float", "bf16"])
def test_compiles_for_a_gpu(kernel: str, real: str) -> None:
    sizes = ("-DDIRECTIONS=4", "-DCHANNELS=2", f"-DTHREADS={cuda.THREADS}", f"-DSTRIDE={cuda.STRIDE}")
    options = ("--gpu-architecture=sm_90", "--std=c++17", f"-DREAL={real}", *sizes)
    assert nvrtc.compile_source(cuda.source(kernel), options).startswith(b"\x7fELF")
    with pytest.raises(RuntimeError, match="error: "):
        nvrtc.compile_source(f"{cuda.source(kernel)} oops", options)
