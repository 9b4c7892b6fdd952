"""One scene's files in the layouts of NYUDv2, PASCAL-Context and Cityscapes."""

import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mtmamba.data.datasets import cityscapes, nyud, pascal_context
from mtmamba.data.synthetic.kinds import VOC_NAMES
from mtmamba.data.synthetic.raycast import Maps

_PERSON = 15
BASELINE, HIGHEST_DISPARITY = 0.25, 126
"""The stereo camera's baseline in metres times focal length in image widths, and greatest disparity in pixels."""
_MAT_HEADER = b"MATLAB 5.0 MAT-file, synthetic scenes".ljust(116)  # SciPy would write the date there


def write_nyud(root: Path, name: str, image: NDArray[np.uint8], maps: Maps) -> None:
    """Image, classes 0..40, metres, normals and boundaries in the folders of NYUDv2."""
    layout = nyud.DATASET.layout
    files = {task: layout.path(root, task, name) for task in layout.tasks}
    classes = maps.classes("nyud").astype(np.uint8)
    _save_image(layout.image_path(root, name), image[..., ::-1])
    _save_image(files["semseg"], classes)
    files["depth"].parent.mkdir(parents=True, exist_ok=True)
    np.save(files["depth"], maps.depth)
    _save_image(files["normals"], encode_normals(maps.normals)[..., ::-1])
    _save_image(files["edge"], label_changes(classes) * np.uint8(255))


def write_pascal(root: Path, name: str, image: NDArray[np.uint8], maps: Maps) -> None:
    """Image, VOC classes, LabelMap, people's parts, normals and saliency in the folders of PASCAL-Context."""
    layout = pascal_context.DATASET.layout
    _save_image(layout.image_path(root, name), image[..., ::-1], cv2.IMWRITE_JPEG_QUALITY, 92)
    _save_image(root / layout.tasks["semseg"][0][0].format(id=name), maps.classes("voc").astype(np.uint8))
    _save_image(layout.path(root, "sal", name), salient(maps) * np.uint8(255))
    _save_image(layout.path(root, "normals", name), encode_normals(maps.normals)[..., ::-1])
    _save_mat(layout.path(root, "edge", name), {"LabelMap": maps.classes("context").astype(np.uint16)})
    _save_mat(layout.path(root, "human_parts", name), {"anno": part_annotation(maps, name)})


def write_cityscapes(root: Path, name: str, image: NDArray[np.uint8], maps: Maps) -> None:
    """Image, labelIds and 16-bit disparity in the folders of Cityscapes.

    The disparity is that of a camera as far from its left one as `BASELINE` times the image's width in pixels. As in
    stereo, the sky and what the right camera does not see at the left border have none.
    """
    layout = cityscapes.DATASET.layout
    width = image.shape[1]
    disparity = np.divide(BASELINE * width, maps.depth, out=np.zeros_like(maps.depth), where=maps.depth > 0)
    stored = np.where(disparity > 0, np.rint(disparity * 256 + 1), 0).clip(0, HIGHEST_DISPARITY * 256)
    stored[np.arange(width) < disparity] = 0
    _save_image(layout.image_path(root, name), image[..., ::-1])
    _save_image(layout.path(root, "semseg", name), maps.classes("cityscapes").astype(np.uint8))
    _save_image(layout.path(root, "depth", name), stored.astype(np.uint16))


def encode_normals(normals: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Unit vectors as colours: n = 2 x / 255 - 1; a zero vector is 128 in every channel."""
    return ((normals + 1) * 127.5 + 0.5).astype(np.uint8)


def label_changes(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """1 where a label differs from that of the pixel above or to the left."""
    edge = np.zeros(labels.shape, np.uint8)
    edge[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    edge[1:] |= labels[1:] != labels[:-1]
    return edge


def salient(maps: Maps) -> NDArray[np.uint8]:
    """1 on what stands out: things of VOC's classes that cover 1.5 % of the image and a third of the largest's area."""
    things = np.where(maps.classes("voc") > 0, maps.groups(), 0)
    areas = np.bincount(things.ravel())
    areas[0] = 0
    chosen = (areas >= 0.015 * things.size) & (areas * 3 >= areas.max())
    return chosen[things].astype(np.uint8)


def part_annotation(maps: Maps, name: str) -> dict[str, Any]:
    """PASCAL-Part's ``anno`` struct: a mask for each thing, and for each person one for every part that is seen."""
    groups, classes = maps.groups(), maps.classes("voc")
    names = sorted({p.part for p in maps.scene.solids if p.part})
    parts = maps.lookup([names.index(p.part) + 1 if p.part else 0 for p in maps.scene.solids])
    objects = []
    for group, voc in np.unique(np.stack([groups[classes > 0], classes[classes > 0]]), axis=1).T.tolist():
        mask = (groups == group) & (classes == voc)
        masks = [(names[i - 1], mask & (parts == i)) for i in np.unique(parts[mask]).tolist()] if voc == _PERSON else []
        objects.append(
            (
                VOC_NAMES[voc],
                voc,
                mask.astype(np.uint8),
                _struct(["part_name", "mask"], [(n, m.astype(np.uint8)) for n, m in masks]),
            )
        )
    return {"imname": name, "objects": _struct(["class", "class_ind", "mask", "parts"], objects)}


def _struct(fields: list[str], rows: list[tuple[Any, ...]]) -> NDArray[Any]:
    """MATLAB struct array ``(1, len(rows))``, or the empty ``(0, 0)``."""
    array = np.empty((1, len(rows)) if rows else (0, 0), [(field, object) for field in fields])
    for i, row in enumerate(rows):
        array[0, i] = row
    return array


def _save_image(path: Path, image: NDArray[Any], *parameters: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), image, parameters):
        raise OSError(f"Expected to write {path}, got a refusal from OpenCV: see whether the disk is full.")


def _save_mat(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    from scipy.io import savemat  # here: nobody waits for SciPy who writes no such file

    buffer = io.BytesIO()
    savemat(buffer, content, do_compression=True)
    path.write_bytes(_MAT_HEADER + buffer.getvalue()[len(_MAT_HEADER) :])
