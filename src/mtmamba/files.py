"""Files that are written whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name beside ``path`` to write to, and rename it in one step when the block ends well.

    The folder is made. A reader, or another process writing the same file, sees an old version or a whole new one.
    Only a killed process leaves its temporary file, for `remove_partial` to find.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{os.getpid()}.partial.{path.name}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def remove_partial(folder: Path) -> None:
    """Remove what killed processes were writing below a folder."""
    for path in folder.rglob(".*.partial.*"):
        path.unlink(missing_ok=True)
