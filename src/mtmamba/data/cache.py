"""A folder of computed arrays, keyed by the content they were computed from; several processes may share it."""

import io
import os
import tempfile
import zlib
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path

import numpy as np


def cached(cache_dir: Path, kind: str, source: bytes, compute: Callable[[], np.ndarray]) -> np.ndarray:
    """Return the array stored for ``(kind, source)``, computing and storing it first when there is none.

    An entry is a zlib-compressed ``.npy``, whose checksum finds damage: a damaged entry is computed anew and replaced.
    Entries appear under their name only when complete, so concurrent processes at worst compute the same one twice.

    Args:
        cache_dir: the folder, made when needed; never inside a dataset.
        kind: what is computed; change it whenever ``compute`` gives something else.
        source: the bytes that the result is a function of.
        compute: called without arguments on a miss.

    Raises:
        OSError: the folder cannot be written.
    """
    digest = blake2b(source, digest_size=16, person=kind.encode()[:16]).hexdigest()
    path = cache_dir.expanduser() / kind / digest[:2] / f"{digest}.npy.z"
    try:
        return np.load(io.BytesIO(zlib.decompress(path.read_bytes())), allow_pickle=False)
    except (OSError, zlib.error, ValueError, EOFError):
        array = compute()
    try:
        _store(path, array)
    except OSError as error:
        raise OSError(f"Expected a writable cache folder, got {cache_dir} ({error}): set cache_dir=FOLDER.") from error
    return array


def _store(path: Path, array: np.ndarray) -> None:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(zlib.compress(buffer.getvalue(), level=1))
        os.replace(temporary, path)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        raise
