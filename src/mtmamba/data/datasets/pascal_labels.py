"""What PASCAL-Context's MATLAB files are turned into: boundaries, classes with normals, and body parts."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mtmamba.data.readers import fail
from mtmamba.metrics.boundary.thinning import thin
from mtmamba.types import IGNORE

NUM_CONTEXT_CLASSES = 459
_PERSON = 15
_BROKEN = (
    ValueError, TypeError, KeyError, IndexError, NotImplementedError, EOFError, OSError, zlib.error, struct.error,
)  # fmt: skip

# The classes that NYUDv2 and PASCAL-Context share by name (without "unknown"), and tvmonitor: elsewhere, a distilled
# normal was predicted by a network trained on indoor scenes for something it has never seen.
_NORMAL_IDS = """
3 4 6 9 10 11 13 15 17 18 22 23 29 30 33 34 36 37 38 39 41 43 46 49 50 51 53 55 56 59 61 62 65 66 68 69 72 73 78
83 84 85 87 88 95 96 101 104 105 107 111 113 115 122 124 135 141 142 143 146 150 154 157 158 159 165 172 174 181
183 184 191 193 195 197 199 202 213 215 216 219 220 223 225 228 230 232 233 238 239 242 243 246 250 251 252 255
260 261 263 269 272 273 275 281 283 284 285 286 287 288 290 291 292 293 295 304 307 309 310 314 315 319 323 329
330 331 336 342 345 349 350 351 352 355 357 368 370 371 374 379 380 383 384 397 401 403 405 407 408 411 412 413
414 417 419 421 423 427 429 430 432 440 441 442 443 444 446 454 457
"""
HAS_NORMALS = np.isin(np.arange(NUM_CONTEXT_CLASSES + 1), np.array(_NORMAL_IDS.split(), dtype=int))
"""``(460,)`` bool by LabelMap id: whether the distilled normals of its pixels count (170 of them)."""

PART_CLASSES = {
    **dict.fromkeys(("head", "hair", "lear", "rear", "lebrow", "rebrow", "leye", "reye", "mouth", "nose"), 1),
    **dict.fromkeys(("torso", "neck"), 2),
    **dict.fromkeys(("luarm", "ruarm"), 3),
    **dict.fromkeys(("llarm", "rlarm", "lhand", "rhand"), 4),
    **dict.fromkeys(("luleg", "ruleg"), 5),
    **dict.fromkeys(("llleg", "rlleg", "lfoot", "rfoot"), 6),
}
"""PASCAL-Part's names of a person's parts (l, r: left, right; then u, l: upper, lower) → class; 0 is background."""


def _load(path: Path, data: bytes, key: str) -> Any:
    from scipy.io.matlab import MatReadError, loadmat  # here: nobody waits for SciPy who reads no such file

    try:
        return loadmat(io.BytesIO(data), variable_names=[key], squeeze_me=True, struct_as_record=False)[key]
    except (*_BROKEN, MatReadError) as error:
        fail(path, f"a MATLAB file with {key}", f"{type(error).__name__}: {error}")


def label_map(path: Path, data: bytes) -> np.ndarray:
    """Return the ``LabelMap`` of PASCAL-Context's 459 classes as ``(h, w)`` uint16."""
    labels = _load(path, data, "LabelMap")
    if not isinstance(labels, np.ndarray) or labels.ndim != 2 or labels.dtype.kind not in "uif" or not labels.size:
        fail(path, "a LabelMap (h, w)", f"{getattr(labels, 'dtype', type(labels))} {getattr(labels, 'shape', '')}")
    low, high = labels.min(), labels.max()
    if not 0 <= low <= high <= NUM_CONTEXT_CLASSES:
        fail(path, f"LabelMap ids 0..{NUM_CONTEXT_CLASSES}", f"{low}..{high}")
    return labels.astype(np.uint16)


def boundaries(labels: np.ndarray) -> np.ndarray:
    """Return where a LabelMap's Laplacian (aperture 1) is not zero, thinned to one pixel: ``(h, w)`` uint8 0/1."""
    laplacian = cv2.Laplacian(labels.astype(np.float32), cv2.CV_32F, ksize=1)
    return thin(laplacian != 0).astype(np.uint8)


def human_parts(path: Path, data: bytes, size: tuple[int, int]) -> np.ndarray:
    """Return PASCAL-Part's persons as ``(h, w)`` uint8: 0 background, 1 head, 2 torso, 3 upper and 4 lower arms,
    5 upper and 6 lower legs. All of it is ``IGNORE`` in an image without any part.

    A later person, and within a person a later part, overwrites an earlier one.

    Raises:
        DatasetError: the file does not decode, has another size than the image or an unknown part.
    """
    annotation = _load(path, data, "anno")
    target = np.zeros(size, np.uint8)
    try:
        things = [thing for thing in np.atleast_1d(annotation.objects) if thing.class_ind == _PERSON]
        parts = [(str(part.part_name), part.mask) for thing in things for part in np.atleast_1d(thing.parts)]
    except (AttributeError, ValueError) as error:
        fail(path, "objects with class_ind and parts, these with part_name and mask, in anno", str(error))
    for name, mask in parts:
        if name not in PART_CLASSES:
            fail(path, f"parts out of {sorted(PART_CLASSES)}", repr(name))
        if np.shape(mask) != size or mask.dtype.kind not in "uifb":
            fail(path, f"part masks of the image's size {size}", f"{type(mask).__name__} {np.shape(mask)}")
        target[mask > 0] = PART_CLASSES[name]
    return target if target.any() else np.full(size, IGNORE, np.uint8)
