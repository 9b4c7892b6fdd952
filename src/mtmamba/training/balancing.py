"""Weights of the tasks' losses that change while a network trains."""

from abc import abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mtmamba.data.sampler import sample_key
from mtmamba.losses import LOG_OFFSET


class Moment(NamedTuple):
    """Where training is.

    Attributes:
        step: optimiser steps that are done.
        begins_epoch: whether the step to come is the first of a pass over the images.
        reduce: mean of a tensor over the processes.
        processes: how many there are.
        scale: what half precision multiplies the loss by.
    """

    step: int
    begins_epoch: bool
    reduce: Callable[[Tensor], Tensor] = lambda x: x
    processes: int = 1
    scale: float = 1.0


class LossWeighting(nn.Module):
    """The tasks' losses, weighted: what is trained is the sum over tasks of ``weight * loss``.

    Losses and weights are of the global batch: the processes' losses are averaged first. What a method remembers are
    buffers or parameters, so that checkpoints hold it.

    Args:
        tasks: how many.

    Attributes:
        of_logs: whether losses may be logarithms (``loss=log``).
        whole_batch: whether a process must see its share of the global batch at once, without accumulation.
        latest: weights of the last batch, ``(T,)``.
    """

    of_logs = False
    whole_batch = False
    latest: Tensor

    def __init__(self, tasks: int) -> None:
        super().__init__()
        self.tasks = tasks

    @abstractmethod
    def weights(self, losses: Tensor, share: Tensor, moment: Moment) -> Tensor:
        """Return the weights ``(T,)``.

        Args:
            losses: of the batch, ``(T,)``, without gradients; 0 of a task without any label.
            share: 1 ``(T,)``, and 0 of a task without any label; in accumulation, these are means over micro-batches.
            moment: of training.
        """

    def forward(self, losses: Tensor, share: Tensor, moment: Moment) -> Tensor:
        """Return what to train: the scalar whose mean over processes and micro-batches has the gradient.

        Shape: this process's losses ``(T,)`` and its images' share of each task's labels ``(T,)`` → ``()``.
        """
        self.latest = self.weights(moment.reduce(losses.detach()), moment.reduce(share), moment).detach()
        return (self.latest * losses).sum()

    def look_back(self, losses: Tensor) -> None:
        """Take the batch's losses ``(T,)`` after the step, averaged over the processes."""


class Uncertainty(LossWeighting):
    """``exp(-s) L + s`` with a trained s, the logarithm of a task's variance, for each task.

    Source: Kendall, Gal and Cipolla, Multi-Task Learning Using Uncertainty to Weigh Losses, CVPR 2018, equation 7,
        times 2 and with its s.
    """

    def __init__(self, tasks: int) -> None:
        super().__init__(tasks)
        self.log_variance = nn.Parameter(torch.zeros(tasks))

    def weights(self, losses: Tensor, share: Tensor, moment: Moment) -> Tensor:
        """Return the inverse variances."""
        return (-self.log_variance).exp()

    def forward(self, losses: Tensor, share: Tensor, moment: Moment) -> Tensor:
        """Return the sum, in which s counts for the tasks that have labels."""
        weights = self.weights(losses, share, moment)
        self.latest = weights.detach()
        return (weights * losses + self.log_variance * share).sum()


class DynamicWeightAverage(LossWeighting):
    """``T softmax(r / temperature)``, r the ratio of a task's mean losses in the last two passes over the images.

    Weights are 1 in the first two passes, and r is 1 for a task without labels in one of them.

    Source: Liu, Johns and Davison, End-to-End Multi-Task Learning with Attention, CVPR 2019, equation 7.
    """

    sums: Tensor  # of this pass
    counts: Tensor
    means: Tensor  # (2, T) of the last pass and the one before, 0 where there is none

    def __init__(self, tasks: int, temperature: float = 2.0) -> None:
        super().__init__(tasks)
        self.temperature = temperature
        self.register_buffer("sums", torch.zeros(tasks))
        self.register_buffer("counts", torch.zeros(tasks))
        self.register_buffer("means", torch.zeros(2, tasks))
        self._step = -1

    def weights(self, losses: Tensor, share: Tensor, moment: Moment) -> Tensor:
        """Return the weights of this pass, and add to its losses."""
        if moment.begins_epoch and moment.step != self._step:
            self.means = torch.stack((self.sums / self.counts.clamp(min=1), self.means[0]))
            self.sums, self.counts = torch.zeros_like(self.sums), torch.zeros_like(self.counts)
        self._step = moment.step
        self.sums, self.counts = self.sums + losses, self.counts + share
        ratio = torch.where((self.means > 0).all(0), self.means[0] / self.means[1], 1)
        return self.tasks * (ratio / self.temperature).softmax(0)


class RandomWeights(LossWeighting):
    """``T softmax(x)`` with x drawn from the standard normal distribution for each optimiser step.

    Source: Lin, Ye and Zhang, Reasonable Effectiveness of Random Weighting, TMLR 2022, whose weights sum up to 1.
    """

    of_logs = True

    def __init__(self, tasks: int, seed: int = 0) -> None:
        super().__init__(tasks)
        self.seed = seed

    def weights(self, losses: Tensor, share: Tensor, moment: Moment) -> Tensor:
        """Return the step's draw, the same in all processes."""
        generator = torch.Generator().manual_seed(sample_key(self.seed, moment.step, 0))
        drawn = torch.randn(self.tasks, generator=generator, dtype=losses.dtype)
        return self.tasks * drawn.softmax(0).to(losses.device, non_blocking=True)


class FAMO(LossWeighting):
    """Let all losses fall at the same relative rate: weights ``(z / L) / sum(z / L)``, ``z = softmax(x)``.

    After the step the network is run on the batch again; x follows, by Adam, what each loss's logarithm has lost.

    Args:
        tasks: how many.
        lr: of x.
        decay: of x.

    Source: Liu, Feng, Stone and Liu, FAMO: Fast Adaptive Multitask Optimization, NeurIPS 2023, algorithm 1, with the
        released program's Adam.
    """

    whole_batch = True
    logits: Tensor
    moments: Tensor  # (2, T) Adam's
    steps: Tensor

    def __init__(self, tasks: int, lr: float = 0.025, decay: float = 1e-5) -> None:
        super().__init__(tasks)
        self.lr, self.decay = lr, decay
        self.register_buffer("logits", torch.zeros(tasks))
        self.register_buffer("moments", torch.zeros(2, tasks))
        self.register_buffer("steps", torch.zeros(()))
        self._before = self._there = torch.zeros(tasks)

    def weights(self, losses: Tensor, share: Tensor, moment: Moment) -> Tensor:
        """Return the weights, which sum up to 1 over the tasks that have labels."""
        self._before, self._there = losses, share > 0
        weights = self._simplex() / (losses + LOG_OFFSET)
        return weights / weights.sum()

    def look_back(self, losses: Tensor) -> None:
        """Lower the weight of the tasks whose losses have fallen the most, relative to their size."""
        fall = (self._before + LOG_OFFSET).log() - (losses + LOG_OFFSET).log()
        z = self._simplex()
        gradient = z * (fall - (z * fall).sum()) + self.decay * self.logits  # of z @ fall
        self.steps = self.steps + 1
        first, second = 0.9 * self.moments[0] + 0.1 * gradient, 0.999 * self.moments[1] + 0.001 * gradient**2
        self.moments = torch.stack((first, second))
        first, second = first / (1 - 0.9**self.steps), second / (1 - 0.999**self.steps)
        self.logits = self.logits - self.lr * first / (second.sqrt() + 1e-8)

    def _simplex(self) -> Tensor:
        return self.logits.masked_fill(~self._there, -torch.inf).softmax(0)
