import pickle
import random

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mtmamba.data.photometric import distort
from mtmamba.data.transforms import RandomScale, TrainTransform, ValTransform
from mtmamba.types import IGNORE

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
CLASS_MAPS = ("semseg", "human_parts", "sal", "edge")


def make_sample(height, width, seed=0):
    rng = np.random.default_rng(seed)
    sample = {"image": rng.integers(0, 256, (height, width, 3), np.uint8), "id": "0001"}
    for name in CLASS_MAPS:
        sample[name] = rng.choice(np.array([0, 1, 5, IGNORE], np.uint8), (height, width))
    depth = rng.uniform(0.5, 10, (height, width)).astype(np.float32)
    normals = rng.normal(size=(height, width, 3)).astype(np.float32)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    ignored = rng.random((height, width)) < 0.3
    sample["depth"] = np.where(ignored, np.float32(IGNORE), depth)
    sample["normals"] = np.where(ignored[..., None], np.float32(IGNORE), normals)
    return sample


def nearest(values, size):
    """The label of the pixel whose index is floor(x * source / destination)."""
    rows, cols = (
        np.minimum(np.floor(np.arange(n) * (1 / (n / old))).astype(int), old - 1)
        for n, old in zip(size, values.shape, strict=False)
    )
    return values[rows[:, None], cols]


def plain_train(sample, crop_size, scale, window, flipped, distortion):
    """Resize the whole sample, then crop, mirror, distort, normalise and pad: each step written out."""
    shape = sample["image"].shape[:2]
    size = tuple(int(n * scale) for n in shape)
    maps = {}
    for name, values in sample.items():
        if name == "id":
            continue
        if name == "image":
            values = cv2.resize(values, size[::-1], interpolation=cv2.INTER_LINEAR)
        else:
            values = nearest(values, size)
        if name == "depth":
            values = np.where(values == IGNORE, values, values / np.float32(scale))
        values = values[window]
        if flipped:
            values = values[:, ::-1].copy()
            if name == "normals":
                valid = values[..., 0] != IGNORE
                values[valid, 0] *= -1
        maps[name] = values
    maps["image"] = (distort(maps["image"], distortion) / 255 - MEAN) / STD
    if np.isin(maps["human_parts"], (0, IGNORE)).all():
        maps["human_parts"][:] = IGNORE
    height, width = maps["image"].shape[:2]
    top, left = (crop_size[0] - height) // 2, (crop_size[1] - width) // 2
    padded = {}
    for name, values in maps.items():
        full = np.full((*crop_size, *values.shape[2:]), 0 if name == "image" else IGNORE, values.dtype)
        full[top : top + height, left : left + width] = values
        padded[name] = full if full.ndim == 2 else full.transpose(2, 0, 1)
    return padded, (height, width)


side = st.integers(5, 60)


@settings(max_examples=60, deadline=None)
@given(shape=st.tuples(side, side), crop_size=st.tuples(side, side), seed=st.integers(0, 2**32))
def test_train_equals_the_written_out_steps(shape, crop_size, seed):
    sample = make_sample(*shape, seed)
    before = pickle.dumps(sample)
    transform = TrainTransform(crop_size)
    fields = transform(sample, np.random.default_rng(seed))
    assert pickle.dumps(sample) == before

    scale, crop, flip, photometric = (step.get_applied_params() for step in transform.augment)
    expected, size = plain_train(
        sample, crop_size, scale["scale"], crop["window"], bool(flip), photometric["distortion"]
    )
    assert fields.keys() == {*expected, "id", "size"}
    assert fields["id"] == "0001"
    assert fields["size"].tolist() == list(size)
    assert fields["size"].dtype == torch.int64
    for name, values in expected.items():
        assert fields[name].is_contiguous()
        if name == "image":
            assert fields[name].dtype == torch.float32
            np.testing.assert_allclose(fields[name].numpy(), values, atol=2e-6)
        else:
            assert fields[name].numpy().dtype == values.dtype
            np.testing.assert_allclose(fields[name].numpy(), values, rtol=1e-6 if name == "depth" else 0)


@pytest.mark.parametrize("scale", [0.5, 0.77, 1.0, 1.31, 2.0])
def test_the_image_is_scaled_bilinearly(scale):
    image = cv2.GaussianBlur(make_sample(41, 53)["image"], (0, 0), 1.5)
    out = RandomScale().apply_with_params({"scale": scale}, image=image)["image"]
    size = int(41 * scale), int(53 * scale)
    assert out.shape == (*size, 3)
    taps = []  # per axis: the two source indices and the weight of the second
    for n, old in zip(size, image.shape, strict=False):
        at = np.clip((np.arange(n) + 0.5) * old / n - 0.5, 0, old - 1)
        low = np.minimum(np.floor(at).astype(int), old - 2)
        taps.append((low, low + 1, at - low))
    (y0, y1, fy), (x0, x1, fx) = taps
    rows = image[y0] * (1 - fy)[:, None, None] + image[y1] * fy[:, None, None]
    expected = rows[:, x0] * (1 - fx)[:, None] + rows[:, x1] * fx[:, None]
    assert np.abs(out - expected).max() <= 1


def test_a_marker_lands_in_the_same_place_in_the_image_and_all_labels():
    height, width = 60, 80
    marker = np.zeros((height, width), np.uint8)
    marker[20:36, 30:50] = 1
    sample = {"image": np.repeat(marker[..., None] * 255, 3, axis=2), "id": "m", **dict.fromkeys(CLASS_MAPS, marker)}
    sample["depth"] = np.where(marker == 1, np.float32(2), np.float32(4))
    sample["normals"] = np.where(marker[..., None] == 1, np.float32([0, 1, 0]), np.float32([0, 0, -1]))
    transform, seen = TrainTransform((48, 64)), 0
    for seed in range(40):
        fields = transform(sample, np.random.default_rng(seed))
        place = fields["edge"] == 1
        if place.sum() < 200:  # cut off by the crop, but for a sliver
            continue
        seen += 1
        for name in CLASS_MAPS:
            assert torch.equal(fields[name] == 1, place)
        scale = transform.augment[0].get_applied_params()["scale"]
        assert torch.allclose(fields["depth"][place], torch.tensor(2 / scale, dtype=torch.float32))
        assert torch.equal(fields["normals"][1] == 1, place)
        valid = fields["edge"] != IGNORE
        grey = fields["image"].sum(0)
        light = valid & (grey > (grey[valid].max() + grey[valid].min()) / 2)
        mask, box = place.numpy().astype(np.uint8), np.ones((3, 3))
        rim = cv2.dilate(mask, box) != cv2.erode(mask, box, borderType=cv2.BORDER_CONSTANT, borderValue=0)
        assert not ((light != place).numpy() & ~rim).any()
    assert seen > 20


def test_the_draws_follow_their_distributions():
    sample = {name: make_sample(12, 16)[name] for name in ("image", "sal", "id")}
    transform, scales, flips = TrainTransform((8, 8)), [], []
    for seed in range(1500):
        transform(sample, np.random.default_rng(seed))
        scale, _, flip, _ = (step.get_applied_params() for step in transform.augment)
        scales.append(scale["scale"])
        flips.append(bool(flip))
    assert stats.kstest(scales, stats.uniform(0.5, 1.5).cdf).pvalue > 0.01
    assert stats.binomtest(sum(flips), len(flips), 0.5).pvalue > 0.01


def test_the_draws_come_from_the_generator_alone():
    sample, transform = make_sample(40, 50), TrainTransform((32, 32))
    first = transform(sample, np.random.default_rng(11))
    np.random.seed(0)  # noqa: NPY002
    random.seed(0)
    other = transform(sample, np.random.default_rng(12))
    again = pickle.loads(pickle.dumps(transform))(sample, np.random.default_rng(11))
    assert all(torch.equal(first[k], again[k]) for k in first if k != "id")
    assert not torch.equal(first["image"], other["image"])


def test_val_normalises_and_pads_around_the_centre():
    sample = make_sample(5, 8)
    fields = ValTransform((8, 13))(sample, np.random.default_rng(0))
    inside = np.s_[..., 1:6, 2:10]  # three rows to share out, one before; five columns, two before
    assert fields["size"].tolist() == [5, 8]
    expected = (sample["image"] / 255 - MEAN) / STD
    np.testing.assert_allclose(fields["image"][inside], expected.transpose(2, 0, 1), atol=2e-6)
    np.testing.assert_array_equal(fields["normals"][inside], sample["normals"].transpose(2, 0, 1))
    for name in (*CLASS_MAPS, "depth"):
        np.testing.assert_array_equal(fields[name][inside], sample[name])
    for name in (*CLASS_MAPS, "depth", "normals", "image"):
        padding = torch.ones_like(fields[name], dtype=torch.bool)
        padding[inside] = False
        assert (fields[name][padding] == (0 if name == "image" else IGNORE)).all()


def test_human_parts_without_a_part_are_ignored_whole():
    sample = {name: make_sample(8, 8)[name] for name in ("image", "id")}
    nobody, somebody = np.zeros((2, 8, 8), np.uint8)
    nobody[0, 0], somebody[0, 0], somebody[7, 7] = IGNORE, IGNORE, 4
    transform, rng = ValTransform((8, 8)), np.random.default_rng(0)
    assert (transform({**sample, "human_parts": nobody}, rng)["human_parts"] == IGNORE).all()
    kept = transform({**sample, "human_parts": somebody}, rng)["human_parts"]
    np.testing.assert_array_equal(kept, somebody)


def test_human_parts_are_judged_by_the_crop_in_training():
    sample = {"image": np.zeros((40, 200, 3), np.uint8), "human_parts": np.zeros((40, 200), np.uint8), "id": "p"}
    sample["human_parts"][:, :100] = 3
    transform, kinds = TrainTransform((16, 16)), set()
    for seed in range(60):
        kinds.add(tuple(transform(sample, np.random.default_rng(seed))["human_parts"].unique().tolist()))
    assert kinds == {(IGNORE,), (3,), (0, 3)}  # never (0,)


def test_only_the_tasks_of_the_sample_come_out():
    sample = {name: make_sample(9, 9)[name] for name in ("image", "depth", "id")}
    assert TrainTransform((8, 8))(sample, np.random.default_rng(0)).keys() == {"image", "depth", "id", "size"}


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("image", np.zeros((8, 8, 3), np.float32), r"image of sample 7 as uint8 \(8, 8, 3\), got float32"),
        ("image", np.zeros((8, 8), np.uint8), r"image of sample 7 as uint8 \(8, 8, 3\), got uint8 \(8, 8\)"),
        ("semseg", np.zeros((8, 8), np.int64), r"semseg of sample 7 as uint8 \(8, 8\), got int64"),
        ("depth", np.ones((8, 9), np.float32), r"depth of sample 7 as float32 \(8, 8\), got float32 \(8, 9\)"),
        ("normals", np.ones((3, 8, 8), np.float32), r"normals of sample 7 as float32 \(8, 8, 3\)"),
        ("semantic", np.zeros((8, 8), np.uint8), "got semantic"),
    ],
)
@pytest.mark.parametrize("transform", [TrainTransform((8, 8)), ValTransform((8, 8))])
def test_a_raw_sample_of_another_layout_is_refused(transform, name, values, message):
    sample = {"image": np.zeros((8, 8, 3), np.uint8), "id": "7"} | {name: values}
    with pytest.raises(ValueError, match=message):
        transform(sample, np.random.default_rng(0))


def test_a_val_image_larger_than_the_crop_says_what_to_set():
    with pytest.raises(ValueError, match=r"at most \(8, 8\), got \(8, 9\) for sample 0001: set crop_size"):
        ValTransform((8, 8))(make_sample(8, 9), np.random.default_rng(0))
