"""Keys to colours, below the columns of a panel."""

from functools import partial

import numpy as np
import pytest
import torch

from mtmamba.tasks import picture_keys, select_tasks
from mtmamba.tasks.legends import NO_LEGEND, Legend
from mtmamba.tasks.panels import GAP, panel
from mtmamba.tasks.pictures import depth_colours, palette

SEMSEG, DEPTH = select_tasks(["semseg", "depth"])
NAMES = [f"class {i}" for i in range(40)]


def rows(classes):
    """A panel's row with a map of classes as prediction and truth."""
    drawn = SEMSEG.picture(torch.tensor(classes, dtype=torch.uint8))
    grey = np.full((*drawn.shape[:2], 3), 99, np.uint8)
    titles = (f"{task.title}\n{kind}" for task in (SEMSEG, DEPTH) for kind in ("prediction", "truth"))
    return [{"Image": grey, **{title: drawn if SEMSEG.title in title else grey for title in titles}}]


def colours(picture):
    return {tuple(colour) for colour in picture.reshape(-1, 3).tolist()}


def test_classes_have_a_key_to_those_that_are_shown():
    shown = rows([[3, 7], [7, 255]])
    key = picture_keys([SEMSEG, DEPTH], shown, {"semseg": NAMES}, {})[SEMSEG.title](300)
    found = [i for i in range(40) if tuple(palette()[i].tolist()) in colours(key)]
    assert found == [3, 7]
    assert key.shape[1:] == (300, 3)


def test_classes_without_names_have_no_key():
    """Such as those of a folder whose dataset.yaml says how many there are."""
    assert picture_keys([SEMSEG], rows([[3, 7]]), {}, {})[SEMSEG.title](300).shape == (0, 300, 3)


def test_depth_has_a_bar_of_the_colours_that_metres_have():
    key = picture_keys([SEMSEG, DEPTH], rows([[0]]), {"semseg": NAMES}, {})[DEPTH.title](400)
    bar = key[10].astype(int)  # a row through the bar
    nearest, farthest = depth_colours(torch.tensor([[0.1, 20.0]]))[0].astype(int)
    assert abs(bar[0] - nearest).max() <= 4
    assert abs(bar[-1] - farthest).max() <= 4
    (word,) = [i for i, (text, _) in enumerate(DEPTH.legend((), DEPTH.picture).entries) if text == "2 m"]
    place = round(399 * word / (len(DEPTH.legend((), DEPTH.picture).entries) - 1))
    assert abs(bar[place] - depth_colours(torch.tensor([[2.0]]))[0, 0].astype(int)).max() <= 6


@pytest.mark.parametrize(
    ("near", "far", "words"),
    [
        (0.1, 1, ["0.125 m", "0.25 m", "0.5 m", "1 m"]),
        (1, 200, ["1 m", "4 m", "16 m", "64 m"]),
        (0.001, 1000, ["0.003906 m", "0.0625 m", "1 m", "16 m", "256 m"]),
        (2, 4, ["2 m", "4 m"]),
    ],
)
def test_the_bar_of_another_range_has_its_metres(near, far, words):
    own = {"depth": partial(depth_colours, shown=(near, far))}
    legend = DEPTH.legend((), own["depth"])
    assert [word for word, _ in legend.entries if word] == words
    ends = depth_colours(torch.tensor([[near, far]]), (near, far))[0].astype(int)
    assert np.abs(ends[0] - legend.entries[0][1]).max() <= 2
    assert np.abs(ends[1] - legend.entries[-1][1]).max() <= 2
    drawn = picture_keys([SEMSEG, DEPTH], rows([[0]]), {"semseg": NAMES}, own)[DEPTH.title](600)
    assert np.array_equal(drawn, legend.drawn(600))


def test_a_range_out_of_sight_has_no_bar():
    assert DEPTH.legend((), partial(depth_colours, shown=(1e-6, 1e-5))) == NO_LEGEND


def test_keys_stand_below_both_columns_of_their_task():
    shown = rows([[3, 7], [7, 255]])
    plain = panel(shown, tile_width=100)
    key = np.full((30, 204, 3), 7, np.uint8)
    marked = panel(shown, tile_width=100, keys={DEPTH.title: lambda width: key[:, :width]})
    assert (marked[: len(plain)] == plain).all()
    left = 3 * (100 + GAP)
    assert (marked[len(plain) : len(plain) + 30, left : left + 204] == 7).all()
    assert (marked[len(plain) :, :left] == 245).all()


def test_what_has_no_entries_takes_no_room():
    assert Legend(()).drawn(80).shape == (0, 80, 3)
