import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mtmamba.losses import (
    LogTotal,
    WeightedTotal,
    balanced_cross_entropy,
    binned_depth_cross_entropy,
    binned_normals_cross_entropy,
    cross_entropy,
    depth_l1,
    edge_cross_entropy,
    half_sphere,
    normals_l1,
    two_class_edge_cross_entropy,
)
from mtmamba.types import IGNORE
from triton_runs import gpu

HEIGHT, WIDTH = 5, 4
DEPTHS, NORMALS = (depth_l1, binned_depth_cross_entropy), (normals_l1, binned_normals_cross_entropy)
LOSSES = {
    cross_entropy: 6, balanced_cross_entropy: 2, edge_cross_entropy: 1, depth_l1: 1, normals_l1: 3,
    two_class_edge_cross_entropy: 2, binned_depth_cross_entropy: 40, binned_normals_cross_entropy: 40,
}  # fmt: skip
each_loss = pytest.mark.parametrize(("loss", "outputs"), LOSSES.items(), ids=[loss.__name__ for loss in LOSSES])


def sample(loss, outputs: int, seed: int = 0, batch: int = 3) -> tuple[Tensor, Tensor]:
    """Logits and a target with about a quarter of its pixels ignored, in float64."""
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, outputs, HEIGHT, WIDTH, generator=random, dtype=torch.float64)
    if loss in DEPTHS:
        target = 12 * torch.rand(batch, HEIGHT, WIDTH, generator=random, dtype=torch.float64)
    elif loss in NORMALS:
        target = torch.randn(batch, 3, HEIGHT, WIDTH, generator=random, dtype=torch.float64)
        target = target / target.norm(dim=1, keepdim=True)
    else:
        target = torch.randint(max(outputs, 2), (batch, HEIGHT, WIDTH), generator=random, dtype=torch.uint8)
    ignored = torch.rand(batch, HEIGHT, WIDTH, generator=random) < 0.25
    return logits, target.masked_fill(ignored[:, None] if loss in NORMALS else ignored, IGNORE)


def by_hand(loss, logits: Tensor, target: Tensor) -> list[float]:
    """Every loss as a loop over images and pixels."""
    results = []
    for scores, truth in zip(logits.numpy(), target.numpy(), strict=True):
        pixels = [(y, x) for y in range(HEIGHT) for x in range(WIDTH) if np.all(truth[..., y, x] != IGNORE)]
        negatives = sum(np.all(truth[..., y, x] == 0) for y, x in pixels) / len(pixels)
        total = 0.0
        for y, x in pixels:
            score, true = scores[:, y, x], truth[..., y, x]
            if loss is depth_l1:
                total += abs(score[0] - true)
            elif loss is normals_l1:
                total += sum(abs(score / math.sqrt(sum(score**2)) - true))
            elif loss is edge_cross_entropy:
                probability = 1 / (1 + math.exp(-score[0]))
                total -= 0.95 * math.log(probability) if true == 1 else 0.05 * math.log(1 - probability)
            else:
                weight = 1.0
                if loss is balanced_cross_entropy:
                    weight = negatives if true == 1 else 1 - negatives
                elif loss is two_class_edge_cross_entropy:
                    weight = 0.95 if true == 1 else 0.05
                elif loss is binned_depth_cross_entropy:
                    true = sum(0.7 * (10 / 0.7) ** (border / 40) <= true for border in range(1, 40))
                elif loss is binned_normals_cross_entropy:
                    true = max(range(40), key=lambda i, n=true: abs(half_sphere(40, target)[i].numpy() @ n))
                likelihood = math.exp(score[true]) / sum(math.exp(value) for value in score)
                total -= weight * math.log(likelihood)
        results.append(total / len(pixels))
    return results


@each_loss
@pytest.mark.parametrize("seed", range(3))
def test_equals_loops(loss, outputs, seed):
    logits, target = sample(loss, outputs, seed)
    assert loss(logits, target).tolist() == pytest.approx(by_hand(loss, logits, target), rel=1e-12)


@each_loss
def test_gradient(loss, outputs):
    logits, target = sample(loss, outputs)
    assert torch.autograd.gradcheck(lambda x: loss(x, target), logits.requires_grad_())


@each_loss
def test_batch_equals_singles(loss, outputs):
    logits, target = sample(loss, outputs)
    singles = [loss(logits[i : i + 1], target[i : i + 1]) for i in range(len(logits))]
    torch.testing.assert_close(loss(logits, target), torch.cat(singles), rtol=1e-14, atol=0)


@each_loss
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), value=st.floats(-1e4, 1e4))
def test_ignored_pixels_change_nothing(loss, outputs, seed, value):
    logits, target = sample(loss, outputs, seed)
    ignored = (target[:, :1] if loss in NORMALS else target[:, None]) == IGNORE
    changed = logits.masked_fill(ignored, value).requires_grad_()
    result = loss(changed, target)
    assert torch.equal(result, loss(logits, target))
    result.sum().backward()
    assert changed.grad.masked_select(ignored).eq(0).all()


@each_loss
def test_image_without_valid_pixel(loss, outputs):
    logits, target = sample(loss, outputs)
    target[1] = IGNORE
    logits.requires_grad_()
    result = loss(logits, target)
    assert result[1] == 0
    LogTotal()({"depth": result}).backward()
    assert logits.grad[1].eq(0).all()
    assert logits.grad.isfinite().all()
    assert logits.grad[0].ne(0).any()


@each_loss
def test_half_precision_is_widened(loss, outputs):
    logits, target = sample(loss, outputs)
    target = target.float() if target.is_floating_point() else target
    half = logits.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = loss(half, target)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, loss(half.double(), target).float())


@gpu
@each_loss
def test_the_processor_waits_for_no_result(loss, outputs):
    logits, target = (x.cuda() for x in sample(loss, outputs))
    logits.requires_grad_()
    torch.cuda.set_sync_debug_mode("error")
    try:
        WeightedTotal()({"semseg": loss(logits, target)}).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert logits.grad.isfinite().all()


def test_axes_of_normals_are_unit_vectors_that_lie_evenly():
    axes = half_sphere(40, torch.zeros(1, dtype=torch.float64))
    torch.testing.assert_close(axes.norm(dim=1), torch.ones(40, dtype=torch.float64))
    assert (axes[:, 2] > 0).all()
    directions = torch.randn(40_000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    shares = (directions @ axes.T).abs().argmax(1).bincount(minlength=40) / 1000
    assert 0.7 < shares.min() < shares.max() < 1.4


def test_axes_of_normals_turn_by_the_golden_angle():
    """137.507764 degrees; trained classes keep their meaning as long as this holds."""
    turn = math.radians(137.50776405003785)
    expected = [
        [math.sqrt(1 - z * z) * math.cos(k * turn), math.sqrt(1 - z * z) * math.sin(k * turn), z]
        for k, z in enumerate((0.125, 0.375, 0.625, 0.875))
    ]
    assert half_sphere(4, torch.zeros(1, dtype=torch.float64)).numpy() == pytest.approx(np.array(expected), abs=1e-12)


def test_normal_of_length_zero():
    logits = torch.zeros(1, 3, 1, 1, requires_grad=True)
    loss = normals_l1(logits, torch.tensor([0.6, 0.0, 0.8]).view(1, 3, 1, 1))
    loss.sum().backward()
    assert loss.item() == pytest.approx(1.4)
    assert logits.grad.flatten().tolist() == pytest.approx([-1e6, 0, -1e6])


@pytest.mark.parametrize(("loss", "outputs"), [(edge_cross_entropy, 2), (depth_l1, 2), (normals_l1, 1)])
def test_wrong_number_of_outputs(loss, outputs):
    _, target = sample(loss, LOSSES[loss])
    with pytest.raises(ValueError, match="Expected logits in the target's shape"):
        loss(torch.zeros(3, outputs, HEIGHT, WIDTH), target)


def test_log_total_of_one_image_is_the_sum_of_logs():
    losses = {"semseg": torch.tensor([2.0]), "depth": torch.tensor([0.5]), "edge": torch.tensor([0.0])}
    assert LogTotal()(losses).item() == pytest.approx(math.log(2) + math.log(0.5) + math.log(1e-8))


def test_log_total_does_not_depend_on_the_split():
    losses = {"semseg": torch.rand(4), "normals": torch.rand(4)}
    parts = [LogTotal()({name: loss[part] for name, loss in losses.items()}) for part in (slice(0, 2), slice(2, 4))]
    torch.testing.assert_close(LogTotal()(losses), torch.stack(parts).mean())


def test_weighted_totals():
    losses = {"depth": torch.tensor([1.0, 3.0]), "normals": torch.tensor([0.5, 0.1])}
    weights = {"depth": 2.0, "normals": 10.0, "edge": 50.0}
    assert WeightedTotal(weights)(losses).item() == pytest.approx((2 + 5 + 6 + 1) / 2)
    assert WeightedTotal()(losses).item() == pytest.approx((1.5 + 3.1) / 2)
    assert LogTotal(weights)(losses).item() == pytest.approx((2 * math.log(3) + 10 * math.log(0.05)) / 2, rel=1e-6)


@pytest.mark.parametrize("weights", [{"depth": -1.0}, {"depth": math.nan}, {"depth": math.inf}])
def test_wrong_weights(weights):
    with pytest.raises(ValueError, match="Expected"):
        WeightedTotal(weights)


def test_a_weight_of_0_leaves_a_task_out():
    losses = {"depth": torch.tensor([3.0]), "edge": torch.tensor([0.5])}
    assert WeightedTotal({"depth": 0})(losses).item() == 0.5


def test_losses_without_a_label_are_left_out_of_either_total():
    """Of two images the second lacks depth: the first one's loss counts for both."""
    losses = {"depth": torch.tensor([3.0, 0.0]), "edge": torch.tensor([0.5, 0.7])}
    labels = {"depth": torch.tensor([2.0, 0.0]), "edge": torch.tensor([1.0, 1.0])}
    assert WeightedTotal({"edge": 10})(losses, labels).item() == pytest.approx(3 + 10 * 0.6)
    assert LogTotal()(losses, labels).item() == pytest.approx(math.log(3) + (math.log(0.5) + math.log(0.7)) / 2)
    terms = WeightedTotal().terms(losses, labels)
    assert {name: term.tolist() for name, term in terms.items()} == {
        "depth": [6, 0], "edge": [0.5, pytest.approx(0.7)],
    }  # fmt: skip


def test_a_task_that_is_not_named_weighs_1_or_what_its_record_says():
    losses = {"depth": torch.tensor([3.0]), "edge": torch.tensor([0.5])}
    weighted, logs = WeightedTotal({"depth": 2.0}), LogTotal({"depth": 2.0})
    assert weighted(losses).item() == 6.5
    for total in (weighted, logs):
        total.complete({"depth": 7.0, "edge": 50.0})
    assert weighted(losses).item() == 31
    assert logs(losses).item() == pytest.approx(2 * math.log(3) + math.log(0.5))
