"""Files that are written whole or not at all."""

import errno
import fcntl
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

WEB = ("http://", "https://")
"""What an address begins with, where a path may stand as well."""
_FULL = (errno.ENOSPC, errno.EDQUOT)
LONGEST = 255 - len(f".{'0' * 16}.partial.")
"""Bytes of a final name in a temporary one, at most: file systems take 255 in all."""


@contextmanager
def replacing(path: Path, *, folder: bool = False) -> Iterator[Path]:
    """Give a temporary name beside ``path`` to write to, and rename it in one step when the block ends well.

    The folder around it is made. A reader, or another process writing the same, sees an old version or a whole new one,
    whatever machine or container it runs in. Only a killed process leaves its temporary file, for `remove_partial`.

    Args:
        path: what to write.
        folder: whether it is a folder, which is made empty and replaces none that holds anything.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial, held = _new_partial(path, folder)
    try:
        yield partial
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:  # PyTorch's writer makes a RuntimeError of what the disk said
        if is_full_disk(error):
            raise OSError(full_disk(path)) from error
        raise
    finally:
        os.close(held)
        if folder:
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Keep other processes from claiming a folder, which is made; the system gives it back however this one ends.

    Raises:
        FileExistsError: another process has claimed it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    held = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(held)
        raise FileExistsError(
            f"Expected a folder that no other process writes to, got {folder}: wait for its end, or choose another."
        ) from error
    except OSError:  # the file system knows no locks
        pass
    try:
        yield
    finally:
        os.close(held)


def remove_partial(folder: Path, pattern: str = "**/*") -> None:
    """Remove what killed processes were writing below a folder, and leave what living ones are writing.

    Args:
        folder: where to look.
        pattern: of the final names, from ``folder``.
    """
    *parents, name = pattern.split("/")
    for path in [*folder.glob("/".join([*parents, f".*.partial.{name}"]))]:
        try:
            held = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        except OSError:  # gone, or nothing of ours
            continue
        try:
            if _lock(held, wait=False):
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)
        finally:
            os.close(held)


def _new_partial(path: Path, folder: bool) -> tuple[Path, int]:
    """Make an empty file or folder of a name that nobody else has; its descriptor holds a lock while it is open."""
    while True:
        name = path.name
        while len(os.fsencode(name)) > LONGEST:
            name = name[1:]
        partial = path.with_name(f".{secrets.token_hex(8)}.partial.{name}")
        if folder:
            partial.mkdir()
            held = os.open(partial, os.O_RDONLY)
        else:
            held = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        _lock(held, wait=True)
        if partial.exists():  # not taken for a killed process's before it was locked
            return partial, held
        os.close(held)


def _lock(held: int, wait: bool) -> bool:
    """Lock an open file or folder against `remove_partial` in any process; return whether that was possible."""
    try:
        fcntl.flock(held, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:  # another holds it, or the file system knows no locks: then nothing is ever removed there
        return False
    return True


def remove_folder(folder: Path) -> None:
    """Remove a folder, where it is there, and the two around it where they are empty then; never the working one."""
    shutil.rmtree(folder, ignore_errors=True)  # another device's process may be at it
    for parent in list(folder.parents)[:2]:
        if parent.resolve() == Path.cwd() or not parent.is_dir() or any(parent.iterdir()):
            break
        with suppress(OSError):
            parent.rmdir()


def write_text(path: Path, text: str) -> None:
    """Write a file in one step, making its folder."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write JSON in one step; NaN and infinity become null."""
    write_text(path, json.dumps(_finite(value), indent=2) + "\n")


def is_full_disk(error: BaseException | None) -> bool:
    """Return whether an error, or one that it came from, is that of a full disk or quota."""
    while error is not None and not any(os.strerror(number) in str(error) for number in _FULL):
        error = error.__cause__ or error.__context__
    return error is not None


def full_disk(path: Path) -> str:
    """Return what is said where there is no room for a path."""
    return f"Expected room for {path}, got a full disk: make room, or choose a folder on another disk."


def what_is(path: Path) -> str:
    """Say in words what lies at a path: a pipe or a device is never read, which might not end."""
    try:
        found = path.stat()
    except (OSError, ValueError) as error:
        if path.is_symlink():
            return f"a link to {os.readlink(path)} that leads nowhere"
        return "no such file" if isinstance(error, FileNotFoundError) else str(error)
    file = "a file" if found.st_size else "an empty file"
    kinds = {stat.S_IFREG: file, stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(found.st_mode), "a device")


def printable(text: str) -> str:
    r"""Return text that can be written as UTF-8 and moves no cursor: names of files are any bytes.

    >>> printable("a\udcff \x1b[2J b\n")
    'a\\udcff �[2J b\n'
    """
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "\ufffd", text)


def sha256(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
