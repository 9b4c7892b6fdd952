import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.special
import torch
import torch.distributed
import torch.multiprocessing
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats.contingency import crosstab
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassJaccardIndex

from mtmamba.losses import edge_cross_entropy
from mtmamba.metrics import (
    DepthError,
    EdgeLoss,
    MeanIoU,
    NormalsError,
    PartsMeanIoU,
    SaliencyFMeasure,
    delta_m,
    evaluate_saliency,
)
from mtmamba.metrics.boundary import evaluate_boundaries
from mtmamba.metrics.depth import DisparityError
from mtmamba.metrics.saliency import f_measure, precision_recall, threshold_counts
from mtmamba.metrics.segmentation import confusion_counts
from mtmamba.tasks import all_tasks
from mtmamba.types import IGNORE

CLASSES = 5
METRICS = {
    "semseg": lambda: MeanIoU(CLASSES),
    "depth": DepthError,
    "human_parts": lambda: PartsMeanIoU(CLASSES),
    "sal": SaliencyFMeasure,
    "normals": NormalsError,
    "edge": EdgeLoss,
}
each_metric = pytest.mark.parametrize("task", METRICS)


def sample(task: str, seed: int = 0, batch: int = 4) -> tuple[Tensor, Tensor]:
    """A prediction and a target with about a quarter of its pixels ignored."""
    random = torch.Generator().manual_seed(seed)
    shape = (batch, 3, 6, 7) if task == "normals" else (batch, 6, 7)
    if task == "normals":
        prediction, target = torch.randn(2, *shape, generator=random).unbind()
        target = target / target.norm(dim=1, keepdim=True)
    elif task == "depth":
        prediction, target = (10 * torch.rand(2, *shape, generator=random)).unbind()
    else:
        classes = CLASSES if task in ("semseg", "human_parts") else 2
        prediction, target = torch.randint(classes, (2, *shape), generator=random).unbind()
        prediction = torch.rand(shape, generator=random) if task in ("sal", "edge") else prediction
    ignored = torch.rand(batch, 6, 7, generator=random) < 0.25
    return prediction, target.masked_fill(ignored[:, None] if task == "normals" else ignored, IGNORE)


def values(metric: Metric, *updates: tuple[Tensor, Tensor]) -> dict[str, float]:
    for prediction, target in updates:
        metric.update(prediction, target)
    return {name: value.item() for name, value in metric.compute().items()}


@each_metric
def test_merged_halves_equal_the_whole(task):
    prediction, target = sample(task)
    whole = values(METRICS[task](), (prediction, target))
    first, second = METRICS[task](), METRICS[task]()
    first.update(prediction[:1], target[:1])
    second.update(prediction[1:], target[1:])
    first.merge_state(second)
    assert values(first) == pytest.approx(whole, rel=1e-14)


def count_half(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)  # a forked process has none of its parent's
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    results = {}
    for task, build in METRICS.items():
        prediction, target = sample(task)
        part = slice(0, 1) if rank == 0 else slice(1, 4)
        results[task] = values(build(), (prediction[part], target[part]))
    torch.save(results, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_equal_one(tmp_path):
    torch.multiprocessing.start_processes(count_half, (tmp_path,), nprocs=2, start_method="fork")
    for rank in range(2):
        for task, results in torch.load(tmp_path / f"{rank}.pt").items():
            assert results == pytest.approx(values(METRICS[task](), sample(task)), rel=1e-14)


@each_metric
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_ignored_pixels_change_nothing(task, seed):
    prediction, target = sample(task, seed)
    broken = IGNORE if task in ("semseg", "human_parts") else math.nan
    expected = values(METRICS[task](), (prediction, target))
    assert values(METRICS[task](), (prediction.masked_fill(target == IGNORE, broken), target)) == expected


@each_metric
def test_no_valid_pixel_gives_nan(task):
    prediction, target = sample(task)
    results = values(METRICS[task](), (prediction, torch.full_like(target, IGNORE)))
    assert all(math.isnan(value) for value in results.values())


@each_metric
def test_states_are_wide(task):
    metric = METRICS[task]().half()
    metric.update(*sample(task))
    assert {state.dtype for state in metric.metric_state.values()} <= {torch.int64, torch.float64}
    assert all(value.dtype == torch.float64 for value in metric.compute().values())


def test_a_small_error_after_a_large_sum():
    metric = DepthError()
    metric.update(torch.tensor([[[30001.0]]]), torch.ones(1, 1, 1))
    for _ in range(100):  # each square, 1, is lost beside 9e8 in float32
        metric.update(torch.tensor([[[2.0]]]), torch.ones(1, 1, 1))
    assert metric.compute()["RMSE"].item() ** 2 * 101 == pytest.approx(9e8 + 100, rel=1e-12)


@pytest.mark.parametrize("task", ["depth", "sal", "normals", "edge"])
def test_nan_prediction(task):
    prediction, target = sample(task)
    with pytest.raises(ValueError, match=r"Expected finite predictions, got \d+ NaN"):
        METRICS[task]().update(torch.full_like(prediction, math.nan), target)


@pytest.mark.parametrize("task", ["depth", "normals"])
def test_nan_target(task):
    """Other programs mark unknown depth by NaN."""
    prediction, target = sample(task)
    target[0, ..., 0, 0] = math.nan
    with pytest.raises(ValueError, match=r"Expected finite targets.*unknown to 255"):
        METRICS[task]().update(prediction, target)


@each_metric
def test_wrong_shape(task):
    prediction, target = sample(task)
    with pytest.raises(ValueError, match="Expected a prediction of the target's shape"):
        METRICS[task]().update(prediction[..., :-1], target)


@pytest.mark.parametrize("wrong", [-1, CLASSES])
def test_class_out_of_range(wrong):
    with pytest.raises(ValueError, match=rf"Expected predicted classes in 0\.\.4, got {wrong}\.\."):
        MeanIoU(CLASSES).update(torch.full((1, 2, 2), wrong), torch.zeros(1, 2, 2, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"Expected target classes in 0\.\.4"):
        MeanIoU(CLASSES).update(torch.zeros(1, 2, 2, dtype=torch.uint8), torch.full((1, 2, 2), wrong))


@pytest.mark.parametrize("metric", [SaliencyFMeasure, EdgeLoss])
def test_probability_out_of_range(metric):
    with pytest.raises(ValueError, match="Expected probabilities"):
        metric().update(torch.full((1, 2, 2), 1.5), torch.zeros(1, 2, 2, dtype=torch.uint8))


def test_logits_are_no_classes():
    with pytest.raises(ValueError, match="Expected integer classes"):
        MeanIoU(2).update(torch.zeros(1, 2, 2), torch.zeros(1, 2, 2, dtype=torch.uint8))


def test_miou_equals_torchmetrics():
    random = torch.Generator().manual_seed(0)
    target = torch.randint(CLASSES, (3, 40, 40), generator=random, dtype=torch.uint8)
    prediction = torch.where(torch.rand(target.shape, generator=random) < 0.5, target, target.flip(-1))
    target[torch.rand(target.shape, generator=random) < 0.2] = IGNORE
    other = MulticlassJaccardIndex(CLASSES, ignore_index=IGNORE)(prediction.long(), target.long())
    assert values(MeanIoU(CLASSES), (prediction, target))["mIoU"] == pytest.approx(100 * other.item(), rel=1e-6)


def test_miou_pools_the_set_and_counts_absent_classes_as_0():
    # Class 0: 2 of 3 (one false negative); class 1: 1 of 2; class 2 never occurs.
    first = torch.tensor([[[0, 0, 1]]]), torch.tensor([[[0, 0, 0]]])
    second = torch.tensor([[[1, 1]]]), torch.tensor([[[1, IGNORE]]])
    assert values(MeanIoU(3), first, second)["mIoU"] == pytest.approx(100 * (2 / 3 + 1 / 2) / 3)


def test_of_a_single_class_pixels_may_be_ignored():
    classes = torch.zeros(1, 1, 2, dtype=torch.uint8)
    assert values(MeanIoU(1), (classes, torch.tensor([[[0, IGNORE]]], dtype=torch.uint8)))["mIoU"] == 100


def test_parts_leave_out_images_without_a_part():
    prediction = torch.tensor([[[0, 1, 1]], [[1, 1, 1]]])
    target = torch.tensor([[[0, 1, 1]], [[0, 0, IGNORE]]], dtype=torch.uint8)
    assert values(PartsMeanIoU(2), (prediction, target))["mIoU"] == 100
    assert values(MeanIoU(2), (prediction, target))["mIoU"] < 100


@pytest.mark.parametrize("seed", range(3))
def test_class_counts_equal_scipys_table(seed):
    """Of each image by itself."""
    prediction, target = sample("semseg", seed)
    for i, counts in enumerate(confusion_counts(prediction, target, CLASSES)):
        valid = target[i] != IGNORE
        pairs = (target[i][valid].numpy(), prediction[i][valid].numpy())
        table = crosstab(*pairs, levels=(range(CLASSES), range(CLASSES))).count
        hits = np.diag(table)
        assert counts.tolist() == [hits.tolist(), (table.sum(0) - hits).tolist(), (table.sum(1) - hits).tolist()]


@pytest.mark.parametrize("seed", range(3))
def test_depth_and_normals_equal_loops(seed):
    prediction, target = (x.double().numpy() for x in sample("depth", seed))
    squares = [(p - t) ** 2 for p, t in zip(prediction.ravel(), target.ravel(), strict=True) if t != IGNORE]
    assert values(DepthError(), sample("depth", seed))["RMSE"] == pytest.approx(math.sqrt(np.mean(squares)), rel=1e-12)

    prediction, target = (x.double().movedim(1, -1).reshape(-1, 3).tolist() for x in sample("normals", seed))
    degrees = []
    for p, t in zip(prediction, target, strict=True):
        if t[0] != IGNORE:
            cosine = sum(a * b for a, b in zip(p, t, strict=True)) / math.hypot(*p) / math.hypot(*t)
            degrees.append(math.degrees(math.acos(max(-1, min(1, cosine)))))
    results = values(NormalsError(), sample("normals", seed))
    assert results["mErr"] == pytest.approx(np.mean(degrees), rel=1e-9)
    lower_median = sorted(degrees)[(len(degrees) - 1) // 2]
    assert results["median"] == pytest.approx(lower_median, abs=0.005 + 1e-9)
    for share in (11.25, 22.5, 30):
        assert results[f"within_{share:g}"] == pytest.approx(100 * np.mean(np.array(degrees) < share), rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_edge_loss_equals_scipys_cross_entropy(seed):
    prediction, target = sample("edge", seed)
    p, t = (x[target != IGNORE].double().numpy() for x in (prediction, target))
    losses = np.where(t == 1, 0.95 * -scipy.special.log1p(p - 1), 0.05 * -scipy.special.log1p(-p))
    assert values(EdgeLoss(), (prediction, target))["loss"] == pytest.approx(losses.mean(), rel=1e-9)


@each_metric
def test_statistics_of_a_batch_are_its_images(task):
    prediction, target = sample(task)
    metric = METRICS[task]()
    together = metric.statistics(prediction, target)
    for i in range(len(prediction)):
        for name, alone in metric.statistics(prediction[i : i + 1], target[i : i + 1]).items():
            assert torch.equal(together[name][i], alone[0])
    many = metric.score({name: x.unflatten(0, (2, 2)) for name, x in together.items()})
    assert all(value.shape == (2, 2) and value.dtype == torch.float64 for value in many.values())


@pytest.mark.slow
def test_class_counts_are_ten_times_as_fast_as_a_loop_over_classes():
    """40 classes on NYUDv2's grid, against three comparisons a class as the released evaluation makes them."""
    random = torch.Generator().manual_seed(0)
    prediction, target = torch.randint(40, (2, 1, 448, 576), generator=random, dtype=torch.uint8)

    def loop() -> list[list[int]]:
        valid = target != IGNORE
        return [
            [
                int((valid & (prediction == c) & (target == c)).sum().item()),
                int((valid & (prediction == c) & (target != c)).sum().item()),
                int((valid & (prediction != c) & (target == c)).sum().item()),
            ]
            for c in range(40)
        ]

    def fastest(function: Callable[[], object]) -> float:
        times = []
        for _ in range(10):
            start = time.perf_counter()
            function()
            times.append(time.perf_counter() - start)
        return min(times)

    assert confusion_counts(prediction, target, 40)[0].T.tolist() == loop()
    assert 10 * fastest(lambda: confusion_counts(prediction, target, 40)) < fastest(loop)


def test_negative_depth_counts_as_0():
    assert values(DepthError(), (torch.tensor([[[-5.0, -1.0]]]), torch.tensor([[[3.0, 4.0]]]))) == {
        "RMSE": pytest.approx(math.sqrt(12.5))
    }


def test_depth_pools_the_set():
    # Per image the errors are 1 and 3, a mean of 2; over the pixels sqrt((1 + 9 + 9 + 9) / 4).
    target = torch.tensor([[[2.0, IGNORE, IGNORE]], [[5.0, 5.0, 5.0]]])
    prediction = torch.tensor([[[3.0, 0.0, 0.0]], [[2.0, 8.0, 2.0]]])
    assert values(DepthError(), (prediction, target))["RMSE"] == pytest.approx(math.sqrt(7))


def rotated(degrees: list[float]) -> tuple[Tensor, Tensor]:
    """Predictions of any length, at these angles from the z axis."""
    radians = np.deg2rad(degrees)
    vectors = np.stack((np.sin(radians), np.zeros_like(radians), np.cos(radians)))
    prediction = torch.from_numpy(vectors * np.linspace(0.5, 3, len(degrees))).view(1, 3, 1, -1)
    return prediction, torch.tensor([0.0, 0.0, 1.0]).view(1, 3, 1, 1).expand_as(prediction).double()


def test_normals_by_hand():
    angles = [0.0, 1e-6, 11.2, 11.3, 22.4, 29.9, 30.1, 180.0]
    results = values(NormalsError(), rotated(angles))
    assert results["mErr"] == pytest.approx(sum(angles) / 8, rel=1e-12)
    assert results["median"] == pytest.approx(11.3, abs=0.005 + 1e-9)
    assert [results[f"within_{share}"] for share in ("11.25", "22.5", "30")] == [37.5, 62.5, 75.0]


def test_median_equals_numpy():
    errors = np.random.default_rng(0).uniform(0, 90, 1001)
    median = values(NormalsError(), rotated(errors.tolist()))["median"]
    assert median == pytest.approx(np.median(errors), abs=0.005 + 1e-9)


def test_normal_of_length_zero_is_90_degrees_off():
    _, target = rotated([0.0])
    assert values(NormalsError(), (torch.zeros_like(target), target))["mErr"] == pytest.approx(90)


@pytest.mark.parametrize("seed", range(3))
def test_max_f_equals_loops(seed):
    prediction, target = sample("sal", seed)
    clean, published = [], []
    for p, results in ((prediction, clean), (torch.sigmoid(prediction), published)):
        p, t = p[target != IGNORE].numpy(), target[target != IGNORE].numpy()
        for step in range(1, 20):
            shown = p >= np.float32(step / 20)
            hits = (shown & (t == 1)).sum()
            precision, recall = hits / max(shown.sum(), 1), hits / (t == 1).sum()
            results.append(1.3 * precision * recall / max(0.3 * precision + recall, 1e-12))
    results = values(SaliencyFMeasure(), (prediction, target))
    assert results == pytest.approx({"maxF": 100 * max(clean), "maxF_published": 100 * max(published)}, rel=1e-12)


def test_thresholds_include_their_own_value():
    probability = (torch.arange(1, 20).double() / 20).float()
    counts = threshold_counts(probability[None], torch.ones(1, 19))[0]
    assert counts[1].tolist() == [0] + 19 * [1]
    # Recall at the k-th threshold is (20 - k) / 19, precision 1.
    expected = [1.3 * r / (0.3 + r) for r in ((20 - k) / 19 for k in range(1, 20))]
    assert f_measure(*precision_recall(counts)).tolist() == pytest.approx(expected)


def test_published_max_f_has_five_cuts():
    cuts = [0, 0.2007, 0.4055, 0.6190, 0.8473]
    below, above = [torch.tensor([cut + shift for cut in cuts]).clamp(min=0).sigmoid() for shift in (-1e-4, 1e-4)]
    reached = [threshold_counts(p[None], torch.zeros(1, 5))[0, 0].nonzero().flatten().tolist() for p in (below, above)]
    assert reached == [[10, 11, 12, 13], [10, 11, 12, 13, 14]]
    assert threshold_counts(torch.ones(1, 1).sigmoid(), torch.zeros(1, 1))[0, 0].argmax() == 14


def test_saliency_without_foreground():
    everything = torch.full((1, 2, 2), 0.99), torch.zeros(1, 2, 2, dtype=torch.uint8)
    assert values(SaliencyFMeasure(), everything) == {"maxF": 0, "maxF_published": 0}


def saliency_maps(dtype, images=4):
    """Maps and truths of different sizes, the last without foreground."""
    rng = np.random.default_rng(0)
    sizes = [(5 + i, 9 - i) for i in range(images)]
    levels = [rng.integers(0, 256, size).astype(np.uint8) for size in sizes]
    truths = [rng.random(size) < 0.4 * level / 128 for size, level in zip(sizes, levels, strict=True)]
    truths[-1][:] = False
    return [level if dtype is np.uint8 else (level / 255).astype(dtype) for level in levels], truths


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_scores_of_saliency_maps_equal_loops(dtype):
    maps, truths = saliency_maps(dtype)
    levels = [k / 255 for k in range(256)]
    scores = evaluate_saliency(iter(maps), iter(truths), thresholds=levels)

    def f(precision, recall):
        return 1.3 * precision * recall / (0.3 * precision + recall) if precision * recall else 0

    pooled, of_images, of_means = [], [], []
    for k in range(256):
        shown = [np.rint(p * (1 if dtype is np.uint8 else 255.0)) >= k for p in maps]
        hits = [int((s & t).sum()) for s, t in zip(shown, truths, strict=True)]
        precisions = [h / s.sum() if s.any() else 0 for h, s in zip(hits, shown, strict=True)]
        recalls = [h / t.sum() if t.any() else 0 for h, t in zip(hits, truths, strict=True)]
        pooled.append(f(sum(hits) / max(sum(s.sum() for s in shown), 1), sum(hits) / sum(t.sum() for t in truths)))
        of_images.append(np.mean([f(*pair) for pair in zip(precisions, recalls, strict=True)]))
        of_means.append(f(np.mean(precisions), np.mean(recalls)))
    unit = 255.0 if dtype is np.uint8 else 1.0
    errors = [np.abs(p / unit - t).mean() for p, t in zip(maps, truths, strict=True)]
    assert scores.mae == pytest.approx(np.mean(errors), rel=1e-6)
    assert scores.errors == pytest.approx(np.array(errors), rel=1e-6)
    assert scores.max_f == pytest.approx(max(pooled), rel=1e-12)
    assert scores.max_f_of_images == pytest.approx(max(of_images), rel=1e-12)
    assert scores.max_f_of_means == pytest.approx(max(of_means), rel=1e-12)


def test_saliency_maps_score_as_the_metric_does():
    maps, truths = saliency_maps(np.float32)
    metric, scores = SaliencyFMeasure(), evaluate_saliency(maps, truths)
    pairs = zip(maps, truths, strict=True)
    results = values(metric, *((torch.from_numpy(p)[None], torch.from_numpy(t)[None]) for p, t in pairs))
    assert {"maxF": 100 * scores.max_f, "maxF_published": 100 * scores.max_f_published} == pytest.approx(results)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"truths": [np.array([[0, 255]], np.uint8)]}, "bool maps .* got uint8 .* threshold"),
        ({"truths": [np.ones((2, 1), bool)]}, "shape .2, 1.: evaluate"),
        ({"predictions": [np.array([[0.5, 1.5]])]}, r"prediction 0 within \[0, 1\]"),
        ({"predictions": [np.array([[0.5, np.nan]])]}, "without NaN"),
        ({"predictions": [np.ones(2)]}, r"prediction 0 as \(H, W\) numbers, got float64 of shape \(2,\)"),
        ({"predictions": [np.ones((1, 2), complex)]}, "got complex128"),
        ({"predictions": [np.ones((1, 0))]}, r"of shape \(1, 0\)"),
        ({"predictions": []}, "got 0 and 1"),
        ({"predictions": iter([])}, "no prediction for image 0"),
        ({"predictions": [], "truths": []}, "at least one image"),
        ({"thresholds": [0.5, 0.25]}, "ascending thresholds"),
        ({"thresholds": [0.5, 0.5]}, "ascending thresholds"),
        ({"thresholds": [-0.5, 0.5]}, "ascending thresholds"),
        ({"thresholds": [0.5, 1.5]}, "ascending thresholds"),
        ({"thresholds": []}, "ascending thresholds"),
    ],
)
def test_wrong_saliency_maps_are_refused_by_name(wrong, message):
    good = {"predictions": [np.array([[0.5, 1.0]])], "truths": [np.array([[False, True]])]}
    with pytest.raises(ValueError, match=message):
        evaluate_saliency(**good | wrong)


def test_edge_loss_equals_the_training_loss_of_the_pooled_pixels():
    random = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(2, 1, 8, 8, generator=random)
    target = torch.randint(2, (2, 8, 8), generator=random).masked_fill(torch.rand(2, 8, 8, generator=random) < 0.3, 255)
    pooled = edge_cross_entropy(logits.view(1, 1, 16, 8), target.view(1, 16, 8))
    metric = values(EdgeLoss(), (logits[:, 0].sigmoid(), target))
    assert metric["loss"] == pytest.approx(pooled.item(), rel=1e-5)


def test_edge_loss_of_a_saturated_probability():
    target = torch.tensor([[[1, 0]]])
    assert values(EdgeLoss(), (torch.tensor([[[0.0, 1.0]]]), target))["loss"] == pytest.approx(24 * math.log(2) / 2)


BASE = {"semseg": 54.32, "depth": 0.5166, "normals": 19.21, "edge": 77.30}
PUBLISHED = {
    "single-task": ((54.32, 0.5166, 19.21, 77.30), 0.00),
    "multi-task": ((53.72, 0.5239, 19.97, 76.50), -1.87),
    "1*STM": ((54.61, 0.5059, 19.00, 77.40), 0.95),
    "2*STM": ((54.66, 0.4984, 18.81, 78.20), 1.84),
    "3*STM": ((54.75, 0.5054, 18.81, 78.20), 1.55),
    "MTMamba": ((55.82, 0.5066, 18.63, 78.70), 2.38),
    "g=0": ((55.37, 0.5087, 18.76, 78.30), 1.77),
    "g=1": ((54.50, 0.4981, 18.83, 78.20), 1.76),
}


@pytest.mark.parametrize("row", PUBLISHED)
def test_delta_m_of_the_published_rows(row):
    scores, published = PUBLISHED[row]
    gain = delta_m(dict(zip(BASE, scores, strict=True)), BASE, {"depth", "normals"})
    assert math.trunc(100 * gain) / 100 == published  # the paper truncates


def test_delta_m_takes_a_mapping_of_directions():
    directions = {"semseg": False, "depth": True, "normals": True, "edge": False}
    scores = dict(zip(BASE, PUBLISHED["MTMamba"][0], strict=True))
    assert delta_m(scores, BASE, directions) == delta_m(scores, BASE, {"depth", "normals"})


@pytest.mark.parametrize(
    ("scores", "base", "message"),
    [
        ({"depth": 1.0}, {"depth": 1.0, "edge": 1.0}, r"one side only: \['edge'\]"),
        ({}, {}, "same tasks"),
        ({"depth": 1.0}, {"depth": 0.0}, "other than 0"),
    ],
)
def test_delta_m_of_wrong_arguments(scores, base, message):
    with pytest.raises(ValueError, match=message):
        delta_m(scores, base, set())


def test_delta_m_passes_nan_on():
    assert math.isnan(delta_m({"depth": math.nan, "edge": 2.0}, {"depth": 1.0, "edge": 1.0}, {"depth"}))


@pytest.mark.parametrize("task", ["semseg", "depth", "human_parts", "sal", "normals", "edge"])
def test_every_metric_works_under_autocast(task):
    """Mixed precision evaluates inside autocast, where PyTorch refuses binary cross entropy of probabilities."""
    record, (outputs, target) = all_tasks()[task], autocast_case(task)
    plain, mixed = record.metric(outputs), record.metric(outputs)
    logits = torch.randn(2, outputs, 8, 8, generator=torch.Generator().manual_seed(0))
    plain.update(record.predict(logits), target)
    with torch.autocast("cpu", torch.bfloat16):
        mixed.update(record.predict(logits), target)
    for name, value in plain.compute().items():
        torch.testing.assert_close(mixed.compute()[name], value, equal_nan=True)


def autocast_case(task):
    generator = torch.Generator().manual_seed(1)
    if task == "depth":
        return 1, torch.rand(2, 8, 8, generator=generator) + 1
    if task == "normals":
        return 3, torch.nn.functional.normalize(torch.randn(2, 3, 8, 8, generator=generator), dim=1)
    outputs = {"semseg": 40, "human_parts": 7, "sal": 2, "edge": 1}[task]
    return outputs, torch.randint(0, max(2, outputs), (2, 8, 8), generator=generator).to(torch.uint8)


MAPS = {
    "semseg": (MeanIoU(5), torch.uint8),
    "human_parts": (PartsMeanIoU(5), torch.uint8),
    "depth": (DepthError(), torch.float32),
    "sal": (SaliencyFMeasure(), torch.float32),
    "edge": (EdgeLoss(), torch.float32),
    "normals": (NormalsError(), torch.float32),
}


@pytest.mark.parametrize("task", MAPS)
def test_maps_of_other_shapes_are_refused_by_every_metric(task):
    metric, dtype = MAPS[task]
    good = (2, 3, 4, 5) if task == "normals" else (2, 4, 5)
    metric.update(torch.ones(good, dtype=dtype), torch.ones(good, dtype=dtype))
    for shape in {(2, 1, 4, 5), (4, 5), (2, 4, 5, 3), (2, 3, 4, 5), (2, 4, 5), (1, 2, 3, 4, 5)} - {good}:
        with pytest.raises(ValueError, match=r"Expected the prediction of shape \(B, (3, )?H, W\), got"):
            metric.update(torch.ones(shape, dtype=dtype), torch.ones(shape, dtype=dtype))
    with pytest.raises(TypeError, match=r"Expected the prediction as a torch\.Tensor, got ndarray"):
        metric.update(np.ones(good, np.uint8), torch.ones(good, dtype=dtype))


@pytest.mark.parametrize(
    ("task", "value", "message"),
    [
        ("depth", 0.0, "true depths above 0 m, got 0"),
        ("depth", -1.0, "true depths above 0 m, got -1"),
        ("edge", 7.0, "targets of 0, 1 and 255, got 7"),
        ("sal", 0.5, "targets of 0, 1 and 255, got 0.5"),
    ],
)
def test_targets_that_a_task_cannot_have_are_refused(task, value, message):
    metric, _ = MAPS[task]
    target = torch.full((1, 2, 2), 255.0)
    target[0, 0] = torch.tensor([1.0, value])
    with pytest.raises(ValueError, match=message):
        metric.update(torch.full((1, 2, 2), 0.5), target)


def test_more_classes_than_the_mark_of_ignored_pixels_leaves_are_refused():
    MeanIoU(255)
    for classes in (0, 256):
        with pytest.raises(ValueError, match=f"Expected 1 to 255 classes, got {classes}"):
            MeanIoU(classes)
    with pytest.raises(ValueError, match=r"Expected integer classes, got torch\.float32"):
        MeanIoU(3).update(torch.zeros(1, 2, 2, dtype=torch.uint8), torch.zeros(1, 2, 2))


@pytest.mark.parametrize("change", ["negative strides", "read-only", "big-endian", "column by column"])
def test_arrays_of_any_make_score_alike(change):
    random = np.random.default_rng(2)
    prediction, truth = random.random((9, 12)).astype(np.float32), random.random((9, 12)) < 0.4
    expected = evaluate_saliency([prediction], [truth])
    if change == "negative strides":
        prediction, truth = prediction[::-1, ::-1].copy()[::-1, ::-1], truth[::-1].copy()[::-1]
    elif change == "big-endian":
        prediction = prediction.astype(">f4")
    elif change == "column by column":
        prediction, truth = np.asfortranarray(prediction), np.asfortranarray(truth)
    else:
        prediction.setflags(write=False)
        truth.setflags(write=False)
    found = evaluate_saliency([prediction], [truth])
    assert (found.mae, found.max_f) == (expected.mae, expected.max_f)
    scores = [
        evaluate_boundaries([p], [[t]], max_dist=0.05, suppress=True, workers=1, thresholds=[0.2, 0.6])
        for p, t in ((prediction, truth), (np.ascontiguousarray(prediction, np.float32), np.ascontiguousarray(truth)))
    ]
    assert (scores[0].counts == scores[1].counts).all()


@each_metric
def test_a_batch_without_images_adds_nothing(task):
    prediction, target = sample(task)
    expected = values(METRICS[task](), (prediction, target))
    assert values(METRICS[task](), (prediction, target), (prediction[:0], target[:0])) == expected


def test_a_disparity_of_0_is_predicted_as_one_in_a_thousand_million():
    true = torch.tensor([[[3e-9, 3e-9]]], dtype=torch.float64)
    error = values(DisparityError(), (torch.tensor([[[0.0, -5.0]]], dtype=torch.float64), true))["RMSE"]
    assert error == pytest.approx(2e-9)


def test_errors_of_normals_are_sorted_by_hundredths_of_a_degree():
    metric = NormalsError()
    metric.update(*rotated([0.004, 0.016, 90.001, 180.0]))
    assert metric.histogram.shape == (18_000,)
    assert metric.histogram.nonzero().flatten().tolist() == [0, 1, 9000, 17_999]


def test_one_pixel_of_foreground_that_is_found_alone_scores_1():
    scores = evaluate_saliency([np.array([[1.0, 0.0]])], [np.array([[True, False]])], thresholds=[0.5])
    assert (scores.max_f, scores.max_f_of_images, scores.max_f_of_means, scores.mae) == (1, 1, 1, 0)
