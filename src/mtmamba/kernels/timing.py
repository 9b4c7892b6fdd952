"""The clock of the kernels' benchmarks."""

from collections.abc import Callable

from triton.testing import do_bench


def median_ms(function: Callable[[], object]) -> float:
    """Return the median of many calls on a GPU, milliseconds."""
    return float(do_bench(function, warmup=25, rep=200, return_mode="median"))
