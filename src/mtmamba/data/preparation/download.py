"""A file from a server that may break off: resumed, and under its name only when it is complete."""

import os
import shutil
import time
from hashlib import blake2b
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit
from urllib.request import Request, urlopen

from rich.progress import DownloadColumn, Progress, TransferSpeedColumn

TIMEOUT = 30
"""Seconds without an answer before an attempt fails."""
ATTEMPTS = 5
"""Attempts in a row that may bring nothing new."""
PAUSE = 1.0
"""Seconds before the second attempt; each further one waits twice as long."""
_CHUNK = 2**20


class DownloadError(OSError):
    """A file that cannot be had from a server; the message says why."""


def download(url: str, folder: Path) -> Path:
    """Return a server's file; one that was complete before is not fetched again.

    What has come of it is kept beside it as ``.part``, for this call and for later ones to go on with.

    Args:
        url: http or https.
        folder: where to put it; made when needed.

    Raises:
        DownloadError: the server does not have it, sends less than it announces, or the disk is too small.
    """
    key = blake2b(url.encode(), digest_size=4).hexdigest()
    path = folder / f"{key}-{PurePosixPath(unquote(urlsplit(url).path)).name or 'file'}"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    part, failures, reason = path.with_name(f"{path.name}.part"), 0, ""
    while failures < ATTEMPTS:
        before = _size(part)
        if failures:
            time.sleep(PAUSE * 2 ** (failures - 1))
        try:
            total = _fetch(url, part)
        except HTTPError as error:
            if error.code == 416:  # more is asked for than there is: another file than the one that was begun
                part.unlink(missing_ok=True)
            elif error.code < 500 and error.code not in (408, 429):
                raise DownloadError(f"Expected a file at {url}, got {error.code} {error.reason}.") from error
            reason = f"{error.code} {error.reason}"
        except DownloadError:
            raise
        except (OSError, HTTPException) as error:
            reason = str(error) or type(error).__name__
        else:
            if total is None or _size(part) == total:
                os.replace(part, path)
                return path
            reason = f"{_size(part):,} of {total:,} bytes"
        failures = failures + 1 if _size(part) <= before else 1
    raise DownloadError(f"Expected the whole of {url}, got {reason} after {ATTEMPTS} attempts.")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _fetch(url: str, part: Path) -> int | None:
    """Add what the server sends to a part, or replace the part where it cannot go on; return the whole's length."""
    have = _size(part)
    request = Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    with urlopen(request, timeout=TIMEOUT) as response:
        goes_on = response.status == 206
        have = have if goes_on else 0
        length = response.headers.get("Content-Length") or ""
        total = have + int(length) if length.isdecimal() else None  # what is no number is read to its end
        free = shutil.disk_usage(part.parent).free
        if total is not None and total - have > free:
            raise DownloadError(
                f"Expected {(total - have) / 1e9:.1f} GB free in {part.parent} for {url}, got {free / 1e9:.1f}: make "
                "room, or set cache_dir=FOLDER."
            )
        bar = Progress(*Progress.get_default_columns(), DownloadColumn(), TransferSpeedColumn(), transient=True)
        bar.disable = not bar.console.is_terminal
        with bar, part.open("ab" if goes_on else "wb") as file:
            task = bar.add_task(PurePosixPath(urlsplit(url).path).name, total=total, completed=have)
            while data := response.read(_CHUNK):
                file.write(data)
                bar.advance(task, len(data))
    return total
