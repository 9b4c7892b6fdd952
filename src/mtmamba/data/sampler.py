"""Which images make up which micro-batch of which process: a function of the seed and the optimiser step alone."""

from collections.abc import Callable, Iterator
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from mtmamba.data.partial import Labelled, loss_weights

Key = tuple[int, int] | tuple[int, int, NDArray[np.float32]]
"""An epoch and an index into the split's ids: what a dataset is asked for.

Where labels are partial, the weights of the tasks' losses in the global batch follow.
"""


def sample_key(seed: int, epoch: int, index: int) -> int:
    """Return the 63-bit name of a sample's random draws: blake2b of the three as little-endian int64, sign bit cleared.

    >>> sample_key(0, 0, 1) == sample_key(0, 1, 0)
    False
    """
    digest = blake2b(np.array([seed, epoch, index], "<i8").tobytes(), digest_size=8).digest()
    return int.from_bytes(digest, "little") & (2**63 - 1)


class GlobalBatchSampler(Sampler[list[Key]]):
    """One process's micro-batches of an endless, shuffled stream of global batches.

    Epoch e visits the images in a permutation drawn from (seed, e); what does not fill its last batch is left out.
    With G images a batch, R processes and m images a micro-batch, the batch is cut into G / (m R) accumulated
    micro-steps, and in micro-step a process r takes the images from (a R + r) m on. So a batch holds the same images
    however many processes share it. An iteration runs over as many micro-batches as one epoch has, starting with the
    optimiser step that ``first_step`` names; one that starts within an epoch goes on into the next.

    Args:
        num_samples: images in the split.
        batch_size: G, images in a global batch.
        device_batch_size: m, images in a micro-batch.
        rank: this process, r.
        world_size: how many there are, R.
        seed: of the permutations.
        first_step: called when an iteration starts; how many optimiser steps have been made.
        labelled: which labels the images have, ``(num_samples, tasks)``; None where they have all.

    Raises:
        ValueError: G is not a multiple of m R, or there are fewer than G images.
    """

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        device_batch_size: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
        first_step: Callable[[], int] = lambda: 0,
        labelled: Labelled | None = None,
    ) -> None:
        self.accumulate = accumulation(batch_size, device_batch_size, world_size)
        if num_samples < batch_size:
            raise ValueError(
                f"Expected at least one batch of {batch_size} training images, got {num_samples} images: "
                "lower data.batch_size or add images."
            )
        self.num_samples, self.batch_size, self.device_batch_size = num_samples, batch_size, device_batch_size
        self.rank, self.world_size, self.seed, self.first_step = rank, world_size, seed, first_step
        self.labelled = labelled
        self.steps_per_epoch = num_samples // batch_size

    def __len__(self) -> int:
        return self.steps_per_epoch * self.accumulate

    def __iter__(self) -> Iterator[list[Key]]:
        first = self.first_step()
        for step in range(first, first + self.steps_per_epoch):
            epoch, batch = divmod(step, self.steps_per_epoch)
            if batch == 0 or step == first:
                order = np.random.default_rng([self.seed, epoch]).permutation(self.num_samples)
            indices = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            keys: list[Key] = [(epoch, int(index)) for index in indices]
            if self.labelled is not None:
                weights = loss_weights(self.labelled[indices])
                keys = [(epoch, int(index), row) for index, row in zip(indices, weights, strict=True)]
            for micro_step in range(self.accumulate):
                start = (micro_step * self.world_size + self.rank) * self.device_batch_size
                yield keys[start : start + self.device_batch_size]


def accumulation(batch_size: int, device_batch_size: int, world_size: int) -> int:
    """Return how many micro-batches of each process make up a global batch; ValueError when that is no whole number.

    >>> accumulation(8, 2, world_size=2)
    2
    """
    if min(batch_size, device_batch_size, world_size) < 1 or batch_size % (device_batch_size * world_size):
        raise ValueError(
            f"Expected data.batch_size to be a multiple of data.device_batch_size x devices, got {batch_size} and "
            f"{device_batch_size} x {world_size}: change one of them."
        )
    return batch_size // (device_batch_size * world_size)


def evaluation_batches(num_samples: int, batch_size: int, *, rank: int = 0, world_size: int = 1) -> list[list[Key]]:
    """Return one process's share of a split, every world_size-th image in order, with neither padding nor repeats.

    >>> evaluation_batches(5, 2, rank=0, world_size=2)
    [[(0, 0), (0, 2)], [(0, 4)]]
    """
    mine: list[Key] = [(0, index) for index in range(rank, num_samples, world_size)]
    return [mine[start : start + batch_size] for start in range(0, len(mine), batch_size)]
