"""Unpacking what strangers packed: plain files and folders alone, and nothing outside the target."""

import lzma
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO

_DEEPEST = 3
_BROKEN = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,
    RuntimeError,
)


class ArchiveError(ValueError):
    """A file that is no archive, is broken, or holds what must not be unpacked."""


def unpack(archive: Path, target: Path, wanted: Callable[[str], bool] = lambda name: True) -> None:
    """Unpack a tar of any compression, or a zip, into a folder.

    Args:
        archive: the file.
        target: the folder.
        wanted: whether to unpack the file of a name; all of them by default.

    Raises:
        ArchiveError: it is no archive or a truncated one; or a member is a link, a device or outside the target, and
            then nothing more of it is written.
        OSError: the disk is full.
    """
    try:
        for name, content in _members(archive):
            path = target / _inside(name, archive)
            if content is None:
                path.mkdir(parents=True, exist_ok=True)
                continue
            if not wanted(name):
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as file:
                shutil.copyfileobj(content, file)
    except FileExistsError as error:
        raise ArchiveError(
            f"Expected each file once in {archive}, got {error.filename} twice: get it again."
        ) from error
    except _BROKEN as error:
        with archive.open("rb") as file:
            page = file.read(512).lstrip().lower().startswith((b"<!doctype", b"<html"))
        raise ArchiveError(
            f"Expected a whole tar or zip archive, got {archive}, "
            + (
                "a web page: download the file in a browser and give source=FILE."
                if page
                else f"which breaks off or is none ({error}): get it again."
            )
        ) from error


def _members(archive: Path) -> Iterator[tuple[str, IO[bytes] | None]]:
    """Yield each member's name with its content, None for a folder."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as packed:
            for entry in packed.infolist():
                kind = stat.S_IFMT(entry.external_attr >> 16)
                if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                    _refuse(entry.filename, "a link or a device", archive)
                if entry.is_dir():
                    yield entry.filename, None
                else:
                    with packed.open(entry) as content:
                        yield entry.filename, content
        return
    with tarfile.open(archive, "r|*") as stream:
        for member in stream:
            if not (member.isreg() or member.isdir()):
                _refuse(member.name, "a link or a device", archive)
            yield member.name, stream.extractfile(member) if member.isreg() else None


def _inside(name: str, archive: Path) -> PurePosixPath:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in (path.parts[:1] or ("",))[0]:
        _refuse(name, "outside its folder", archive)
    return path


def _refuse(name: str, what: str, archive: Path) -> None:
    raise ArchiveError(f"Expected plain files and folders in {archive}, got {name}, {what}: do not trust this archive.")


def lift(folder: Path, holds: Callable[[Path], bool]) -> bool:
    """Move what lies one to three folders deeper up to a folder, without what is beside it; return whether it is there.

    Args:
        folder: of the unpacked files.
        holds: whether a folder is the one that is looked for.
    """
    if holds(folder):
        return True
    found = next(
        (path for depth in range(1, _DEEPEST + 1) for path in sorted(folder.glob("*/" * depth)) if holds(path)), None
    )
    if found is None:
        return False
    aside = folder.with_name(f".lifted{folder.name}")  # a name that `remove_partial` knows, should this be killed
    os.rename(found, aside)
    shutil.rmtree(folder)
    os.rename(aside, folder)
    return True
