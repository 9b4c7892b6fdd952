"""What a device can do: the rates that a roofline is computed from, measured when a benchmark begins."""

import os
import platform
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from mtmamba.benchmarks.timing import measure, tf32
from mtmamba.kernels import nvrtc

SECONDS = 0.2
"""How long each rate is measured."""

_CHAIN = 256
_EXPONENTIALS = """
extern "C" __global__ void exponentials(float* x)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    float a = x[2 * i], b = x[2 * i + 1];
    #pragma unroll 16
    for (int k = 0; k < CHAIN; ++k) {
        asm volatile("ex2.approx.ftz.f32 %0, %0;" : "+f"(a));
        asm volatile("ex2.approx.ftz.f32 %0, %0;" : "+f"(b));
    }
    x[2 * i] = a;
    x[2 * i + 1] = b;
}
"""
"""CUDA C++: every thread takes two numbers through a chain of exponentials, in registers."""


@dataclass(frozen=True)
class Device:
    """A device and its measured rates."""

    name: str
    threads: int | None
    """PyTorch's threads on a CPU."""
    copy_bytes: float
    """Bytes read and written per second by a copy far larger than the caches."""
    flops: dict[str, float]
    """Floating-point operations per second of a large square product, by precision; a multiply-add is 2."""
    exponentials: float
    """Exponentials per second in float32, without traffic to memory."""
    method: str
    """How these were measured."""


def measure_device(device: torch.device, precisions: Iterable[str]) -> Device:
    """Measure a device's rates.

    Args:
        device: a GPU or CPU.
        precisions: of the products, among `mtmamba.benchmarks.timing.PRECISIONS`.
    """
    on_gpu = device.type == "cuda"
    side = 8192 if on_gpu else 1024
    mebibytes = 1024 if on_gpu else 256
    return Device(
        name=torch.cuda.get_device_name(device) if on_gpu else cpu_name(),
        threads=None if on_gpu else torch.get_num_threads(),
        copy_bytes=_copy_rate(device, mebibytes * 2**20),
        flops={precision: _product_rate(device, side, precision) for precision in dict.fromkeys(precisions)},
        exponentials=_gpu_exponential_rate(device) if on_gpu else _cpu_exponential_rate(),
        method=f"the fastest of many runs: a copy of {mebibytes} MiB, products of {side} x {side} matrices, and "
        + ("ex2.approx in registers" if on_gpu else "torch.exp2 of 512 KiB, which stay in the caches"),
    )


def cpu_name() -> str:
    """Name the processor and its cores."""
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.+)$", cpuinfo.read_text(), re.MULTILINE) if cpuinfo.is_file() else None
    return f"{found[1].strip() if found else platform.processor()}, {os.cpu_count()} cores"


def _copy_rate(device: torch.device, size: int) -> float:
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / _seconds(device, lambda: target.copy_(source))


def _product_rate(device: torch.device, side: int, precision: str) -> float:
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = torch.randn(2, side, side, device=device).to(dtype)
    out = torch.empty_like(a)
    with tf32(precision == "tf32"):
        return 2 * side**3 / _seconds(device, lambda: torch.mm(a, b, out=out))


def _gpu_exponential_rate(device: torch.device) -> float:
    threads, blocks = 256, 8192
    x = torch.zeros(2 * threads * blocks, device=device)

    def chain() -> None:
        nvrtc.launch(_EXPONENTIALS, "exponentials", (f"-DCHAIN={_CHAIN}",), (blocks, 1, 1), threads, (x,))

    return _CHAIN * x.numel() / _seconds(device, chain)


def _cpu_exponential_rate() -> float:
    x = torch.rand(2**17)
    out = torch.empty_like(x)
    return x.numel() / _seconds(torch.device("cpu"), lambda: torch.exp2(x, out=out))


def _seconds(device: torch.device, function: Callable[[], object]) -> float:
    return 1e-3 * measure(function, device, SECONDS).best_ms
