"""Files that are written whole or not at all."""

import hashlib
import json
import math
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name beside ``path`` to write to, and rename it in one step when the block ends well.

    The folder is made. A reader, or another process writing the same file, sees an old version or a whole new one.
    Only a killed process leaves its temporary file, for `remove_partial` to find.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(
        f".{secrets.token_hex(8)}.partial.{path.name}"
    )  # processes of two containers share numbers
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def remove_partial(folder: Path) -> None:
    """Remove what killed processes were writing below a folder."""
    for path in folder.rglob(".*.partial.*"):
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a file in one step, making its folder."""
    with replacing(path) as partial:
        partial.write_text(text)


def write_json(path: Path, value: Any) -> None:
    """Write JSON in one step; NaN and infinity become null."""
    write_text(path, json.dumps(_finite(value), indent=2) + "\n")


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
