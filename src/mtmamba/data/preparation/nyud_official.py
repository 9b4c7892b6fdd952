"""NYUDv2 from its official files: ``nyu_depth_v2_labeled.mat``, ``splits.mat`` and ``classMapping40.mat``.

The 894 labels become 40 classes by the mapping of Gupta et al. (CVPR 2013). Frames are cut to where both sensors see.
Depth is the filled-in one; **normals are derived from depth and boundaries from labels**, so that their scores do not
compare with those on the published archive.
"""

from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import scipy.io
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from mtmamba.data.geometry import normals_from_depth
from mtmamba.data.layouts import DatasetError

LABELED, SPLITS_FILE, MAPPING = "nyu_depth_v2_labeled.mat", "splits.mat", "classMapping40.mat"
WINDOW = (slice(45, 470), slice(41, 601))
"""Rows and columns of the 480 x 640 frame that both sensors see: 425 x 560."""
FOCAL, CENTRE = (518.857901, 519.469611), (325.582449, 253.736166)
"""The colour camera's, in pixels of the whole frame (the dataset's toolbox, camera_params.m)."""
NUM_CLASSES = 40


def convert(source: Path, folder: Path) -> bool:
    """Write the layout of NYUDv2 from the official files; return whether the source is they.

    Args:
        source: the labelled ``.mat``, or its folder; the two small files lie beside it.
        folder: to write to.

    Raises:
        DatasetError: one of the three is missing or another file.
        ModuleNotFoundError: h5py, which reads them, is not installed.
    """
    labeled = source / LABELED if source.is_dir() else source
    if not labeled.is_file() or labeled.suffix != ".mat":
        return False
    train, val = _splits(labeled.with_name(SPLITS_FILE))
    mapping = _read_mat(labeled.with_name(MAPPING), "mapClass", "its 894 classes' numbers from 1 to 40")["mapClass"]
    classes = np.concatenate([[0], mapping.ravel()]).astype(np.uint8)
    if classes.max() > NUM_CLASSES:
        raise DatasetError(
            f"Expected classes 1..40 in {labeled.with_name(MAPPING)}, got {classes.max()}: get it again."
        )
    try:
        with _h5py().File(labeled) as file:
            images, depths, labels = (file[key] for key in ("images", "depths", "labels"))
            frames = range(len(images))
            if max(train.max(), val.max()) > len(frames) or int(np.asarray(labels).max()) >= len(classes):
                raise DatasetError(
                    f"Expected {len(frames)} frames and labels below {len(classes)} in {labeled}, got splits up to "
                    f"{max(train.max(), val.max())} and labels up to {np.asarray(labels).max()}: these files do not "
                    "belong together."
                )
            console = Console(stderr=True)
            for i in track(frames, "Frames", console=console, transient=True, disable=not console.is_terminal):
                # MATLAB's arrays come with their axes reversed: (3, 640, 480) and (640, 480)
                _write(folder, f"{i + 1:04d}", images[i].transpose(2, 1, 0), depths[i].T, classes[labels[i].T])
    except (OSError, KeyError, ValueError, IndexError, TypeError) as error:
        if isinstance(error, DatasetError) or getattr(error, "errno", None) is not None:
            raise
        raise DatasetError(
            f"Expected images, depths and labels (HDF5) in {labeled}, got {error}: get {LABELED} again."
        ) from error
    (folder / "gt_sets").mkdir()
    for split, numbers in (("train", train), ("val", val)):
        text = "".join(f"{number:04d}\n" for number in sorted(numbers))
        (folder / f"gt_sets/{split}.txt").write_text(text, encoding="utf-8")
    return True


def _h5py() -> ModuleType:
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"Expected h5py, which reads {LABELED}, got none: pip install 'mtmamba[prepare]'."
        ) from error
    return h5py


def _read_mat(path: Path, key: str, words: str) -> dict[str, Any]:
    if not path.is_file():
        raise DatasetError(f"Expected {path} with {key}, {words}, got no such file: put it beside {LABELED}.")
    try:
        found: dict[str, Any] = scipy.io.loadmat(path)
    except (ValueError, TypeError, NotImplementedError, OSError) as error:
        raise DatasetError(f"Expected a MATLAB file {path}, got {error}: get it again.") from error
    if key not in found:
        raise DatasetError(f"Expected {key} in {path}, {words}, got {sorted(k for k in found if k[0] != '_')}.")
    return found


def _splits(path: Path) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    found = _read_mat(path, "trainNdxs", "the numbers of the training frames")
    found |= _read_mat(path, "testNdxs", "the numbers of the test frames")
    return found["trainNdxs"].ravel().astype(np.int64), found["testNdxs"].ravel().astype(np.int64)


def _write(folder: Path, name: str, image: NDArray[Any], depth: NDArray[Any], classes: NDArray[np.uint8]) -> None:
    rgb, metres, labels = image[WINDOW], np.ascontiguousarray(depth[WINDOW], np.float32), classes[WINDOW]
    rows, columns = WINDOW
    normals = normals_from_depth(metres, FOCAL, (CENTRE[0] - columns.start, CENTRE[1] - rows.start))
    edge = np.zeros(labels.shape, np.uint8)
    edge[:, 1:][labels[:, 1:] != labels[:, :-1]] = 255
    edge[1:][labels[1:] != labels[:-1]] = 255
    vectors = np.rint((normals + 1) * 127.5).astype(np.uint8)  # no normal: 127 or 128
    _save(folder / f"images/{name}.png", rgb[..., ::-1])
    _save(folder / f"segmentation/{name}.png", labels)
    _save(folder / f"normals/{name}.png", vectors[..., ::-1])
    _save(folder / f"edge/{name}.png", edge)
    path = folder / f"depth/{name}.npy"
    path.parent.mkdir(exist_ok=True)
    np.save(path, metres)


def _save(path: Path, pixels: NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", np.ascontiguousarray(pixels))[1].tobytes())
