"""Where Triton keeps what it compiles."""

import atexit
import logging
import os
import shutil
from functools import cache
from pathlib import Path
from tempfile import TemporaryFile, mkdtemp

from triton import knobs

logger = logging.getLogger(__name__)


@cache
def settle_cache() -> None:
    """See to it that Triton has a folder to write to, before it compiles anything.

    Where its own cannot be written (no home, read-only disks), it gets a folder that is removed when the process ends.
    """
    try:
        folder = Path(knobs.cache.dir)
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        own = mkdtemp(prefix="mtmamba-triton-")
        atexit.register(shutil.rmtree, own, ignore_errors=True)
        os.environ["TRITON_CACHE_DIR"] = own
        logger.warning(
            "Expected a folder for Triton's compiled kernels that can be written, got %s (%s): each process compiles "
            "its own; set TRITON_CACHE_DIR=FOLDER to keep them.",
            folder,
            error.strerror,
        )
