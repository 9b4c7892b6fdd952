"""PASCAL-Context from its official parts: VOC 2010's images and classes, the Context and the Part annotations.

Saliency and normals were distilled from networks and are in no official part: these tasks are then missing. Images
without a segmentation of VOC's own take their classes from Context's labels.
"""

import shutil
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import track

from mtmamba.data.datasets.pascal_labels import NUM_CONTEXT_CLASSES, label_map
from mtmamba.data.layouts import DatasetError
from mtmamba.data.readers import read_bytes
from mtmamba.files import write_text

CONTEXT_IDS = (2, 23, 25, 31, 34, 45, 59, 65, 72, 98, 397, 113, 207, 258, 284, 308, 347, 368, 416, 427)
"""The numbers that VOC's classes 1 to 20 have among Context's 459."""
VOC_CLASS = np.zeros(NUM_CONTEXT_CLASSES + 1, np.uint8)
VOC_CLASS[list(CONTEXT_IDS)] = np.arange(1, 21)
FOLDERS = {
    "VOC 2010's images": ("JPEGImages", "*.jpg"),
    "PASCAL-Context's labels": ("trainval", "*.mat"),
    "PASCAL-Part's annotations": ("Annotations_Part", "*.mat"),
}
"""Names as the official archives have them, and what lies in them."""


def convert(source: Path, folder: Path) -> bool:
    """Write the layout of PASCALContext from the official files; return whether the source is they.

    Args:
        source: a folder with the unpacked archives, anywhere below it.
        folder: to write to.

    Raises:
        DatasetError: one of the parts, or an image's file, is missing.
    """
    lists = next(source.rglob("ImageSets/Main"), None) if source.is_dir() else None
    if lists is None:
        return False
    images, context, parts = (_find(source, what, *pattern) for what, pattern in FOLDERS.items())
    classes = lists.parents[1] / "SegmentationClass"
    names = []
    for split in ("train", "val"):
        text = (lists / f"{split}.txt").read_text(encoding="utf-8")
        write_text(folder / f"ImageSets/Context/{split}.txt", text)
        names += text.split()
    console = Console(stderr=True)
    for name in track(names, "Images", console=console, transient=True, disable=not console.is_terminal):
        _copy(images / f"{name}.jpg", folder / f"JPEGImages/{name}.jpg")
        _copy(context / f"{name}.mat", folder / f"pascal-context/trainval/{name}.mat")
        _copy(parts / f"{name}.mat", folder / f"human_parts/{name}.mat")
        own = classes / f"{name}.png"
        if own.is_file():
            _write(folder / f"semseg/VOC12/{name}.png", np.array(Image.open(own)))
        else:
            path = context / f"{name}.mat"
            _write(folder / f"semseg/pascal-context/{name}.png", VOC_CLASS[label_map(path, read_bytes(path))])
    return True


def _find(source: Path, what: str, name: str, files: str) -> Path:
    for path in source.rglob(name):
        if next(path.glob(files), None) is not None:
            return path
    raise DatasetError(f"Expected {what} in a folder {name} below {source}, got none: unpack its archive there.")


def _copy(path: Path, new: Path) -> None:
    if not path.is_file():
        raise DatasetError(f"Expected {path}, got no such file: unpack its archive again.")
    new.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, new)


def _write(path: Path, classes: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", classes)[1].tobytes())
