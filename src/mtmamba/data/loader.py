"""Loaders: their processes, and the stream of training images that a resumed run goes on with."""

import os
import signal
import threading
from collections.abc import Mapping
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader

from mtmamba.data.sampler import GlobalBatchSampler
from mtmamba.workers import usable_cores

_MAX_WORKERS = 16


class ResumableLoader(DataLoader[dict[str, Any]]):
    """A training loader that knows which stream of images it serves, and refuses to go on with another one's.

    Its state (which Lightning keeps in checkpoints) says nothing of the position: that is the optimiser step.
    """

    def state_dict(self) -> dict[str, int]:
        """Return what the stream's order and Lightning's count of micro-batches depend on."""
        sampler = self.batch_sampler
        assert isinstance(sampler, GlobalBatchSampler)
        return {name: getattr(sampler, name) for name in ("num_samples", "batch_size", "seed", "accumulate")}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Compare with a checkpoint's state; ValueError when it was of another stream."""
        mine = self.state_dict()
        if dict(state) != mine:
            raise ValueError(
                f"Expected to go on with the checkpoint's training images and batches, {dict(state)}, got {mine}: "
                "choose data, data.batch_size, data.device_batch_size, seed and devices as they were."
            )


def loading_options(workers: int | None, devices: int, keep: bool) -> dict[str, Any]:
    """Return the options of a loader: worker processes and memory.

    Args:
        workers: processes; a device's share of this machine's cores, at most 16, when None.
        devices: of this machine that are fed at once.
        keep: whether the processes go on from epoch to epoch.
    """
    if workers is None:
        workers = min(_MAX_WORKERS, max(1, usable_cores() // devices))
    return {
        "num_workers": workers,
        "persistent_workers": keep and workers > 0,
        "worker_init_fn": _begin_worker,
        "pin_memory": torch.cuda.is_available(),
    }


def _begin_worker(_: int) -> None:
    """Keep a loading process to one core, there is a process for each already; to stop is the training process's.

    What asks it to may be sent to all its processes: Ctrl-C is, and so is a cluster's SIGTERM. A SIGTERM of the
    training process itself ends this one, or a program that still holds a loader as it exits would wait for ever.
    """
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # else PyTorch's own handler stays, which ends it for every SIGTERM
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_when_asked, args=(os.getppid(),), daemon=True).start()


def _end_when_asked(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
