"""A folder of computed arrays, keyed by the content they were computed from; several processes may share it."""

import io
import zlib
from collections.abc import Callable
from functools import cache
from hashlib import blake2b
from pathlib import Path

import numpy as np

from mtmamba.files import remove_partial, replacing


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
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    try:
        _clean(cache_dir.expanduser())
        with replacing(path) as partial:
            partial.write_bytes(zlib.compress(buffer.getvalue(), level=1))
    except OSError as error:
        raise OSError(f"Expected a writable cache folder, got {cache_dir} ({error}): set cache_dir=FOLDER.") from error
    return array


@cache
def _clean(cache_dir: Path) -> None:
    """Remove what killed processes have left, once in each process that adds to the cache."""
    remove_partial(cache_dir)
