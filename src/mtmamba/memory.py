"""What freed memory costs."""

import ctypes
from contextlib import suppress

TRIM_THRESHOLD, MMAP_MAX = -1, -4
"""Numbers of glibc's ``mallopt``: free bytes at the heap's end to hold, and how many blocks may be mapped apart."""


def give_back_memory() -> None:
    """Give freed memory back to the system, where its C library can.

    glibc keeps freed blocks of up to 32 MB for later ones. Between the little that each image leaves, those of large
    images fit ever worse: an evaluation of Cityscapes on a CPU grew by 10 MB an image, which nothing held, a prediction
    of photographs of mixed sizes by half a megabyte.
    """
    with suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def keep_memory() -> None:
    """Keep all memory once freed for later blocks, where the C library can.

    Every step of a training takes blocks as large as the step before. glibc gives large ones back, and the system
    clears each of their pages anew: a seventh of a step's time on a CPU.
    """
    with suppress(AttributeError, OSError):  # another C library
        library = ctypes.CDLL(None)
        library.mallopt(MMAP_MAX, 0)
        library.mallopt(TRIM_THRESHOLD, -1)  # all of it
