"""A micro-batch's losses on their way to logs, to the progress bar and to the check that they are finite."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor


class NonFiniteLossError(FloatingPointError):
    """A task's loss is NaN or infinite; training stops in all processes before the weights are touched.

    Attributes:
        tasks: whose losses.
        ids: of the images that have such a loss, of all processes.
    """

    def __init__(self, tasks: list[str], ids: list[str], step: int) -> None:
        super().__init__(
            f"Expected finite losses, got NaN or infinity for {', '.join(tasks)} at step {step} on images "
            f"{', '.join(ids)}: look at their targets, lower optimizer.lr, or train in trainer.precision=32-true."
        )
        self.tasks, self.ids, self.step = tasks, ids, step


class WatchedLosses:
    """A micro-batch's losses on their way to the CPU.

    Whoever reads them once the backward pass has been queued waits for the forward pass alone, and the GPU stays busy.

    Args:
        losses: by task, ``(B,)``.
        labels: a `Batch`'s, None where every image has every label.
        ids: of the images.
    """

    def __init__(self, losses: Mapping[str, Tensor], labels: Mapping[str, Tensor] | None, ids: list[str]) -> None:
        self.tasks, self.labels, self.ids = list(losses), labels, ids
        stacked = torch.stack([loss.detach() for loss in losses.values()])  # (T, B)
        self._values = stacked.to("cpu", non_blocking=True)  # into pinned memory
        on_gpu = stacked.device.type == "cuda"
        self._copied = torch.cuda.current_stream(stacked.device).record_event() if on_gpu else None

    def losses(self) -> dict[str, Tensor]:
        """Return each task's losses ``(B,)``, having waited for them."""
        if self._copied is not None:
            self._copied.synchronize()
        return dict(zip(self.tasks, self._values, strict=True))

    def not_finite(self) -> list[tuple[str, str]]:
        """Return each loss that is not finite, as its task and the image's id."""
        wrong = ~torch.stack([*self.losses().values()]).isfinite()  # (T, B)
        return [(self.tasks[t], self.ids[i]) for t, i in wrong.nonzero().tolist()]


def labelled_mean(loss: Tensor, weights: Tensor | None) -> tuple[Tensor, int]:
    """Return the mean of a task's losses ``(B,)`` over the images that have its label, 0 without any, and their number.

    Args:
        loss: by image.
        weights: a `Batch`'s ``labels`` of the task, on the CPU; None where every image has the label.
    """
    if weights is None:
        return loss.mean(), len(loss)
    there = weights > 0
    images = int(there.sum())
    return (loss * there.to(loss, non_blocking=True)).sum() / max(images, 1), images


def logged_means(losses: Mapping[str, Tensor], labels: Mapping[str, Tensor] | None) -> dict[str, Tensor | float]:
    """Return the means of losses by the names that they are logged under, NaN of a task without any label."""
    weights = dict.fromkeys(losses) if labels is None else labels
    means = {name: labelled_mean(loss.detach(), weights[name]) for name, loss in losses.items()}
    return {f"train/{name}/loss": value if images else math.nan for name, (value, images) in means.items()}
