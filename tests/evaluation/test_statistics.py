"""Scores of a set, of its images and of resamples, from the images' statistics; and those of several processes."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed
import torch.multiprocessing
from torch import Tensor, nn

from mtmamba.evaluation.statistics import (
    Assessment,
    ImageStatistics,
    assess,
    bootstrap,
    image_statistics,
    interval,
    resample_weights,
)
from mtmamba.metrics import DepthError, MeanIoU, NormalsError, PartsMeanIoU, SaliencyFMeasure
from mtmamba.types import IGNORE

METRICS = {
    "semseg": MeanIoU(4),
    "depth": DepthError(),
    "human_parts": PartsMeanIoU(4),
    "sal": SaliencyFMeasure(),
    "normals": NormalsError(),
}
IDS = [f"{i:04d}" for i in range(6)]


def maps(images: int = 6) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Predictions and targets of each task; a fifth of the pixels is ignored, and one image shows no part."""
    random = torch.Generator().manual_seed(0)
    classes = torch.randint(4, (2, images, 8, 9), generator=random, dtype=torch.uint8)
    depth = 9 * torch.rand(2, images, 8, 9, generator=random)
    vectors = nn.functional.normalize(torch.randn(2, images, 3, 8, 9, generator=random), dim=2)
    foreground = (torch.rand(images, 8, 9, generator=random) < 0.4).to(torch.uint8)
    predictions = {"semseg": classes[0], "depth": depth[0], "human_parts": classes[0], "normals": vectors[0]}
    targets = {"semseg": classes[1], "depth": depth[1], "human_parts": classes[1].clone(), "normals": vectors[1]}
    targets["human_parts"][2] = 0
    predictions["sal"], targets["sal"] = torch.rand(images, 8, 9, generator=random), foreground
    ignored = torch.rand(images, 8, 9, generator=random) < 0.2
    for task, target in targets.items():
        targets[task] = target.masked_fill(ignored[:, None] if task == "normals" else ignored, IGNORE)
    return predictions, targets


def collect(images: Iterable[int] = range(6)) -> ImageStatistics:
    predictions, targets = maps()
    collected = ImageStatistics(METRICS)
    for i in images:
        one = [{task: x[i : i + 1] for task, x in side.items()} for side in (predictions, targets)]
        collected.add([IDS[i]], image_statistics(METRICS, *one))
    return collected


def score_directly(task: str, images: list[int]) -> dict[str, float]:
    """A fresh metric on these images, repeats included."""
    predictions, targets = maps()
    metric = type(METRICS[task])(*((4,) if task in ("semseg", "human_parts") else ()))
    metric.update(predictions[task][images], targets[task][images])
    return {name: value.item() for name, value in metric.compute().items()}


@pytest.fixture(scope="module")
def assessment() -> Assessment:
    statistics = collect().gather(IDS)
    return assess(statistics, {task: metric.score for task, metric in METRICS.items()}, resamples=40, seed=3)


@pytest.mark.parametrize("task", METRICS)
def test_scores_of_the_set_of_images_and_of_resamples_are_the_metrics(assessment, task):
    assert assessment.scores[task] == pytest.approx(score_directly(task, list(range(6))), rel=1e-12)
    for i in range(6):
        for name, value in score_directly(task, [i]).items():
            assert assessment.images[task][name][i].item() == pytest.approx(value, rel=1e-12, nan_ok=True)
    weights = resample_weights(6, 40, seed=3)
    assert weights.sum(1).tolist() == 40 * [6]
    for row in range(0, 40, 8):
        drawn = [i for i in range(6) for _ in range(int(weights[row, i]))]
        for name, value in score_directly(task, drawn).items():
            assert assessment.resamples[task][name][row].item() == pytest.approx(value, rel=1e-12)


def test_intervals_are_numpys_percentiles(assessment):
    for task, values in assessment.intervals.items():
        for name, found in values.items():
            expected = np.percentile(assessment.resamples[task][name].numpy(), [2.5, 97.5])
            assert found == pytest.approx(expected.tolist(), rel=1e-12)
    assert interval(torch.tensor([1.0, float("nan"), 1.0])) == (1.0, 1.0)
    assert all(np.isnan(interval(torch.tensor([float("nan")]))))


def test_the_interval_of_a_mean_is_the_central_limit_theorems():
    """RMSE² of a squared error per image is a mean: its bootstrap's spread is s / √n."""
    squares = torch.from_numpy(np.random.default_rng(0).gamma(2, 3, 400))
    statistics = {"squares": squares, "count": torch.ones(400, dtype=torch.int64)}
    values = bootstrap(statistics, DepthError().score, resample_weights(400, 2000, 0))["RMSE"].square()
    low, high = interval(values)
    mean, error = squares.mean().item(), squares.std().item() / 20
    assert (low, high) == pytest.approx((mean - 1.96 * error, mean + 1.96 * error), rel=0.02)


SHARES = [[4, 0], [], [2, 5, 1, 3]]


def gather_share(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)  # a forked process has none of its parent's
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=3)
    torch.save(collect(SHARES[rank]).gather(IDS), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_the_first_process_has_the_images_of_all_in_order_and_the_others_nothing(tmp_path):
    torch.multiprocessing.start_processes(gather_share, (tmp_path,), nprocs=3, start_method="fork")
    found, *nothing = (torch.load(tmp_path / f"{rank}.pt") for rank in range(3))
    assert nothing == [None, None]
    expected = collect().gather(IDS)
    assert found.keys() == expected.keys()
    for task, statistics in expected.items():
        for name, values in statistics.items():
            assert torch.equal(found[task][name], values)


def test_images_by_the_hundred_keep_their_places():
    """More than are scored at once; without resamples there are no intervals."""
    squares = torch.arange(1.0, 131).double()
    statistics = {"depth": {"squares": squares, "count": torch.ones(130, dtype=torch.int32)}}
    found = assess(statistics, {"depth": DepthError().score}, resamples=0, seed=0)
    assert found.images["depth"]["RMSE"].tolist() == pytest.approx(squares.sqrt().tolist())
    assert found.scores["depth"]["RMSE"] == pytest.approx(65.5**0.5)
    assert (found.intervals, found.resamples) == ({}, {})


def test_statistics_of_counts_are_held_in_32_bits():
    for task, found in collect().gather(IDS).items():
        assert {x.dtype for x in found.values()} <= {torch.int32, torch.float64}, task
