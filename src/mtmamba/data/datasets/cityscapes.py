"""Cityscapes: 2,975 training and 500 validation photographs of streets, 1024 x 2048, with two tasks.

``semseg``: 19 classes out of the 34 labelIds of gtFine. ``depth``: disparity in pixels of the full-size image, from 16
bits: (v - 1) / 256. Not measured is what is stored as 0, or as 1, which also gives 0. Ids are ``SPLIT/CITY/NAME``, as
in the official folders.

Two facts of the released program matter. Where the labelId is 10, disparity is 0 and counts in the loss: it means the
sky, though in Cityscapes' own list 10 is rail track and 23 the sky. So it is here. What was not measured is -1 there
and counts in the loss, too: here it is ignored, unless ``data.invalid=as_released``.
"""

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mtmamba.data.datasets.record import ELSEWHERE, SPLITS, DatasetRecord, Source
from mtmamba.data.layouts import DatasetError, Layout
from mtmamba.data.readers import fail, read_gray, read_stored
from mtmamba.types import IGNORE

if TYPE_CHECKING:
    from torch import Tensor

    from mtmamba.tasks import Task

CLASSES = {
    7: "road", 8: "sidewalk", 11: "building", 12: "wall", 13: "fence", 17: "pole", 19: "traffic_light",
    20: "traffic_sign", 21: "vegetation", 22: "terrain", 23: "sky", 24: "person", 25: "rider", 26: "car", 27: "truck",
    28: "bus", 31: "train", 32: "motorcycle", 33: "bicycle",
}  # fmt: skip
"""Names of the classes by labelId."""

PALETTE = (
    (128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153), (153, 153, 153), (250, 170, 30),
    (220, 220, 0), (107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60), (255, 0, 0), (0, 0, 142), (0, 0, 70),
    (0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32),
)  # fmt: skip
"""The official colours of the classes."""

HIGHEST_ID = 33
ZERO_DISPARITY_ID = 10
"""The labelId of pixels whose disparity is 0."""
NOT_MEASURED = -1
"""What the released program writes where there is no disparity."""
SHOWN = (4, 80)
"""Pixels of disparity at the ends of the colour map."""
IMAGE, LABELS, DISPARITY = "_leftImg8bit.png", "_gtFine_labelIds.png", "_disparity.png"
FOLDERS = {"leftImg8bit": IMAGE, "gtFine": LABELS, "disparity": DISPARITY}
"""The official folders, and how the files end that are needed of each."""

_TRAIN_IDS = np.full(256, IGNORE, np.uint8)
_TRAIN_IDS[list(CLASSES)] = np.arange(len(CLASSES))


def read_label_ids(path: Path) -> NDArray[np.uint8]:
    """Return the labelIds 0..33 of an image, ``(h, w)`` uint8."""
    labels = read_gray(path)
    if labels.max() > HIGHEST_ID:
        fail(path, f"labelIds 0..{HIGHEST_ID}", str(labels.max()))
    return labels


def read_semseg(source: Source, task: str, name: str, _: tuple[int, int]) -> NDArray[np.uint8]:
    """Return classes 0..18, ``(h, w)`` uint8, 255 where the labelId is none of theirs."""
    return _TRAIN_IDS[read_label_ids(source.path(task, name))]


def read_disparity(source: Source, task: str, name: str, _: tuple[int, int]) -> NDArray[np.float32]:
    """Return disparities ``(h, w)`` float32 in pixels, 255 (or, as released, -1) where there is none."""
    path = source.path(task, name)
    stored = read_stored(path)
    labels = read_label_ids(source.root / f"gtFine/{name}{LABELS}")
    if stored.ndim != 2 or stored.dtype != np.uint16 or stored.shape != labels.shape:
        fail(path, f"one 16-bit channel of {labels.shape}", f"{stored.dtype} of shape {stored.shape}")
    disparity = (stored.astype(np.float32) - 1) / np.float32(256)
    disparity[stored <= 1] = NOT_MEASURED if source.invalid == "as_released" else IGNORE
    disparity[labels == ZERO_DISPARITY_ID] = 0
    return disparity


def find_ids(root: Path, split: str) -> list[str]:
    """Return the ids of a split's images, sorted.

    Raises:
        DatasetError: there is none.
    """
    folder = root / "leftImg8bit"
    ids = [p.relative_to(folder).as_posix().removesuffix(IMAGE) for p in folder.glob(f"{split}/*/*{IMAGE}")]
    if not ids:
        raise DatasetError(f"Expected images leftImg8bit/{split}/CITY/NAME{IMAGE} in {root}, got none. {REMEDY}")
    return sorted(ids)


def convert(source: Path, folder: Path) -> bool:
    """Take what is needed of the official zips or folders, and return whether the source is they.

    Args:
        source: a folder with the three zips or what they hold, or one of the zips beside the others.
        folder: to write to.
    """
    from mtmamba.data.preparation.archives import unpack  # only preparation needs it

    zips = {name: f"{name}_trainvaltest.zip" for name in FOLDERS}
    if source.is_file() and source.name not in zips.values():
        return False
    place = source if source.is_dir() else source.parent
    for name in FOLDERS:
        if source.is_dir() and (source / name).is_dir():
            for path in filter(_is_needed, (path.relative_to(source) for path in source.glob(f"{name}/*/*/*"))):
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source / path, folder / path)
        elif (place / zips[name]).is_file():
            unpack(place / zips[name], folder, _is_needed)
    return any(folder.iterdir())


def _is_needed(path: str | PurePath) -> bool:
    """Whether a file of the official folders is an image or a target of one of our splits."""
    name, split, *_, file = [*PurePath(path).parts, "", ""][:4]
    return split in SPLITS and file.endswith(FOLDERS.get(name, "/"))


def adapt(task: "Task") -> "Task":
    """Make of depth the disparity that it is here."""
    if task.name != "depth":
        return task
    from mtmamba.metrics.depth import DisparityError
    from mtmamba.tasks.legends import depth_legend
    from mtmamba.tasks.record import Protocol

    return replace(
        task,
        title="Disparity",
        metric=lambda _: DisparityError(),
        units={"RMSE": "px"},
        protocol=Protocol("pooled-disparity-rmse", 1, "over all pixels of the set with 0 < disparity < 80"),
        legend=partial(depth_legend, unit="px"),
        nearer=False,
    )


def _colours(classes: "Tensor") -> NDArray[np.uint8]:
    from mtmamba.tasks.pictures import class_colours

    return class_colours(classes, PALETTE)


def _disparity_colours(disparity: "Tensor") -> NDArray[np.uint8]:
    from mtmamba.tasks.pictures import depth_colours

    return depth_colours(disparity, SHOWN)


REMEDY = (
    "Get leftImg8bit_trainvaltest.zip, gtFine_trainvaltest.zip and disparity_trainvaltest.zip with an account of "
    f"cityscapes-dataset.com, and prepare them with source=FOLDER. {ELSEWHERE}"
)

DATASET = DatasetRecord(
    name="cityscapes",
    title="Cityscapes",
    layout=Layout(
        lists=None,
        image=f"leftImg8bit/{{id}}{IMAGE}",
        tasks={
            "semseg": ((f"gtFine/{{id}}{LABELS}",),),
            "depth": ((f"disparity/{{id}}{DISPARITY}",), (f"gtFine/{{id}}{LABELS}",)),
        },
    ),
    readers={"semseg": read_semseg, "depth": read_disparity},
    classes={"semseg": tuple(CLASSES.values())},
    counts={"train": 2975, "val": 500},
    scenes="cityscapes",
    variable="CITYSCAPES_ROOT",
    remedy=REMEDY,
    convert=convert,
    find_ids=find_ids,
    pictures={"semseg": _colours, "depth": _disparity_colours},
    adapt=adapt,
)
