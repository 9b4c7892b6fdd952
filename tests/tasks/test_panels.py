"""Panels: where each picture stands, and under which title."""

import numpy as np
import pytest

from mtmamba.tasks import panels
from mtmamba.tasks.panels import GAP, TITLE_HEIGHT
from mtmamba.tasks.pictures import Picture


def plain(height: int, width: int, value: int) -> Picture:
    return np.full((height, width, 3), value, np.uint8)


def test_panel_places_each_picture():
    rows = [
        {"Image": plain(300, 400, 10), "Depth\ntruth": plain(30, 40, 20)},
        {"Image": plain(400, 200, 30), "Depth\ntruth": plain(40, 20, 40)},
    ]
    panel = panels.panel(rows, tile_width=100)
    assert panel.shape == (TITLE_HEIGHT + 75 + GAP + 200 + GAP, 2 * (100 + GAP), 3)
    for (y, height), row in zip([(TITLE_HEIGHT, 75), (TITLE_HEIGHT + 75 + GAP, 200)], rows, strict=True):
        for x, picture in zip([0, 100 + GAP], row.values(), strict=True):
            assert (panel[y : y + height, x : x + 100] == picture[0, 0, 0]).all()
    titles = panel[:TITLE_HEIGHT]
    assert (titles[:, :100] < 100).any()  # dark letters in both columns, in the second on both lines
    assert (titles[:22, 104:] < 100).any()
    assert (titles[22:, 104:] < 100).any()


def test_longest_title_fits_its_column():
    titles = panels.panel([{"Semantic segmentation\nprediction": plain(10, 10, 0)}])[:TITLE_HEIGHT]
    assert (titles[:, -GAP:] == titles[0, -1]).all()


@pytest.mark.parametrize("rows", [[], [{"Image": plain(2, 2, 0)}, {"Depth": plain(2, 2, 0)}]])
def test_panel_of_unequal_rows(rows):
    with pytest.raises(ValueError, match="Expected rows of the same titled pictures"):
        panels.panel(rows)


def test_before_after_and_truth_stand_above_one_another():
    def row(photograph, prediction):
        values = {"Image": photograph, "Depth\nprediction": prediction, "Depth\ntruth": 9}
        return {title: plain(30, 40, value) for title, value in values.items()}

    picture = panels.before_and_after([row(1, 2), row(3, 4)], [row(1, 5), row(3, 6)], tile_width=80)
    tiles = picture[TITLE_HEIGHT:].reshape(6, 60 + GAP, 2, 80 + GAP, 3)[:, :60, :, :80].swapaxes(1, 2)
    assert [tile[0, 0, 0] for tile in tiles[:, 1]] == [2, 5, 9, 4, 6, 9]  # depth, image by image
    assert [tile[-1, -1, 0] for tile in tiles[:, 0]] == [1, 1, 1, 3, 3, 3]  # the photograph, but for a word on it
    words = tiles[:3, 0, :22]
    assert not any(np.array_equal(a, b) for a, b in [words[:2], words[1:], words[::2]])

    keyed = panels.before_and_after([row(1, 2)], [row(1, 5)], tile_width=80, keys={"Depth": lambda w: plain(7, w, 77)})
    below = keyed[TITLE_HEIGHT + 3 * (60 + GAP) :]
    assert below.shape == (7 + GAP, 2 * (80 + GAP), 3)
    assert (below[:7, 80 + GAP : -GAP] == 77).all()  # in the column of depth, below all rows
