"""PASCAL-Context: 4,998 training and 5,105 validation photographs, longest side 500, with five tasks.

``semseg``: 21 classes with background. ``human_parts``: 7 with background, all ignored in an image without parts.
``sal`` and ``normals`` were distilled from networks. ``edge``: the thinned boundaries of the 459-class LabelMap.
Boundaries and part maps are slow to compute and kept in the cache folder.
"""

from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mtmamba.cache import cached
from mtmamba.data.datasets.pascal_labels import HAS_NORMALS, boundaries, human_parts, label_map
from mtmamba.data.datasets.record import DatasetRecord, Source, archive_remedy, from_file, odd_normals
from mtmamba.data.layouts import Layout
from mtmamba.data.readers import read_bytes, read_classes, read_normals, read_rgb, read_saliency

CLASSES = tuple(
    """background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person
    pottedplant sheep sofa train tvmonitor""".split()  # noqa: SIM905 - a line each would hide the rest
)
PARTS = ("background", "head", "torso", "upper_arms", "lower_arms", "upper_legs", "lower_legs")
LABEL_MAP = "pascal-context/trainval/{id}.mat"


def _label_map(source: Source, name: str) -> NDArray[np.uint16]:
    path = source.path("edge", name)
    return label_map(path, read_bytes(path))


def _human_parts(source: Source, task: str, name: str, size: tuple[int, int]) -> NDArray[np.uint8]:
    path = source.path(task, name)
    data = read_bytes(path)
    return cached(source.cache_dir, f"parts-{size[0]}x{size[1]}", data, lambda: human_parts(path, data, size))


def _normals(source: Source, task: str, name: str, size: tuple[int, int]) -> NDArray[np.float32]:
    return read_normals(source.path(task, name), HAS_NORMALS[_label_map(source, name)])


def _edge(source: Source, task: str, name: str, size: tuple[int, int]) -> NDArray[np.uint8]:
    path: Path = source.path(task, name)
    data = read_bytes(path)
    return cached(source.cache_dir, "edge-1", data, lambda: boundaries(label_map(path, data)))


def _convert(source: Path, folder: Path) -> bool:
    from mtmamba.data.preparation.pascal_official import convert  # seldom needed

    return convert(source, folder)


DATASET = DatasetRecord(
    name="pascal_context",
    title="PASCALContext",
    aliases=("PASCALContext",),
    layout=Layout(
        lists="ImageSets/Context",
        image="JPEGImages/{id}.jpg",
        tasks={
            "semseg": (("semseg/VOC12/{id}.png", "semseg/pascal-context/{id}.png"),),
            "human_parts": (("human_parts/{id}.mat",),),
            "sal": (("sal_distill/{id}.png",),),
            "normals": (("normals_distill/{id}.png",), (LABEL_MAP,)),
            "edge": ((LABEL_MAP,),),
        },
    ),
    readers={
        "semseg": from_file(partial(read_classes, num_classes=len(CLASSES), zero_is_unlabelled=False)),
        "human_parts": _human_parts,
        "sal": from_file(read_saliency),
        "normals": _normals,
        "edge": _edge,
    },
    classes={"semseg": CLASSES, "human_parts": PARTS},
    counts={"train": 4998, "val": 5105},
    protocol="pascal",
    boundary_labels=_label_map,
    scenes="pascal",
    variable="PASCAL_ROOT",
    remedy=archive_remedy("PASCALContext"),
    convert=_convert,
    mirrors=("https://data.vision.ee.ethz.ch/brdavid/atrc/PASCALContext.tar.gz",),
    remarks={"normals": odd_normals(read_rgb)},
)
