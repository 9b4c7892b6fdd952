import os

import cv2
import numpy as np
import pytest
import torch

from mtmamba.tasks import pictures
from mtmamba.tasks.pictures import IGNORED_COLOUR
from mtmamba.types import IGNORE


def test_photograph_undoes_the_normalisation():
    original = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    normalised = (original / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    assert np.array_equal(pictures.photograph(torch.from_numpy(normalised).movedim(-1, 0).float()), original)


def test_classes_have_the_colours_of_pascal_voc():
    known = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 7: (128, 128, 128), 15: (192, 128, 128), 20: (0, 64, 128)}
    picture = pictures.class_colours(torch.tensor([[*known, IGNORE]], dtype=torch.uint8))
    assert [tuple(colour) for colour in picture[0].tolist()] == [*known.values(), IGNORED_COLOUR]


def test_palette_is_distinct():
    palette = pictures.palette()
    assert len({tuple(colour) for colour in palette.tolist()}) == 256
    lab = cv2.cvtColor(palette[None].astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[0]
    added = [*range(21, 40), IGNORE]
    distances = np.linalg.norm(lab[added, None] - lab[:40], axis=-1)
    assert distances[distances > 0].min() > 15  # 2.3 is just noticeable


def test_depth_runs_from_violet_to_yellow():
    picture = pictures.depth_colours(torch.tensor([[0.0, 5**0.5, 10.0, 30.0, IGNORE]]))
    near, middle, far, farther, ignored = picture[0].astype(int)
    assert np.abs(near - (68, 1, 84)).max() <= 2  # viridis, both ends and the middle
    assert np.abs(middle - (33, 145, 140)).max() <= 4
    assert np.abs(far - (253, 231, 37)).max() <= 2
    assert np.array_equal(far, farther)
    assert tuple(ignored) == IGNORED_COLOUR


def test_depth_runs_between_the_distances_of_a_dataset():
    usual = pictures.depth_colours(torch.tensor([[0.5, 5**0.5, 10.0]])).astype(int)
    for near, far in ((0.1, 1.0), (1, 200)):
        depth = torch.tensor([[near, (near * far) ** 0.5, far]])
        assert np.abs(pictures.depth_colours(depth, (near, far)) - usual).max() <= 2


@pytest.mark.parametrize(
    ("low", "high", "expected"), [(0.1, 1.0, (1 / 16, 1)), (1, 200, (1, 256)), (2.5, 2.6, (2, 4)), (2.0, 2.0, (2, 4))]
)
def test_a_range_of_depths_is_powers_of_two_around_nearly_all(low, high, expected):
    depths = np.geomspace(low, high, 1000)
    depths[:10], depths[10:20] = 0.001, 99_999  # a hundredth each
    depths[20:30] = np.nan
    assert pictures.depth_range(np.append(depths, [0] * 500)) == expected
    assert pictures.depth_range(np.zeros(3)) is None


def test_normals_are_colours():
    normals = torch.tensor([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [IGNORE] * 3]).T[:, None]
    assert pictures.normal_colours(normals).tolist() == [[[128, 128, 255], [0, 128, 128], list(IGNORED_COLOUR)]]


@pytest.mark.parametrize("values", [torch.tensor([[0, 1, 255]], dtype=torch.uint8), torch.tensor([[0.0, 1.0, 255.0]])])
def test_greys(values):
    assert pictures.greys(values).tolist() == [[[0, 0, 0], [255, 255, 255], list(IGNORED_COLOUR)]]


@pytest.mark.parametrize(("full", "inner", "corner"), [((7, 9), (4, 8), (1, 0)), ((5, 5), (5, 5), (0, 0))])
def test_without_padding(full, inner, corner):
    picture = np.zeros((*full, 3), np.uint8)
    picture[corner[0] : corner[0] + inner[0], corner[1] : corner[1] + inner[1]] = 9
    cropped = pictures.without_padding(picture, inner)
    assert cropped.shape == (*inner, 3)
    assert (cropped == 9).all()


def test_png_keeps_every_pixel(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (6, 7, 3), dtype=np.uint8)
    path = tmp_path / "new" / "panel.png"
    pictures.save_picture(path, picture)
    assert np.array_equal(cv2.imread(str(path))[..., ::-1], picture)
    assert [file.name for file in path.parent.iterdir()] == ["panel.png"]


def test_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "panel.png"
    path.write_bytes(b"old")

    def interrupted(source, destination):
        assert source.stat().st_size > 0
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pictures.save_picture(path, np.zeros((4, 4, 3), np.uint8))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_large_maps_are_drawn_in_bands_as_small_ones(monkeypatch):
    depth = torch.rand(50, 30) * 12
    normals, classes = torch.nn.functional.normalize(torch.randn(3, 50, 30), dim=0), torch.randint(0, 40, (50, 30))
    draws = [
        lambda: pictures.depth_colours(depth, (0.25, 5.0)),
        lambda: pictures.normal_colours(normals),
        lambda: pictures.class_colours(classes),
        lambda: pictures.greys(depth / 12),
    ]
    whole = [draw() for draw in draws]
    monkeypatch.setattr(pictures, "PIXELS_AT_ONCE", 30 * 7)
    assert all(np.array_equal(draw(), picture) for draw, picture in zip(draws, whole, strict=True))
