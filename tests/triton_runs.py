"""Where Triton's kernels run in tests: on a GPU, or in the interpreter, which is chosen when Triton is imported."""

import os
import re
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
ON_GPU = torch.cuda.is_available() and not INTERPRETED
DEVICE = "cuda" if ON_GPU else "cpu"
gpu = pytest.mark.skipif(not ON_GPU, reason="needs a CUDA device")
GPU = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"))
compiler = pytest.mark.skipif(INTERPRETED, reason="the interpreter does not compile")
kernel = pytest.mark.skipif(not (ON_GPU or INTERPRETED), reason="needs a CUDA device or Triton's interpreter")


class Compiled(NamedTuple):
    """What a kernel needs: registers of a thread, and the bytes that it spills to its stack and elsewhere."""

    registers: int
    stack: int
    local: int
    ptx: str


def compile_for_hopper(
    function: Any, types: Mapping[str, str], constants: Mapping[str, Any], aligned: Iterable[str], **options: int
) -> Compiled:
    """Compile a kernel for an H100 or H200, which needs no GPU.

    Args:
        function: the kernel.
        types: of its arguments by name; the others are ``i32``.
        constants: values of arguments that are known to the compiler.
        aligned: names of arguments that are multiples of 16.
        options: the compiler's, such as ``num_warps``.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = [p.name for p in function.params]
    signature = {name: "constexpr" if name in constants else types.get(name, "i32") for name in names}
    values = {(names.index(name),): value for name, value in constants.items()}
    divisible = {(names.index(name),): [["tt.divisibility", 16]] for name in aligned}
    source = ASTSource(function, signature, values, divisible)
    compiled = triton.compile(source, GPUTarget("cuda", 90, 32), options)
    cubin = Path(os.environ["TRITON_CACHE_DIR"]) / "kernel.cubin"
    cubin.write_bytes(compiled.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    usage = subprocess.run([tool, "--dump-resource-usage", cubin], capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+) .*LOCAL:(\d+)", usage)
    assert found is not None
    return Compiled(*(int(number) for number in found.groups()), compiled.asm["ptx"])


def spilled(function: Any, launch: Any, channels: int, **constants: int | None) -> int:
    """Return the bytes of a thread that do not fit into registers, for a kernel of rows of bfloat16 maps.

    Args:
        function: the kernel; its parameters, scales, statistics and partial sums are float32.
        launch: a `norm_triton.Launch`.
        channels: of a row.
        constants: more values that are known to the compiler.
    """
    tile = launch.tile(channels)
    constants |= {"C": channels, "ROWS": tile[0], "BLOCK": tile[1]}
    names = [p.name for p in function.params]
    types = {name: "*bf16" for name in names if name.endswith("_ptr")}
    single = ("weight", "bias", "scale", "statistics", "partial")
    types |= {name: "*fp32" for name in names if name.removesuffix("_ptr").split("_")[-1] in single}
    aligned = [name for name in names if name not in constants]
    compiled = compile_for_hopper(function, types, constants, aligned, num_warps=launch.warps(*tile))
    return compiled.stack + compiled.local
