"""Triton's kernels on the CPU: all tests of them in one process, since importing takes longer than most of them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from triton_runs import INTERPRETED

FILES = [str(path) for path in Path(__file__).parents[1].rglob("test_*.py") if "\n@kernel\n" in path.read_text()]


@pytest.mark.skipif(INTERPRETED, reason="already there")
def test_in_the_interpreter():
    pytest.importorskip("triton")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "kernel_", *FILES]
    run = subprocess.run(command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "passed" in run.stdout
    assert "skipped" not in run.stdout
