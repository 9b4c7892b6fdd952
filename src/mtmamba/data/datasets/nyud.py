"""NYUDv2: 795 training and 654 validation images of rooms, 425 x 560, with four tasks."""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from mtmamba.data.datasets.record import DatasetRecord, archive_remedy, from_file, odd_normals
from mtmamba.data.layouts import Layout
from mtmamba.data.readers import read_classes, read_depth, read_edge, read_gray, read_normals, read_rgb

CLASSES = tuple(
    """wall floor cabinet bed chair sofa table door window bookshelf picture counter blinds desk shelves curtain dresser
    pillow mirror floor_mat clothes ceiling books refrigerator television paper towel shower_curtain box whiteboard
    person night_stand toilet sink lamp bathtub bag otherstructure otherfurniture otherprop""".split()  # noqa: SIM905 - a line each would hide the rest
)


def _other_archive(folders: Sequence[Path]) -> str | None:
    """Recognise NYUD_MT, which has other sizes and formats."""
    for folder in folders:
        labels = folder / "segmentation"
        if folder.name == "NYUD_MT" or (labels.is_dir() and any(x.endswith(".npy") for x in os.listdir(labels))):
            return (
                f"the other NYUD archive in {folder} (NYUD_MT: 480 x 640, .jpg images, .npy labels), which has another "
                "format"
            )
    return None


def _convert(source: Path, folder: Path) -> bool:
    from mtmamba.data.preparation.nyud_official import convert  # of an extra

    return convert(source, folder)


DATASET = DatasetRecord(
    name="nyud",
    title="NYUDv2",
    aliases=("NYUDv2",),
    layout=Layout(
        lists="gt_sets",
        image="images/{id}.png",
        tasks={
            "semseg": (("segmentation/{id}.png",),),
            "depth": (("depth/{id}.npy",),),
            "normals": (("normals/{id}.png",),),
            "edge": (("edge/{id}.png",),),
        },
    ),
    readers={
        "semseg": from_file(partial(read_classes, num_classes=len(CLASSES), zero_is_unlabelled=True)),
        "depth": from_file(read_depth),
        "normals": from_file(read_normals),
        "edge": from_file(read_edge),
    },
    classes={"semseg": CLASSES},
    counts={"train": 795, "val": 654},
    protocol="nyud",
    boundary_labels=lambda source, name: read_gray(source.path("edge", name)),
    scenes="nyud",
    variable="NYUD_ROOT",
    remedy=archive_remedy("NYUDv2"),
    mirrors=("https://data.vision.ee.ethz.ch/brdavid/atrc/NYUDv2.tar.gz",),
    convert=_convert,
    recognise=_other_archive,
    remarks={"normals": odd_normals(read_rgb)},
)
