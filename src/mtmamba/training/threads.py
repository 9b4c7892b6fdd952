"""How many threads a run computes with: on a CPU the last bits of sums depend on it, and training multiplies them."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

VARIABLE = "OMP_NUM_THREADS"
"""Tells the processes that Lightning starts how many threads to use; where it is set, Lightning chooses none itself."""


@contextmanager
def threads_of_its_own() -> Iterator[None]:
    """Give this process back its number of threads after a run that may have changed it."""
    threads, variable = torch.get_num_threads(), os.environ.get(VARIABLE)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        os.environ.pop(VARIABLE, None)
        if variable is not None:
            os.environ[VARIABLE] = variable


def settle_threads(devices: int, resumed: Mapping[str, Any] | None) -> None:
    """Compute with as many threads as the run began with, whoever starts its processes and wherever it goes on.

    A run begins with ``OMP_NUM_THREADS`` threads. Where that is not set, processes share out those that PyTorch would
    take, or have the cores that SLURM gives each.

    Args:
        devices: of this machine, each with a process.
        resumed: the checkpoint that a run goes on from; where an earlier version wrote it, it does not say.
    """
    threads = torch.get_num_threads()
    if devices > 1 and VARIABLE not in os.environ:
        threads = int(os.environ.get("SLURM_CPUS_PER_TASK", max(1, threads // devices)))
    threads = (resumed or {}).get("threads", threads)
    torch.set_num_threads(threads)  # also where it is the same: MKL then takes as many, not as many as it sees fit
    os.environ[VARIABLE] = str(threads)
