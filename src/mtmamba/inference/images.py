"""Any image that Pillow reads, or an array or tensor, as 8-bit RGB the right way up, with what was done to it."""

import io
import urllib.error
import urllib.request
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from mtmamba.files import WEB, what_is
from mtmamba.inference.sources import SourceError

TURNED = range(2, 9)
"""EXIF's orientations of an image that is not stored the right way up."""

TIMEOUT = 20
"""Seconds to wait for an image's address."""


@dataclass(frozen=True)
class Photo:
    """An image as it is predicted.

    Attributes:
        pixels: ``(h, w, 3)`` uint8 RGB.
        done: what was done to it, in words.
        source: where it came from; empty for one in memory.
    """

    pixels: NDArray[np.uint8]
    done: tuple[str, ...] = ()
    source: str = ""


def read_photo(source: Any) -> Photo:
    """Return one image as 8-bit RGB.

    Args:
        source: a path; the address of a file; a PIL image; a uint8 array ``(H, W, 3)`` RGB; a tensor ``(3, H, W)``,
            uint8 or float in 0..1.

    Raises:
        SourceError: it is none of these, or does not decode; the message says what was expected.
    """
    if isinstance(source, Image.Image):
        return _decoded(source, "")
    if isinstance(source, torch.Tensor):
        return Photo(_of_tensor(source))
    if isinstance(source, np.ndarray):
        if source.ndim != 3 or source.shape[-1] != 3 or source.dtype != np.uint8 or not source.size:
            raise SourceError(
                f"Expected an array of uint8 (H, W, 3) in the order red, green, blue, got {source.dtype} "
                f"{source.shape}: convert it, or give a PIL image."
            )
        return Photo(np.ascontiguousarray(source))
    if isinstance(source, str) and source.startswith(WEB):
        return _decoded(_fetched(source), source)
    if isinstance(source, str | Path):
        path = Path(source).expanduser()
        if not path.is_file() or not path.stat().st_size:
            raise SourceError(f"Expected an image file, got {path}, {what_is(path)}: check the path.")
        return _decoded(path, str(source))
    raise SourceError(
        "Expected an image as a path, an address, a PIL image, a uint8 array (H, W, 3) or a tensor (3, H, W), got "
        f"{type(source).__name__}: convert it."
    )


def pixel_count(path: Path) -> int:
    """Return how many pixels a file's header speaks of; 0 where it cannot be read. A pipe would be waited for."""
    if not path.is_file():
        return 0
    try:
        with Image.open(path) as image:
            return image.width * image.height
    except Exception:  # noqa: BLE001 - decoders of damaged files raise anything
        return 0


def _decoded(file: Path | io.BytesIO | Image.Image, source: str) -> Photo:
    try:
        with nullcontext(file) if isinstance(file, Image.Image) else Image.open(file) as image:
            return _of_pil(image, source)
    except Exception as error:  # decoders of damaged files raise anything
        where = source or "memory"
        raise SourceError(f"Expected a whole image that Pillow reads in {where}, got {_reason(error)}.") from error


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return "another kind of file" if text.startswith("cannot identify") else text.rstrip(".") or type(error).__name__


def _of_pil(image: Image.Image, source: str) -> Photo:
    done = []
    if getattr(image, "n_frames", 1) > 1:
        done.append(f"first of {image.n_frames} frames")  # type: ignore[attr-defined]
        image.seek(0)
    image.load()
    if not image.width * image.height:
        raise ValueError("one without pixels")
    if (orientation := image.getexif().get(0x0112)) in TURNED:
        image = ImageOps.exif_transpose(image)
        done.append(f"turned by EXIF orientation {orientation}")
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
        done.append("alpha over white")
    elif image.mode in ("I", "F") or image.mode.startswith("I;16"):
        done.append(f"mode {image.mode} to 8 bits")
        return Photo(_of_deep(image), tuple(done), source)
    elif image.mode != "RGB":
        done.append(f"mode {image.mode} to RGB")
    return Photo(np.array(image if image.mode == "RGB" else image.convert("RGB")), tuple(done), source)


def _of_deep(image: Image.Image) -> NDArray[np.uint8]:
    """Return a grey image of 16 or 32 bits as RGB: whole numbers as 16 bits, others as 0..1; what is no number is 0."""
    values = np.asarray(image)
    if image.mode == "F":
        values = np.where(np.isfinite(values), values, np.float32(0))
    factor = 255 if image.mode == "F" and values.max(initial=0) <= 1 else 1 / 257
    grey = np.empty(values.shape, np.uint8)
    for row, own in zip(grey, values, strict=True):  # large images need no large temporaries
        row[:] = np.rint(own.astype(np.float64) * factor).clip(0, 255)
    return np.repeat(grey[..., None], 3, axis=-1)


def _of_tensor(image: torch.Tensor) -> NDArray[np.uint8]:
    if image.ndim != 3 or image.shape[0] != 3 or not image.numel():
        raise SourceError(f"Expected a tensor (3, H, W), got {tuple(image.shape)}: give one image at a time.")
    if image.is_floating_point():
        low, high = float(image.min()), float(image.max())
        if not 0 <= low <= high <= 1:  # false for NaN too
            raise SourceError(
                f"Expected a float tensor in 0..1, got {low:g}..{high:g}: divide by 255, and leave normalising to the "
                "predictor."
            )
        image = (image * 255).round()
    elif image.dtype != torch.uint8:
        raise SourceError(f"Expected a tensor of uint8 or float, got {image.dtype}: convert it.")
    return np.ascontiguousarray(image.to(torch.uint8).movedim(0, -1).numpy(force=True))


def _fetched(address: str) -> io.BytesIO:
    try:
        with urllib.request.urlopen(address, timeout=TIMEOUT) as answer:
            return io.BytesIO(answer.read())
    except (OSError, ValueError) as error:
        raise SourceError(f"Expected an image at {address}, got {_reason(error)}: check the address.") from error
