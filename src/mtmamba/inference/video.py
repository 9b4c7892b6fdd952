"""Videos, cameras and streams: frames in, films out, through PyAV (``pip install 'mtmamba[video]'``)."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from mtmamba.files import replacing
from mtmamba.inference.images import Photo
from mtmamba.inference.sources import SourceError
from mtmamba.tasks.pictures import Picture

USUAL_RATE = Fraction(30)
"""Frames per second of a stream that does not say."""


def _av() -> Any:
    try:
        import av
    except ImportError as error:
        raise SourceError("Expected PyAV for videos and cameras, got none: pip install 'mtmamba[video]'.") from error
    return av


@contextmanager
def _opened(source: str) -> Iterator[Any]:
    av = _av()
    camera = source.isdigit() or source.startswith("/dev/video")
    device = f"/dev/video{source}" if source.isdigit() else os.path.expanduser(source)
    try:
        container = av.open(device, format="v4l2" if camera else None)
    except (OSError, ValueError, av.FFmpegError) as error:
        kind = "camera" if camera else "video"
        raise SourceError(f"Expected a {kind} that can be opened, got {source} ({error}): check it.") from error
    with container:
        if not container.streams.video:
            raise SourceError(f"Expected a video, got {source} without pictures: check the file.")
        container.streams.video[0].thread_type = "AUTO"
        yield container


def describe_video(source: str) -> tuple[Fraction, int, bool]:
    """Return a video's frames per second, how many there are (0: unknown), and whether it has sound."""
    with _opened(source) as container:
        stream = container.streams.video[0]
        return Fraction(stream.average_rate or USUAL_RATE), stream.frames, bool(container.streams.audio)


def frames(source: str) -> Iterator[Photo]:
    """Yield the frames of a video, a camera (its number) or a stream, turned the right way up.

    Raises:
        SourceError: it cannot be opened, or it breaks off; PyAV is missing.
    """
    av = _av()
    with _opened(source) as container:
        try:
            for frame in container.decode(video=0):
                pixels = frame.to_ndarray(format="rgb24")
                turns = round((getattr(frame, "rotation", 0) or 0) / 90) % 4  # anticlockwise
                yield Photo(np.ascontiguousarray(np.rot90(pixels, turns)), (), source)
        except av.FFmpegError as error:
            raise SourceError(f"Expected a whole video, got {source}, which breaks off ({error}).") from error


class Film:
    """A video that is written frame by frame; it is there whole once its block ends, and not before.

    Args:
        path: an ``.mp4``.
        rate: frames per second.
    """

    def __init__(self, path: Path, rate: Fraction) -> None:
        self.path, self.rate = path, rate
        self._container: Any = None
        self._stream: Any = None

    def __enter__(self) -> "Film":
        self._file = replacing(self.path)
        self._container = _av().open(str(self._file.__enter__()), "w", format="mp4")
        return self

    def add(self, picture: Picture) -> None:
        """Add a frame ``(H, W, 3)`` uint8 RGB; an odd last row or column is doubled, as the format needs even sides."""
        rows, columns = (np.arange(side + side % 2).clip(max=side - 1) for side in picture.shape[:2])
        picture = picture[rows][:, columns]
        if self._stream is None:
            self._stream = self._container.add_stream("h264", rate=self.rate, options={"crf": "18"})
            self._stream.height, self._stream.width = picture.shape[:2]
            self._stream.pix_fmt = "yuv420p"
        frame = _av().VideoFrame.from_ndarray(picture, format="rgb24")
        for packet in self._stream.encode(frame):
            self._container.mux(packet)

    def __exit__(self, *error: Any) -> None:
        try:
            for packet in self._stream.encode() if self._stream else ():
                self._container.mux(packet)
            self._container.close()
        finally:
            self._file.__exit__(*error)
