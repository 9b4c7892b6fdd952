"""Where Triton's kernels run in tests: on a GPU, or in the interpreter, which is chosen when Triton is imported."""

import os
import subprocess
import sys

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
ON_GPU = torch.cuda.is_available() and not INTERPRETED
DEVICE = "cuda" if ON_GPU else "cpu"
gpu = pytest.mark.skipif(not ON_GPU, reason="needs a CUDA device")
kernel = pytest.mark.skipif(not (ON_GPU or INTERPRETED), reason="needs a CUDA device or Triton's interpreter")


def run_in_the_interpreter(file: str) -> None:
    """Run a file's tests named ``kernel_``, in a process whose Triton runs on the CPU."""
    pytest.importorskip("triton")
    if INTERPRETED:
        pytest.skip("already there")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "kernel_", file]
    run = subprocess.run(command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "passed" in run.stdout
    assert "skipped" not in run.stdout
