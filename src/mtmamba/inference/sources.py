"""What is to be predicted: files, folders and patterns as a list of images with names; videos and cameras apart."""

import glob
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from mtmamba.files import WEB, what_is

VIDEOS = (".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".ts")
STREAMS = ("rtsp://", "rtmp://", "rtp://", "udp://", "tcp://", "/dev/video")
RECORD = "predictions.json"
"""The list of results, in their folder."""
LONGEST_STEM = 255 - len(".png")
"""Bytes of a name without its suffix, at most: file systems take 255 in all."""


class SourceError(ValueError):
    """Something that was given to be predicted is not what it should be."""


@dataclass(frozen=True)
class Item:
    """An image file and the name of its results: its path below what was given, without suffix.

    Attributes:
        source: the path, or the address.
        name: of its results; may hold folders.
    """

    source: str
    name: str


def is_video(source: str) -> bool:
    """Return whether a source is a video or a pattern of them, a camera (its number) or a stream; no folder is."""
    if Path(source).expanduser().is_dir():
        return False
    return is_endless(source) or Path(source).suffix.lower() in VIDEOS


def is_endless(source: str) -> bool:
    """Return whether a source is a camera (its number) or a stream, which go on until Ctrl-C."""
    return source.isdigit() or source.startswith(STREAMS)


def find_videos(sources: Iterable[str]) -> list[Item]:
    """Return the videos, cameras and streams that sources mean (`is_video`), each with a name of its own.

    Raises:
        SourceError: there is no such file.
    """
    return _distinct([item for source in sources for item in _films(source)])


def _films(source: str) -> list[Item]:
    if source.isdigit():
        return [Item(source, f"camera_{source}")]
    return [Item(source, Path(source).stem)] if source.startswith(STREAMS) else _expand(source)


def find_images(sources: str | Path | Iterable[str | Path]) -> list[Item]:
    """Return the images that sources mean, sorted within each, each with a name of its own.

    A folder means all below it whose suffix is an image's, a broken link too, which `read_photo` refuses; but not what
    lies in folders of results (`RECORD`), where those of an earlier call are inside it.
    Files that were named are taken whatever their suffix.

    Raises:
        SourceError: a source means nothing.
    """
    given = [sources] if isinstance(sources, str | Path) else list(sources)
    found = [item for source in given for item in _expand(str(source))]
    if not found:
        raise SourceError(f"Expected images, got none in {', '.join(map(str, given)) or 'an empty list'}.")
    return _distinct(found)


def find_examples(folder: str) -> list[str]:
    """Return the images in a folder that a page can show, JPEG and PNG.

    Raises:
        SourceError: there are none.
    """
    files = sorted(
        path for path in Path(folder).expanduser().glob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png")
    )
    if not files:
        raise SourceError(f"Expected images in examples={folder}, got none: correct the path.")
    return [str(path) for path in files]


def _expand(source: str) -> list[Item]:
    if source.startswith(WEB):
        return [Item(source, Path(source.partition("?")[0]).stem)]
    if not source.strip():
        raise SourceError("Expected an image, a folder, a pattern or a video, got an empty name: give one.")
    path = Path(source).expanduser()
    if path.is_dir():
        files = sorted(
            file for file in path.rglob("*") if file.suffix.lower() in image_suffixes() and not file.is_dir()
        )
        below = {folder for file in files for folder in file.parents if path in folder.parents}
        results = {folder for folder in below if (folder / RECORD).is_file()}
        files = [file for file in files if results.isdisjoint(file.parents)]
        if not files:
            raise SourceError(f"Expected images in the folder {path}, got none: check the path.")
        return [Item(str(file), file.relative_to(path).with_suffix("").as_posix()) for file in files]
    if path.is_file():
        return [Item(source, path.stem)]
    found = glob.glob(str(path), recursive=True) if glob.has_magic(str(path)) else []
    files = sorted(Path(file) for file in found if not Path(file).is_dir())
    if not files:
        raise SourceError(
            f"Expected an image, a folder, a pattern or a video, got {source}, {what_is(path)}: check the path."
        )
    base = _fixed_part(path)
    return [Item(str(file), file.relative_to(base).with_suffix("").as_posix()) for file in files]


def image_suffixes() -> set[str]:
    """Return the suffixes of the formats that Pillow can read."""
    Image.init()
    return {suffix for suffix, kind in Image.EXTENSION.items() if kind in Image.OPEN and kind not in ("PDF", "MPEG")}


def _fixed_part(pattern: Path) -> Path:
    """Return the folders of a pattern before its first wildcard."""
    fixed = Path(pattern.anchor)
    for part in pattern.relative_to(pattern.anchor).parts[:-1]:
        if glob.has_magic(part):
            break
        fixed /= part
    return fixed


def _distinct(items: Sequence[Item]) -> list[Item]:
    """Tell equal names apart: first by the file's suffix, then by a number; cut off what no file's name could hold."""
    times = Counter(item.name for item in items)
    named = [
        Item(i.source, _fitting(i.name, Path(i.source).suffix.replace(".", "_") if times[i.name] > 1 else ""))
        for i in items
    ]
    taken: set[str] = set()
    result = []
    for item in named:
        name, number = item.name, 2
        while name in taken:
            name, number = _fitting(item.name, f"_{number}"), number + 1
        taken.add(name)
        result.append(Item(item.source, name))
    return result


def _fitting(name: str, end: str) -> str:
    """Return a name with an end, its last part cut so that a file can be called so."""
    folder, slash, last = name.rpartition("/")
    while len(os.fsencode(last + end)) > LONGEST_STEM:
        last = last[:-1]
    return f"{folder}{slash}{last}{end}"
