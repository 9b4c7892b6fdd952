"""Code, results and photographs in one file for a machine without network, and what it sends back."""

import io
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from mtmamba.config.settings import ConfigError
from mtmamba.files import replacing
from mtmamba.runs.environment import git_revision
from mtmamba.runs.names import RESAMPLES, SCORES

REPOSITORY = Path(__file__).parents[3]
REVISION = "REVISION"
RUN = """#!/bin/sh
# On the other machine: sh run.sh [OVERRIDES of evidence.py]; then bring results/ back: `evidence.py gather=results`.
cd "$(dirname "$0")" && exec env PYTHONPATH="$PWD/src:$PYTHONPATH" python3 src/evidence.py data_root=data "$@"
"""


def pack(target: Path, data: Path, results: Path) -> None:
    """Write a .tar of the repository's files, the finished rows, the photographs as ``data/`` and ``run.sh``.

    Installed packages, the encoder's weights among them, are not in it: the other machine has them, or is given them.

    Raises:
        ConfigError: there is no such folder, or this is no checkout of git.
    """
    if not data.is_dir():
        raise ConfigError(f"Expected the photographs' folder in data_root, got {data}, which is not there.")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    found = subprocess.run(command, cwd=REPOSITORY, capture_output=True, check=False)
    if found.returncode:
        raise ConfigError(f"Expected a checkout of git in {REPOSITORY} to pack, got none: clone the repository.")
    with replacing(target) as partial, tarfile.open(partial, "w") as archive:
        for name in filter(None, found.stdout.decode().split("\0")):
            if (REPOSITORY / name).is_file():
                archive.add(REPOSITORY / name, name)
        if results.is_dir():
            archive.add(results, "results")
        archive.add(data, "data")
        for name, text in (("run.sh", RUN), (REVISION, git_revision() or "")):
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))


def packed_revision() -> str | None:
    """Return the revision that a bundle was made from; None in a checkout."""
    path = REPOSITORY / REVISION
    return path.read_text(encoding="utf-8").strip() or None if path.is_file() else None


def gather(source: Path, results: Path) -> list[str]:
    """Take over the finished rows that are new, and return their names.

    Args:
        source: a ``results`` folder, or a .tar that holds one.
        results: where to.

    Raises:
        ConfigError: there is nothing of the kind, or an archive with members that climb out of it.
    """
    if source.is_dir():
        return _taken(source, results)
    with tempfile.TemporaryDirectory() as temporary:
        try:
            with tarfile.open(source) as archive:
                archive.extractall(temporary, filter="data")
        except (OSError, tarfile.TarError) as error:
            raise ConfigError(f"Expected a folder or a .tar in gather, got {source} ({error}).") from error
        return _taken(Path(temporary), results)


def _taken(folder: Path, results: Path) -> list[str]:
    names = []
    for path in sorted(folder.glob(f"**/seed*/*/{SCORES}")):
        row = path.parent
        place = Path(*row.parts[-3:])
        if not (row / RESAMPLES).is_file() or (results / place / SCORES).is_file():
            continue
        with replacing(results / place, folder=True) as partial:
            shutil.copytree(row, partial, dirs_exist_ok=True)
        names.append(place.as_posix())
    return names
