import random

import numpy as np
import pytest
from scipy import stats

from mtmamba.data.transforms import RandomCrop
from mtmamba.types import IGNORE


def crop_starts(semseg, crop_size, draws, *, with_semseg=True):
    """How often each window of a wide strip is kept."""
    crop = RandomCrop(crop_size)
    crop.set_random_state(np.random.default_rng(5), random.Random(5))
    image = np.zeros((*semseg.shape, 3), np.uint8)
    maps = {"image": image, "semseg": semseg} if with_semseg else {"image": image}
    starts = np.zeros(semseg.shape[1] - crop_size[1] + 1, int)
    for _ in range(draws):
        crop(**maps)
        rows, cols = crop.get_applied_params()["window"]
        assert (rows.start, cols.stop - cols.start) == (0, crop_size[1])
        starts[cols.start] += 1
    return starts


def test_the_crop_is_redrawn_up_to_ten_times_until_its_classes_vary():
    semseg = np.full((6, 40), 7, np.uint8)
    semseg[:, 20:23] = 9  # more than a quarter of a window of 8 that holds all three columns ...
    semseg[:, :17] = IGNORE  # ... or of one whose other columns are mostly ignored
    good = []
    for start in range(33):
        classes = semseg[:, start : start + 8]
        _, counts = np.unique(classes[classes != IGNORE], return_counts=True)
        good.append(len(counts) > 1 and counts.max() / counts.sum() < 0.75)
    good, share = np.array(good), np.mean(good)
    draws = 4000
    miss = (1 - share) ** 11  # the first draw and ten more
    expected = np.where(good, (1 - miss) / good.sum(), miss / (~good).sum()) * draws
    assert stats.chisquare(crop_starts(semseg, (6, 8), draws), expected).pvalue > 0.01


def test_the_crop_is_drawn_evenly_without_semseg_or_when_nothing_varies():
    semseg = np.full((6, 20), 7, np.uint8)
    assert stats.chisquare(crop_starts(semseg, (6, 8), 2000, with_semseg=False)).pvalue > 0.01
    assert stats.chisquare(crop_starts(semseg, (6, 8), 2000)).pvalue > 0.01


@pytest.mark.parametrize("largest", [74, 75])
def test_the_redraw_rule_is_strict_at_three_quarters(largest):
    semseg = np.full((2, 100), 3, np.uint8)
    semseg[0, :] = IGNORE
    semseg[1, largest:] = 4
    crop = RandomCrop((1, 100))
    crop.set_random_state(np.random.default_rng(0), random.Random(0))
    rows = []
    for _ in range(300):
        crop(image=np.zeros((2, 100, 3), np.uint8), semseg=semseg)
        rows.append(crop.get_applied_params()["window"][0].start)
    # 74 %: the lower row is taken at sight and missed with 2**-11; 75 %: both rows are equally bad
    assert (np.mean(rows) > 0.98) == (largest == 74)
