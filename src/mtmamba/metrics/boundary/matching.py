"""One-to-one matching of predicted to true boundary pixels at least cost, kept optimal while pixels come and go.

A match costs the distance of its two pixels, at most the radius; an unmatched pixel, predicted or true, 100 radii. The
proof of optimality is a price per pixel (the dual problem): at most 100 radii, and for any two pixels that could match,
together at most their distance. When matched pixels' prices are together their distance, and unmatched pixels' prices
100 radii, no matching costs less. When a pixel appears, or loses its partner, one search for the cheapest alternating
path restores both. So the binary maps of a hundred thresholds, each of which differs from the next by few pixels, cost
little more than one map.

Distances are integers, in units of 2⁻²⁰ pixels, so that prices are exact.
Source: Kuhn, The Hungarian method for the assignment problem, 1955; kept up as by Mills-Tettey, Stentz and Dias, The
dynamic Hungarian algorithm for the assignment problem with changing costs, 2007. The costs are the benchmark's.
"""

import heapq

import numpy as np
from numba import njit
from numpy.typing import NDArray

UNIT = 2**20
"""A distance of one pixel as an integer."""

OUTLIER_COST = 100
"""The cost of an unmatched pixel, in radii."""

UNMATCHED = -1


class Matching:
    """The least-cost matching of a changing set of predicted pixels to a fixed set of true ones.

    Args:
        candidates: ``(H, W)`` bool, every pixel that will ever be predicted.
        truth: ``(H, W)`` bool.
        radius: in pixels; pixels farther apart never match.
    """

    def __init__(self, candidates: NDArray[np.bool_], truth: NDArray[np.bool_], radius: float) -> None:
        self._pixels = np.flatnonzero(candidates)
        self._num_truths = int(np.count_nonzero(truth))
        num_nodes = self._num_truths + len(self._pixels)
        self._graph = _graph(candidates, truth, radius)
        self._outlier = round(OUTLIER_COST * radius * UNIT)
        self._active = np.arange(num_nodes) < self._num_truths
        self._mates = np.full(num_nodes, UNMATCHED, np.int32)
        self._prices = np.full(num_nodes, self._outlier, np.int64)
        self._distances = np.full(num_nodes, _FAR, np.int64)
        self._parents = np.empty(num_nodes, np.int32)

    def update(self, predicted: NDArray[np.bool_]) -> None:
        """Match another set of predicted pixels, ``(H, W)`` bool, all of them among the candidates."""
        wanted = predicted.ravel()[self._pixels]
        active = self._active[self._num_truths :]
        offset = self._num_truths
        state = (*self._graph, self._outlier, self._active, self._mates, self._prices, self._distances, self._parents)
        _insert(np.flatnonzero(wanted & ~active) + offset, *state)
        _remove(np.flatnonzero(active & ~wanted) + offset, *state)

    @property
    def matched(self) -> NDArray[np.bool_]:
        """Which candidates have a partner: ``(candidates,)`` bool, in the order of rows."""
        return self._mates[self._num_truths :] != UNMATCHED


_FAR = np.iinfo(np.int64).max
_Graph = tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int64]]


def _graph(candidates: NDArray[np.bool_], truth: NDArray[np.bool_], radius: float) -> _Graph:
    """Return the pixels of the other kind within the radius, as compressed rows: starts, neighbours, distances.

    Nodes are the true pixels, then the candidates, each in the order of rows.
    """
    reach = int(radius)
    rows, columns = np.mgrid[-reach : reach + 1, -reach : reach + 1].reshape(2, -1)
    squares = rows**2 + columns**2
    inside = squares <= radius**2
    offsets = np.stack((rows, columns), 1)[inside]
    costs = np.rint(np.sqrt(squares[inside]) * UNIT).astype(np.int64)
    pixels = np.concatenate((np.argwhere(truth), np.argwhere(candidates))) + reach
    nodes = np.full((2, truth.shape[0] + 2 * reach, truth.shape[1] + 2 * reach), UNMATCHED, np.int32)
    num_truths = int(np.count_nonzero(truth))
    numbers = np.arange(len(pixels))
    nodes[1][tuple(pixels[:num_truths].T)] = numbers[:num_truths]
    nodes[0][tuple(pixels[num_truths:].T)] = numbers[num_truths:]
    return _neighbours(pixels, num_truths, nodes, offsets, costs)


@njit(cache=True)
def _neighbours(pixels, num_truths, nodes, offsets, costs):  # type: ignore[no-untyped-def]
    starts = np.zeros(len(pixels) + 1, np.int64)
    for fill in (False, True):
        if fill:
            starts = np.cumsum(starts)
            neighbours = np.empty(starts[-1], np.int32)
            distances = np.empty(starts[-1], np.int64)
        for i in range(len(pixels)):
            others = nodes[0] if i < num_truths else nodes[1]
            count = 0
            for k in range(len(offsets)):
                other = others[pixels[i, 0] + offsets[k, 0], pixels[i, 1] + offsets[k, 1]]
                if other != UNMATCHED:
                    if fill:
                        neighbours[starts[i] + count] = other
                        distances[starts[i] + count] = costs[k]
                    count += 1
            if not fill:
                starts[i + 1] = count
    return starts, neighbours, distances


@njit(cache=True)
def _insert(new, starts, neighbours, lengths, outlier, active, mates, prices, distances, parents):  # type: ignore[no-untyped-def]
    for node in new:
        active[node] = True
        price = outlier
        for k in range(starts[node], starts[node + 1]):
            price = min(price, lengths[k] - prices[neighbours[k]])
        prices[node] = price
        _augment(node, starts, neighbours, lengths, outlier, active, mates, prices, distances, parents)


@njit(cache=True)
def _remove(old, starts, neighbours, lengths, outlier, active, mates, prices, distances, parents):  # type: ignore[no-untyped-def]
    for node in old:
        active[node] = False
        partner = mates[node]
        if partner != UNMATCHED:
            mates[node] = mates[partner] = UNMATCHED
            _augment(partner, starts, neighbours, lengths, outlier, active, mates, prices, distances, parents)


@njit(cache=True)
def _augment(root, starts, neighbours, lengths, outlier, active, mates, prices, distances, parents):  # type: ignore[no-untyped-def]
    """Restore optimality when only ``root``, unmatched, is priced below an unmatched pixel's price.

    Dijkstra's search over alternating paths: from a pixel of the root's side to any of the other side, from that to its
    partner. A path may end at an unmatched pixel of the other side, or leave one of the root's side without partner.
    """
    best = outlier - prices[root]  # of leaving the root unmatched
    if best == 0:
        return
    last = UNMATCHED  # the path's end on the other side
    left = root  # the pixel that ends up unmatched; UNMATCHED for none
    settled = [(np.int64(0), np.int32(root))]
    touched = [np.int32(root)]
    touched.clear()
    heap = [(np.int64(0), np.int32(root))]
    heap.clear()
    node, base = np.int32(root), np.int64(0)
    while True:
        for k in range(starts[node], starts[node + 1]):
            other = neighbours[k]
            if not active[other]:
                continue
            reached = base + lengths[k] - prices[node] - prices[other]
            if reached < best and reached < distances[other]:
                if distances[other] == _FAR:
                    touched.append(other)
                distances[other] = reached
                parents[other] = node
                if mates[other] == UNMATCHED:
                    best, last, left = reached, other, UNMATCHED
                else:
                    heapq.heappush(heap, (reached, other))
        found = False
        while heap:
            base, other = heapq.heappop(heap)
            if base < best and base == distances[other]:
                found = True
                break
        if not found:
            break
        node = mates[other]
        settled.append((base, node))
        if base + outlier - prices[node] < best:
            best, last, left = base + outlier - prices[node], other, node
    for base, node in settled:
        if base < best:
            prices[node] += best - base
            if node != root:
                prices[mates[node]] -= best - base
    for other in touched:
        distances[other] = _FAR
    if left != UNMATCHED:
        mates[left] = UNMATCHED
    while last != UNMATCHED:
        node = parents[last]
        following = mates[node]
        mates[node], mates[last] = last, node
        last = following
