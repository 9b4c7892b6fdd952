"""What freed memory costs, counted in the pages that the system has to clear."""

import ctypes
import subprocess
import sys

import pytest

STEPS = """
import resource

import numpy as np

from mtmamba.memory import keep_memory

def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        np.ones(1 << 23)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

given_back = pages()
keep_memory()
np.ones(1 << 23)
print(given_back, pages())
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs glibc")
def test_memory_that_is_kept_is_cleared_once():
    printed = subprocess.run([sys.executable, "-c", STEPS], capture_output=True, text=True, check=True).stdout
    given_back, kept = map(int, printed.split())
    assert given_back > 100 * max(kept, 1)
