"""Decoding one file into one array; whatever does not decode or lies out of range is named in a DatasetError."""

import io
from pathlib import Path
from typing import NoReturn

import cv2
import numpy as np
from PIL import Image

from mtmamba.data.layouts import DatasetError
from mtmamba.files import what_is
from mtmamba.types import IGNORE

PNG, _PNG_END, _JPEG_END = b"\x89PNG", b"IEND", b"\xff\xd9"
_PALETTE = 3  # the colour type in a PNG's header whose pixels are indices, as in VOC's labels
MAX_DEPTH = 100.0
"""Metres; a larger depth means another unit."""


def fail(path: Path, expected: str, got: str) -> NoReturn:
    """Raise the DatasetError of a broken file."""
    raise DatasetError(
        f"Expected {expected} in {path}, got {got}: put a sound file in its place, from the dataset's archive again or "
        "from where it was made."
    )


def read_bytes(path: Path) -> bytes:
    """Return a file's content; DatasetError where there is none, or something else, which might not end."""
    if not path.is_file():
        fail(path, "a file", what_is(path))
    try:
        return path.read_bytes()
    except OSError as error:
        fail(path, "a readable file", str(error.strerror))


def _decode(path: Path, data: bytes, flags: int) -> np.ndarray:
    # OpenCV decodes a truncated file to an image with an empty part, so the end is looked for first.
    complete = _PNG_END in data[-16:] if data.startswith(PNG) else _JPEG_END in data[-1024:]
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if complete else None
    except cv2.error:  # such as a header of more pixels than OpenCV takes
        image = None
    if image is None:
        fail(path, "a complete PNG or JPEG image", f"{len(data)} bytes that are not one")
    return image


def read_rgb(path: Path) -> np.ndarray:
    """Return a PNG or JPEG as ``(h, w, 3)`` uint8 RGB, as stored: a rotation in the metadata is not applied."""
    image = _decode(path, read_bytes(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)


def read_stored(path: Path) -> np.ndarray:
    """Return what a PNG, TIFF or ``.npy`` holds, ``(h, w)`` or ``(h, w, c)`` in RGB, in its own type.

    Of a palette, the indices.
    """
    data = read_bytes(path)
    try:
        if path.suffix.lower() == ".npy":
            return np.asarray(np.load(io.BytesIO(data), allow_pickle=False))
        if path.suffix.lower() in (".tif", ".tiff") or (data.startswith(PNG) and data[25:26] == bytes([_PALETTE])):
            return np.array(Image.open(io.BytesIO(data)))
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        fail(path, f"a complete {path.suffix[1:]} file", str(error))
    image = _decode(path, data, cv2.IMREAD_UNCHANGED)
    return image if image.ndim == 2 else np.ascontiguousarray(image[..., [2, 1, 0, *range(3, image.shape[2])]])


def read_gray(path: Path) -> np.ndarray:
    """Return a PNG of one channel as ``(h, w)`` uint8; of a PNG with a palette, the indices."""
    image = read_stored(path)
    if image.ndim != 2 or image.dtype != np.uint8:
        fail(path, "one 8-bit channel", f"{image.dtype} of shape {image.shape}")
    return image


def read_classes(path: Path, *, num_classes: int, zero_is_unlabelled: bool) -> np.ndarray:
    """Return a map of classes as ``(h, w)`` uint8, unlabelled pixels ``IGNORE``.

    Args:
        path: a PNG of one channel.
        num_classes: how many there are.
        zero_is_unlabelled: the file counts from 1 and marks unlabelled pixels 0; else it counts from 0 and marks
            them ``IGNORE``.
    """
    classes = read_gray(path)
    if zero_is_unlabelled:
        highest = int(classes.max())
        if highest > num_classes:
            fail(path, f"classes 0..{num_classes}", str(highest))
        return classes - np.uint8(1)  # 0 wraps around to IGNORE
    wrong = classes[(classes >= num_classes) & (classes != IGNORE)]
    if wrong.size:
        fail(path, f"classes 0..{num_classes - 1} or {IGNORE}", str(wrong[0]))
    return classes


def read_edge(path: Path) -> np.ndarray:
    """Return a boundary map, 0 or 255 on disk, as ``(h, w)`` uint8 0/1."""
    edge = read_gray(path)
    if np.count_nonzero(edge) != np.count_nonzero(edge == 255):
        fail(path, "0 and 255", f"the values {np.unique(edge)[:5].tolist()}")
    return edge & np.uint8(1)


def read_saliency(path: Path) -> np.ndarray:
    """Return a saliency map as ``(h, w)`` uint8 0/1: x / 255 > 0.5."""
    return (read_gray(path) > 127).astype(np.uint8)


def read_depth(path: Path) -> np.ndarray:
    """Return an ``.npy`` of metres as ``(h, w)`` float32, ``IGNORE`` where it is 0 (not measured).

    The published maps are filled in and finite, so a value that is negative or not finite means a broken file.
    """
    try:
        depth = np.load(io.BytesIO(read_bytes(path)), allow_pickle=False)
    except (ValueError, EOFError) as error:
        fail(path, "a complete .npy array", str(error))
    if not isinstance(depth, np.ndarray) or depth.ndim != 2 or depth.dtype.kind != "f" or not depth.size:
        fail(path, "a float array (h, w)", f"{getattr(depth, 'dtype', type(depth))} {getattr(depth, 'shape', '')}")
    depth = depth.astype(np.float32, copy=False)
    low, high = float(depth.min()), float(depth.max())
    if not 0 <= low <= high <= MAX_DEPTH:  # false for NaN too
        fail(path, f"depths within 0..{MAX_DEPTH:g} metres", f"{low:g}..{high:g}")
    depth[depth == 0] = IGNORE
    return depth


def read_normals(path: Path, valid: np.ndarray | None = None) -> np.ndarray:
    """Return an RGB map of normals as ``(h, w, 3)`` float32 unit vectors, all three ``IGNORE`` where there is none.

    n = 2 x / 255 - 1 is normalised. Eight bits cannot hold an exact zero vector, the mark of a missing normal: it is
    stored as 127 or 128 in all channels, 0.007 long after decoding. No unit vector is stored that way, and the next
    code is 0.0118 long, so what is shorter than 0.01 counts as zero.

    Args:
        path: a PNG of three channels.
        valid: ``(h, w)`` bool, where the normals count; everywhere when None.
    """
    normals = read_rgb(path).astype(np.float32)
    normals *= 2 / 255
    normals -= 1
    length = np.sqrt(np.einsum("hwc,hwc->hw", normals, normals))
    ignored = length < 0.01
    if valid is not None:
        if valid.shape != ignored.shape:
            fail(path, f"the LabelMap's size {valid.shape}", str(ignored.shape))
        ignored |= ~valid
    normals /= np.maximum(length, 0.01)[..., None]
    normals[ignored] = IGNORE
    return normals
