"""Images that lack some tasks' labels: which labels there are, and what their losses then weigh."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mtmamba.data.layouts import Layout

Labelled = NDArray[np.bool_]
"""``(images, tasks)``: which label an image has."""

_THREADS = 16  # many small requests, which a network's file system answers slowly, one by one
_DRAWS = 2.0**64


def find_labels(
    partial: bool | str, layout: Layout, root: Path, ids: Sequence[str], tasks: Sequence[str], split: str
) -> Labelled | None:
    """Return which labels the images of a split have; None where all have all.

    Args:
        partial: ``false``: every image has the files of every task. ``true``: those that exist. Of the training split,
            though every file is there, ``one_label``: one task of each image; ``random:0.5``: half of all labels. These
            are drawn by a hash of image and task, so that they are the same in every run and never depend on the order.
        layout: where files lie.
        root: the dataset's folder.
        ids: of the images.
        tasks: to look for.
        split: of the images.

    Raises:
        ValueError: another ``partial``.

    Source: Li et al., Learning Multiple Dense Prediction Tasks from Partially Annotated Data, CVPR 2022, for the
        protocols ``one_label`` and ``random``.
    """
    share = drawn_share(partial)
    if partial is True:
        with ThreadPoolExecutor(_THREADS) as pool:
            rows = pool.map(lambda name: [layout.exists(root, task, name) for task in tasks], ids)
            return np.array(list(rows), bool)
    if partial is False or split != "train":
        return None
    draws = np.array([[_draw(task, name) for task in tasks] for name in ids])
    return draws == draws.min(1, keepdims=True) if share is None else draws < share


def drawn_share(partial: bool | str) -> float | None:
    """Return the share of labels that ``random:SHARE`` keeps, None for ``false``, ``true`` and ``one_label``.

    Raises:
        ValueError: none of these.

    >>> drawn_share("random:0.25")
    0.25
    """
    if partial is True or partial is False or partial == "one_label":
        return None
    method, _, number = str(partial).partition(":")
    try:
        share = float(number)
    except ValueError:
        share = 0.0
    if method != "random" or not 0 < share <= 1:
        raise ValueError(
            f"Expected data.partial=false|true|one_label|random:SHARE, got {partial}: choose one of those."
        )
    return share


def loss_weights(labelled: Labelled) -> NDArray[np.float32]:
    """Return what the losses of these images weigh, so that their mean is one over the images that have the label.

    Shape: ``(G, T)`` → ``(G, T)``: 0 without the label, else G over the number of images that have it.

    >>> loss_weights(np.array([[True, True], [False, True]])).tolist()
    [[2.0, 1.0], [0.0, 1.0]]
    """
    return (labelled * (len(labelled) / labelled.sum(0).clip(1))).astype(np.float32)


def _draw(task: str, name: str) -> float:
    """Return a number in [0, 1) that stands for one label."""
    return int.from_bytes(blake2b(f"{task}/{name}".encode(), digest_size=8).digest(), "little") / _DRAWS
