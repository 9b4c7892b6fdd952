"""CUDA kernels compiled at their first use with NVRTC, which comes with PyTorch: the user needs no compiler."""

import ctypes
from functools import cache
from typing import Any

import torch
from torch import Tensor

LEAST_CAPABILITY = (8, 0)
"""What a GPU needs for asynchronous copies and arithmetic on pairs of bfloat16."""


def why_unavailable() -> str | None:
    """Why kernels cannot be compiled and launched here, or None if they can."""
    if torch.version.cuda is None:
        return "this PyTorch has no CUDA"
    if torch.cuda.is_available() and torch.cuda.get_device_capability() < LEAST_CAPABILITY:
        return f"it needs a GPU of compute capability {LEAST_CAPABILITY}, got {torch.cuda.get_device_capability()}"
    try:
        from cuda.bindings import driver, nvrtc  # noqa: F401
    except ImportError as error:
        return f"the package cuda-bindings cannot be imported ({error}); install it with: pip install cuda-bindings"
    return None


@cache
def compile_source(source: str, options: tuple[str, ...]) -> bytes:
    """Compile CUDA C++ to machine code; works without a GPU.

    Raises:
        RuntimeError: the source does not compile; the message is the compiler's.
    """
    from cuda.bindings import nvrtc

    program = _check(nvrtc.nvrtcCreateProgram(source.encode(), b"kernel.cu", 0, None, None))
    encoded = [option.encode() for option in options]
    (status,) = nvrtc.nvrtcCompileProgram(program, len(encoded), encoded)
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        log = b" " * _check(nvrtc.nvrtcGetProgramLogSize(program))
        _check(nvrtc.nvrtcGetProgramLog(program, log))
        raise RuntimeError(f"Expected CUDA source that compiles with {' '.join(options)}, got:\n{log.decode()}")
    code = b" " * _check(nvrtc.nvrtcGetCUBINSize(program))
    _check(nvrtc.nvrtcGetCUBIN(program, code))
    return code


@cache
def _kernel(source: str, name: str, options: tuple[str, ...], device: int) -> tuple[Any, int]:
    """A kernel, and the bytes of dynamic shared memory that its source gives as ``shared_bytes``, or none."""
    from cuda.bindings import driver

    with torch.cuda.device(device):
        torch.cuda.current_stream()  # PyTorch's context is the current one
        major, minor = torch.cuda.get_device_capability(device)
        code = compile_source(source, (f"--gpu-architecture=sm_{major}{minor}", *options))
        module = _check(driver.cuModuleLoadData(code))
        kernel = _check(driver.cuModuleGetFunction(module, name.encode()))
        found = driver.cuModuleGetGlobal(module, b"shared_bytes")
        if found[0] == driver.CUresult.CUDA_ERROR_NOT_FOUND:
            return kernel, 0
        address, _ = _check(found)
        shared = ctypes.c_uint()
        _check(driver.cuMemcpyDtoH(ctypes.addressof(shared), address, ctypes.sizeof(shared)))
        attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        _check(driver.cuFuncSetAttribute(kernel, attribute, shared.value))
        return kernel, shared.value


def launch(
    source: str,
    name: str,
    options: tuple[str, ...],
    grid: tuple[int, int, int],
    threads: int,
    arguments: tuple[Tensor | int | None, ...],
) -> None:
    """Launch a kernel on the current stream of the first argument's device.

    Args:
        source: CUDA C++ with ``name`` declared ``extern "C"`` and, if blocks get dynamic shared memory, a global
            variable ``shared_bytes`` that says how much.
        name: the kernel.
        options: the compiler's, such as ``-DTHREADS=128``.
        grid: blocks along x, y, z.
        threads: threads of a block.
        arguments: tensors (passed as pointers, None as a null pointer) and 32-bit integers.
    """
    from cuda.bindings import driver

    first = arguments[0]
    assert isinstance(first, Tensor)
    index = first.device.index
    kernel, shared_bytes = _kernel(source, name, options, index)
    values = tuple(x.data_ptr() if isinstance(x, Tensor) else x or 0 for x in arguments)
    types = tuple(ctypes.c_int if isinstance(x, int) else ctypes.c_void_p for x in arguments)
    with torch.cuda.device(index):
        stream = torch.cuda.current_stream().cuda_stream
        _check(driver.cuLaunchKernel(kernel, *grid, threads, 1, 1, shared_bytes, stream, (values, types), 0))


def _check(returned: tuple[Any, ...]) -> Any:
    """Return what a CUDA function gave after its status, or raise RuntimeError."""
    status, *values = returned
    if int(status) != 0:
        raise RuntimeError(f"Expected CUDA to succeed, got {status!r}.")
    return values[0] if len(values) == 1 else tuple(values)
