"""How fast one core reads and augments training samples, and where the time goes."""

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from torch.utils.data import default_collate

from mtmamba.data.transforms import RawSample, Sample, TrainTransform

_AUGMENTATION = ("scale", "crop", "flip", "photometric")  # the steps of TrainTransform.augment


class AugmentedDataset(Protocol):
    """A dataset that decodes a sample, then calls its transform with the sample and a generator."""

    transform: Callable[[RawSample, np.random.Generator], Sample]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]: ...


def benchmark_loader(dataset: AugmentedDataset, samples: int = 200, batch_size: int = 4) -> dict[str, float]:
    """Measure decoding, augmentation and collation in this process on one thread.

    Every sample is read twice, first for the stages and then for the rate, which therefore finds its files in the
    operating system's cache: the numbers are about the processor, not the disk. Samples beyond the dataset's length
    start over. Set ``OMP_NUM_THREADS=1`` before Python starts if numpy's own threads are to be ruled out too.

    For orientation only: the authors' loader gives 21 augmented NYUDv2 samples a second (four tasks, 425x560 pixels to
    448x576) on one core of a machine with two. Compare on one machine and one set of files.

    Args:
        dataset: its transform is a ``TrainTransform``.
        samples: how many samples to measure.
        batch_size: samples that are collated together.

    Returns:
        ``samples_per_second`` of the whole loop, and the mean milliseconds of a sample: ``total_ms`` of the same loop,
        and by stage ``decode_ms`` (read the files into a raw sample), ``scale_ms`` (all maps), ``crop_ms`` (with its
        redraws), ``flip_ms``, ``photometric_ms``, ``finish_ms`` (normalise, pad, make tensors) and ``collate_ms``.

    Raises:
        ValueError: the dataset has another transform than ``TrainTransform``.
    """
    transform = dataset.transform
    if not isinstance(transform, TrainTransform):
        raise ValueError(f"Expected a dataset with a TrainTransform, got {transform}: measure the training split.")
    seconds = dict.fromkeys(("decode", *_AUGMENTATION, "finish", "collate"), 0.0)
    timed_dataset = copy.copy(dataset)
    timed_dataset.transform = _timed(transform, seconds)
    with _one_thread():
        for batch in _index_batches(len(dataset), samples, batch_size):
            before = sum(seconds.values())
            start = time.perf_counter()
            fields = [timed_dataset[index] for index in batch]
            inside = sum(seconds.values()) - before
            seconds["decode"] += time.perf_counter() - start - inside
            with _add_time(seconds, "collate"):
                default_collate(fields)
        start = time.perf_counter()
        for batch in _index_batches(len(dataset), samples, batch_size):
            default_collate([dataset[index] for index in batch])
        total = time.perf_counter() - start
    means = {f"{stage}_ms": 1e3 * spent / samples for stage, spent in seconds.items()}
    return {"samples_per_second": samples / total, "total_ms": 1e3 * total / samples, **means}


def _index_batches(length: int, samples: int, batch_size: int) -> Iterator[list[int]]:
    for first in range(0, samples, batch_size):
        yield [index % length for index in range(first, min(first + batch_size, samples))]


def _timed(transform: TrainTransform, seconds: dict[str, float]) -> Callable[[RawSample, np.random.Generator], Sample]:
    """Do what ``transform`` does, adding up the seconds of each stage."""

    def run(sample: RawSample, rng: np.random.Generator) -> Sample:
        transform.seed_from(rng)
        for stage, step in zip(_AUGMENTATION, transform.augment, strict=True):
            with _add_time(seconds, stage):
                sample = step(**sample)
        with _add_time(seconds, "finish"):
            return transform.finish(sample, rng)

    return run


@contextmanager
def _add_time(seconds: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[stage] += time.perf_counter() - start


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep torch and OpenCV to the calling thread for a while."""
    torch_threads, cv2_threads = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    try:
        yield
    finally:
        torch.set_num_threads(torch_threads)
        cv2.setNumThreads(cv2_threads)
