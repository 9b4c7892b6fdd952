"""What logits mean, and the constants that score best."""

import numpy as np
import pytest
import scipy.special
import torch

from mtmamba.metrics import EdgeLoss
from mtmamba.tasks.decisions import (
    all_foreground,
    class_counts,
    class_probabilities,
    depth_metres,
    depth_sums,
    edge_base_rate,
    edge_probability,
    likeliest_class,
    majority_class,
    mean_depth,
    mean_normal,
    normal_sums,
    saliency_probability,
    unit_normals,
)


def test_logits_are_read_as_numpy_reads_them():
    logits = 3 * torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    x = logits.double().numpy()
    for found, expected in (
        (depth_metres(logits), np.where(x < 0, 0, x)),
        (edge_probability(logits[:, :1]), scipy.special.expit(x[:, :1])),
        (unit_normals(logits), x / np.sqrt((x**2).sum(1, keepdims=True))),
        (class_probabilities(logits), scipy.special.softmax(x, 1)),
        (saliency_probability(logits[:, :2]), scipy.special.softmax(x[:, :2], 1)[:, 1:]),
    ):
        assert found.dtype == torch.float32
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-7)
    assert likeliest_class(logits).dtype == torch.uint8
    assert (likeliest_class(logits).numpy() == x.argmax(1)).all()


def test_constants_are_the_best_of_all():
    target = torch.tensor([[[0, 1, 1, 255], [1, 0, 3, 255]]], dtype=torch.uint8)
    counts = class_counts(target)
    assert (len(counts), counts[:4].tolist(), counts[4:].any().item()) == (255, [2, 3, 0, 1], False)
    assert (majority_class(counts).item(), majority_class(counts).dtype) == (1, torch.uint8)
    edges = torch.tensor([[[0, 1, 0, 0, 0, 0, 0, 255]]], dtype=torch.uint8)
    best = edge_base_rate(class_counts(edges)).item()
    metric = EdgeLoss()
    losses = {
        p: metric.score(metric.statistics(torch.full((1, 1, 8), p), edges))["loss"].item()
        for p in (best - 0.01, best, best + 0.01)
    }
    assert min(losses, key=losses.__getitem__) == best
    assert best == pytest.approx(0.95 / (0.95 + 6 * 0.05))
    assert all_foreground(counts).item() == 1
    assert mean_depth(torch.tensor([5.0, 2.0]).double()).item() == 2.5
    assert mean_normal(torch.tensor([0.0, 6.0, -8.0, 20.0]).double()).tolist() == [
        [[0.0]], [[pytest.approx(0.6)]], [[pytest.approx(-0.8)]],
    ]  # fmt: skip


def test_sums_for_the_constants_count_valid_pixels_alone():
    depths = torch.tensor([[[2.0, 255.0], [3.0, 255.0]]])
    assert depth_sums(depths).tolist() == [5, 2]
    normals = torch.full((1, 3, 1, 3), 255.0)
    normals[0, :, 0, 1] = torch.tensor([0.0, 0.6, -0.8])
    assert normal_sums(normals).tolist() == pytest.approx([0, 0.6, -0.8, 1])
