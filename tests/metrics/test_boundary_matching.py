import math

import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import min_weight_full_bipartite_matching

from mtmamba.metrics.boundary.matching import Matching
from mtmamba.metrics.boundary.suppression import suppress_non_maxima
from mtmamba.metrics.boundary.thinning import thin


def scipy_matching(predicted, truth, radius):
    """Number of matches and least total cost: each predicted pixel has a dummy partner, which leaves it unmatched."""
    pixels, others = np.argwhere(predicted), np.argwhere(truth)
    unmatched = 100 * radius * (len(pixels) + len(others))
    distances = np.linalg.norm(pixels[:, None] - others[None], axis=-1)
    rows, columns = np.nonzero(distances <= radius)
    gains = distances[rows, columns] - 200 * radius  # against leaving both unmatched
    dummies = np.arange(len(pixels))
    costs = np.concatenate((gains, np.zeros(len(pixels)))) + 200 * radius + 1  # sparse matrices have no zeros
    where = np.concatenate((rows, dummies)), np.concatenate((columns, len(others) + dummies))
    graph = csr_matrix((costs, where), (len(pixels), len(others) + len(pixels)))
    chosen = min_weight_full_bipartite_matching(graph)
    matched = chosen[1] < len(others)
    return int(matched.sum()), unmatched + distances[chosen[0][matched], chosen[1][matched]].sum() - 200 * radius * sum(
        matched
    )


@pytest.mark.parametrize("seed", range(12))
def test_matching_costs_what_scipys_does_while_pixels_come_and_go(seed):
    rng = np.random.default_rng(seed)
    shape = rng.integers(5, 30, 2)
    truth, candidates = rng.random(shape) < rng.choice([0.1, 0.3]), rng.random(shape) < 0.6
    radius = float(rng.choice([0.5, 1, 2.3, 4]))
    matching = Matching(candidates, truth, radius)
    for density in (0.1, 0.3, 0.9, 0.5, 0.0, 1.0):
        predicted = candidates & (rng.random(shape) < density)
        matching.update(predicted)
        count, cost = scipy_matching(predicted, truth, radius)
        matched = np.zeros_like(candidates)
        matched[candidates] = matching.matched
        assert not (matched & ~predicted).any()
        assert matched.sum() == count
        # The chosen pixels alone allow the least cost, once those left out are paid for.
        alone, alone_cost = scipy_matching(matched, truth, radius)
        assert alone == count
        assert alone_cost + 100 * radius * (predicted & ~matched).sum() == pytest.approx(cost, abs=1e-4)


@pytest.mark.parametrize(("length", "matches"), [(150, 150), (199, 199), (201, 200), (400, 399)])
def test_a_match_that_costs_more_than_two_unmatched_pixels_is_not_made(length, matches):
    """Truth 0..n-1, prediction 1..n: shifting all costs n radii, leaving the two ends unmatched costs 200."""
    truth, predicted = np.zeros((2, 1, length + 1), bool)
    truth[0, :-1] = predicted[0, 1:] = True
    matching = Matching(predicted, truth, 1.0)
    matching.update(predicted)
    assert matching.matched.sum() == matches


@pytest.mark.parametrize(("shift", "matches"), [((3, 4), 1), ((4, 4), 0), ((0, 5), 1), ((0, 6), 0)])
def test_the_radius_belongs_to_the_disc(shift, matches):
    truth, predicted = np.zeros((2, 20, 20), bool)
    truth[8, 8] = predicted[8 + shift[0], 8 + shift[1]] = True
    matching = Matching(predicted, truth, 5.0)
    matching.update(predicted)
    assert matching.matched.sum() == matches


@pytest.mark.parametrize(("predicted", "true"), [(False, True), (True, False), (False, False)])
def test_nothing_matches_where_one_side_is_empty(predicted, true):
    matching = Matching(np.ones((4, 5), bool), np.full((4, 5), true), 2.0)
    matching.update(np.full((4, 5), predicted))
    assert not matching.matched.any()


def written_out_thinning(mask):
    """Conditions G1, G2, G3 and G3' of the two sub-iterations, pixel by pixel."""
    image = np.pad(mask, 1)
    while True:
        before = image.copy()
        for half in (0, 1):
            old = image.copy()
            for y, x in np.argwhere(old):
                ring = [(0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1), (1, 0), (1, 1)]
                n = [None] + [bool(old[y + dy, x + dx]) for dy, dx in ring]
                n.append(n[1])
                g1 = sum(not n[2 * i - 1] and (n[2 * i] or n[2 * i + 1]) for i in range(1, 5)) == 1
                n1 = sum(n[2 * k - 1] or n[2 * k] for k in range(1, 5))
                n2 = sum(n[2 * k] or n[2 * k + 1] for k in range(1, 5))
                if half == 0:
                    g3 = (n[2] or n[3] or not n[8]) and n[1]
                else:
                    g3 = (n[6] or n[7] or not n[4]) and n[5]
                if g1 and 2 <= min(n1, n2) <= 3 and not g3:
                    image[y, x] = False
        if (image == before).all():
            return image[1:-1, 1:-1]


def test_thinning_of_every_neighbourhood_follows_its_definition():
    for code in range(512):
        mask = np.pad((code >> np.arange(9) & 1).astype(bool).reshape(3, 3), 1)
        assert (thin(mask) == written_out_thinning(mask)).all(), code


@settings(max_examples=60, deadline=None)
@given(arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 11))))
def test_thinning_follows_its_definition(mask):
    assert (thin(mask) == written_out_thinning(mask)).all()


def written_out_suppression(probability):
    """The definition with loops, its filter by scipy."""
    height, width = probability.shape
    kernel = np.array([1, 2, 3, 4, 5, 4, 3, 2, 1]) / 25
    smooth = probability
    for axis in (0, 1):
        smooth = scipy.ndimage.convolve1d(smooth, kernel, axis, mode="reflect")

    def slope(image, axis):
        image = np.moveaxis(image, axis, 0)
        inner = (image[2:] - image[:-2]) / 2
        return np.moveaxis(np.concatenate((image[1:2] - image[:1], inner, image[-1:] - image[-2:-1])), 0, axis)

    oxx, oxy, oyy = slope(slope(smooth, 1), 1), slope(slope(smooth, 0), 1), slope(slope(smooth, 0), 0)

    def value(x, y):
        x, y = min(max(x, 0), width - 1.001), min(max(y, 0), height - 1.001)
        x0, y0 = int(x), int(y)
        corners = probability[y0 : y0 + 2, x0 : x0 + 2]
        return np.array([1 - y + y0, y - y0]) @ corners @ np.array([1 - x + x0, x - x0])

    result = np.zeros_like(probability)
    fade = min(5, width // 2, height // 2)
    for y in range(height):
        for x in range(width):
            angle = math.atan(oyy[y, x] * np.sign(-oxy[y, x]) / (oxx[y, x] + 1e-5)) % math.pi
            step = math.cos(angle), math.sin(angle)
            neighbours = [value(x + sign * step[0], y + sign * step[1]) for sign in (1, -1)]
            if 1.01 * probability[y, x] >= max(neighbours):
                edges = min(x, width - 1 - x) / fade, min(y, height - 1 - y) / fade
                result[y, x] = probability[y, x] * min(edges[0], 1) * min(edges[1], 1)
    return result


@pytest.mark.parametrize("shape", [(30, 41), (7, 25), (2, 3)])
@pytest.mark.parametrize("smooth", [0, 2])
@pytest.mark.parametrize("scale", [1, 1e-5])  # so faint a map's orientation hangs on the 1e-5 of the definition
def test_suppression_follows_its_definition(shape, smooth, scale):
    noise = scale * np.random.default_rng(3).random(shape)
    probability = scipy.ndimage.gaussian_filter(noise, smooth)
    suppressed = suppress_non_maxima(probability)
    assert np.abs(suppressed - written_out_suppression(probability)).max() < 1e-12 * scale
    assert shape == (2, 3) or 0 < np.count_nonzero(suppressed) < suppressed.size


def test_a_neighbour_that_is_one_percent_above_takes_nothing_away():
    for neighbour, kept in ((0.5 * 1.01, True), (np.nextafter(0.5 * 1.01, 1), False)):
        probability = np.zeros((20, 20))
        probability[:, 9], probability[:, 10] = 0.5, neighbour  # upright, so that its neighbours are whole pixels
        suppressed = suppress_non_maxima(probability)[10]
        assert (suppressed[9] > 0) == kept
        assert suppressed[10] == neighbour


@pytest.mark.parametrize("angle", [10, 30, 45, 70, 90, 130, 160])
def test_suppression_keeps_a_ridges_crest(angle):
    """A straight ridge of width 3: what is left lies within a pixel of its middle line."""
    y, x = np.mgrid[-30:31, -30:31]
    distance = np.abs(x * math.sin(math.radians(angle)) - y * math.cos(math.radians(angle)))
    suppressed = suppress_non_maxima(np.exp(-((distance / 3) ** 2)))
    inside = np.hypot(x, y) < 20
    assert distance[inside & (suppressed > 0.5)].max() <= 1
    assert (suppressed[inside] > 0.5).sum() >= 26  # the crest passes 27 rows or columns at least
