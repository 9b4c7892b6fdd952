"""Predictions as files, one for each image and task: the formats that this literature exchanges.

A format turns one image's prediction, as the task's metric takes it and on the image's own grid, into the bytes of a
file and back. Before reading, a header is enough to say whether a file can be of the format.
"""

import io
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from mtmamba.files import what_is

_NPY_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
PIXELS_AT_ONCE = 2**20
"""Pixels that are converted at once."""
ZERO_LENGTH = 0.01
"""A normal shorter than this counts as none: eight bits store a vector of length 0 as 127 or 128, 0.007 long."""


class PredictionsError(ValueError):
    """Predictions in files are not what they should be; the message lists what is wrong, and the remedy."""


class PredictionFile(ABC):
    """A format of files.

    Attributes:
        suffix: of the file's name.
        kinds: what `header` may say of a file in this format.
    """

    suffix: ClassVar[str]
    kinds: ClassVar[tuple[str, ...]]

    @abstractmethod
    def encode(self, prediction: NDArray[Any]) -> bytes:
        """Return the file's content for one image's prediction, ``(h, w)`` or ``(c, h, w)``."""

    @abstractmethod
    def decode(self, path: Path, num_outputs: int) -> Tensor:
        """Read one image's prediction.

        Raises:
            PredictionsError: the file does not decode, or holds values that the task does not have.
        """


class ClassFile(PredictionFile):
    """PNG of one 8-bit channel or with a palette: classes from 0, ``(h, w)`` uint8."""

    suffix = ".png"
    kinds = ("8-bit PNG of one channel", "PNG with a palette")

    def encode(self, prediction: NDArray[Any]) -> bytes:
        """Encode classes ``(h, w)``."""
        return _png(prediction)

    def decode(self, path: Path, num_outputs: int) -> Tensor:
        """Read classes ``(h, w)`` uint8, all below ``num_outputs``."""
        classes = _pixels(path)
        if classes.max() >= num_outputs:
            raise PredictionsError(
                f"Expected classes 0..{num_outputs - 1} in {path}, got {classes.max()}: classes count from 0, and "
                "every pixel needs one."
            )
        return torch.from_numpy(classes)


class ProbabilityFile(PredictionFile):
    """PNG of one 8-bit channel: 255 times the probability, truncated."""

    suffix = ".png"
    kinds = ("8-bit PNG of one channel",)

    def encode(self, prediction: NDArray[Any]) -> bytes:
        """Encode probabilities ``(h, w)``."""
        return _png((255 * prediction).astype(np.uint8))

    def decode(self, path: Path, num_outputs: int) -> Tensor:
        """Read probabilities ``(h, w)`` float32."""
        return torch.from_numpy(_pixels(path).astype(np.float32)) / 255


class NormalsFile(PredictionFile):
    """PNG of 8-bit RGB: x y z as ``(n + 1) / 2 * 255``, rounded."""

    suffix = ".png"
    kinds = ("8-bit RGB PNG",)

    def encode(self, prediction: NDArray[Any]) -> bytes:
        """Encode unit vectors ``(3, h, w)``."""
        height, width = prediction.shape[1:]
        bgr = np.empty((height, width, 3), np.uint8)
        rows = max(1, PIXELS_AT_ONCE // width)
        for top in range(0, height, rows):  # by bands, so that large images need no large temporaries
            band = prediction[::-1, top : top + rows]  # OpenCV's order is blue, green, red
            bgr[top : top + rows] = np.rint((band.transpose(1, 2, 0) + 1) / 2 * 255)
        return _png(bgr)

    def decode(self, path: Path, num_outputs: int) -> Tensor:
        """Read vectors ``(3, h, w)`` float32 of length 1, or 0 where nothing was predicted."""
        vectors = 2 * torch.from_numpy(_pixels(path).astype(np.float32)).movedim(-1, 0) / 255 - 1
        return F.normalize(vectors, dim=0) * (vectors.norm(dim=0) >= ZERO_LENGTH)


class ArrayFile(PredictionFile):
    """``.npy`` of finite float32 or float64 values, ``(h, w)`` or ``(c, h, w)``."""

    suffix = ".npy"
    kinds = ("float32 array", "float64 array")
    values = "values"
    axes: ClassVar[tuple[int, ...]] = (2, 3)
    """How many axes a file may have."""

    def encode(self, prediction: NDArray[Any]) -> bytes:
        """Encode real numbers."""
        buffer = io.BytesIO()
        np.save(buffer, prediction.astype(np.float32, copy=False), allow_pickle=False)
        return buffer.getvalue()

    def decode(self, path: Path, num_outputs: int) -> Tensor:
        """Read real numbers as float32."""
        try:
            array: NDArray[Any] = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise PredictionsError(f"Expected a complete file {path}, got {error}: write it again.") from error
        if array.ndim not in self.axes or array.shape[:-2] not in ((), (num_outputs,)):
            shapes = "(h, w)" if num_outputs == 1 or 3 not in self.axes else f"({num_outputs}, h, w)"
            raise PredictionsError(f"Expected an array {shapes} in {path}, got {array.shape}: write it again.")
        if not np.isfinite(array).all():
            raise PredictionsError(f"Expected finite {self.values} in {path}, got NaN or infinity: write it again.")
        return torch.from_numpy(array.astype(np.float32))


class MetresFile(ArrayFile):
    """`ArrayFile` of metres ``(h, w)``; what is negative becomes 0."""

    values = "metres"
    axes = (2,)

    def decode(self, path: Path, num_outputs: int) -> Tensor:
        """Read metres ``(h, w)`` float32."""
        return super().decode(path, num_outputs).clamp(min=0)


def npy_header(path: Path) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """Return the type and shape of an ``.npy`` file's array.

    Raises:
        OSError, ValueError, KeyError: the file cannot be read, or its header is another.
    """
    with path.open("rb") as file:
        shape, _, dtype = _NPY_HEADERS[np.lib.format.read_magic(file)](file)
    return dtype, shape


def header(path: Path) -> tuple[str, tuple[int, ...]]:
    """Return what a file's header says it is, and its height and width."""
    if not path.is_file():
        return f"no file but {what_is(path)}", ()
    try:
        if path.suffix == ArrayFile.suffix:
            dtype, shape = npy_header(path)
            return f"{dtype} array", shape[-2:]
        with Image.open(path) as image:
            names = {"L": "8-bit PNG of one channel", "RGB": "8-bit RGB PNG", "P": "PNG with a palette"}
            kind = names.get(image.mode, f"{image.format} of mode {image.mode}") if image.format == "PNG" else None
            return kind or str(image.format), (image.height, image.width)
    except (OSError, ValueError, KeyError, SyntaxError, Image.DecompressionBombError) as error:
        return f"no readable file ({error})", ()


def _png(pixels: NDArray[Any]) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()


def _pixels(path: Path) -> NDArray[np.uint8]:
    try:
        return np.array(Image.open(path))
    except (OSError, ValueError, EOFError, SyntaxError) as error:
        raise PredictionsError(f"Expected a complete file {path}, got {error}: write it again.") from error
