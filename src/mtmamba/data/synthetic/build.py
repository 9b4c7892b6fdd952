"""A whole dataset of synthetic scenes, made by several processes and put in place in one step."""

import json
import logging
import multiprocessing
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import track

from mtmamba.data.datasets import all_datasets
from mtmamba.data.synthetic.render import SPLITS, Layout, Split, render
from mtmamba.data.synthetic.write import write_cityscapes, write_nyud, write_pascal
from mtmamba.files import remove_partial, replacing
from mtmamba.workers import usable_cores

_log = logging.getLogger(__name__)

GENERATOR = 1
"""Version of the pictures; raised whenever the same arguments give other files."""

_RECORD = "synthetic.json"
_SMALLEST, _LARGEST = 32, 4096  # pixels a side
_WRITERS = {"nyud": write_nyud, "pascal": write_pascal, "cityscapes": write_cityscapes}
_NAMES = {"nyud": "{i:04d}", "pascal": "2008_{i:06d}", "cityscapes": "{split}/synthetic/synthetic_{i:06d}_000000"}
_CHUNK = 4  # scenes per job: enough to hide the cost of handing them out


class _Job(NamedTuple):
    """Some scenes of one split."""

    root: Path
    layout: Layout
    size: tuple[int, int]
    seed: int
    split: Split
    scenes: list[tuple[int, str]]  # index within the split, id


def generate(
    root: str | Path,
    *,
    layout: Layout,
    train: int,
    val: int,
    size: tuple[int, int],
    seed: int = 0,
    workers: int | None = None,
) -> Path:
    """Write a small dataset of ray-cast scenes whose labels are exact, in the folder layout of a real one.

    Everything is written beside ``root`` and renamed to it at the end, so ``root`` is either absent or complete. The
    same arguments find the dataset made before. The files do not depend on ``workers``. More than one worker means
    fresh Python processes: a script that calls this needs the usual ``if __name__ == "__main__"``.

    Args:
        root: folder to make.
        layout: ``"nyud"`` for rooms in the layout of NYUDv2, ``"pascal"`` for streets, fields and rooms in that of
            PASCAL-Context, ``"cityscapes"`` for streets in that of Cityscapes.
        train: number of training scenes.
        val: number of validation scenes.
        size: (height, width) of every image.
        seed: chooses the scenes.
        workers: processes; None for one per core that may be used.

    Returns:
        ``root`` as a path.

    Raises:
        ValueError: an argument is out of range.
        FileExistsError: ``root`` holds something else.
    """
    _check(layout, train, val, size, seed, workers)
    root = Path(root).expanduser()
    record: dict[str, Any] = {
        "generator": GENERATOR,
        "layout": layout,
        "train": train,
        "val": val,
        "size": list(size),
        "seed": seed,
    }
    if _is_made(root, record):
        return root
    _log.info("Making %d scenes, once, which may take minutes: %s", train + val, root)
    remove_partial(root.parent, root.name)
    try:
        with replacing(root, folder=True) as scratch:
            jobs = list(_jobs(scratch, layout, {"train": train, "val": val}, size, seed))
            _run(jobs, workers or usable_cores())
            (scratch / _RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    except OSError:
        if not _is_made(root, record):  # another process was faster; its files are the same
            raise
    return root


def _check(layout: str, train: int, val: int, size: tuple[int, int], seed: int, workers: int | None) -> None:
    if layout not in _WRITERS:
        raise ValueError(f"Expected layout to be among {', '.join(_WRITERS)}, got {layout!r}: choose one of them.")
    if min(train, val) < 1 or train + val > 9999:
        raise ValueError(
            f"Expected one scene or more in each split, at most 9999 in all, got {train} and {val}: change them."
        )
    if len(size) != 2 or not all(_SMALLEST <= side <= _LARGEST for side in size):
        raise ValueError(
            f"Expected size (height, width) with sides of {_SMALLEST}..{_LARGEST} pixels, got {size}: change the size."
        )
    if seed < 0:
        raise ValueError(f"Expected a seed of 0 or more, got {seed}: choose another.")
    if workers is not None and workers < 1:
        raise ValueError(f"Expected at least one worker, got {workers}: leave it out to use every processor.")


def _is_made(root: Path, record: dict[str, Any]) -> bool:
    """Whether ``root`` is the dataset wanted; an error if it is anything else that exists."""
    if not root.exists():
        return False
    path = root / _RECORD
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else f"no {_RECORD}"
    except json.JSONDecodeError:
        found = f"a {_RECORD} that is not JSON"
    if found != record:
        ours = "delete it, or choose another folder"
        foreign = "choose another folder, or a dataset that is not generated (data=nyud, data=pascal_context)"
        raise FileExistsError(
            f"Expected no folder {root}, or one made from {record}, got {found}: {ours if path.is_file() else foreign}."
        )
    return True


def _jobs(root: Path, layout: Layout, counts: dict[Split, int], size: tuple[int, int], seed: int) -> Iterator[_Job]:
    """Write the lists of ids, where the layout has any, and give out the scenes."""
    number, names = 1, _NAMES[layout]
    record = next(record for record in all_datasets().values() if record.scenes == layout)
    for split in SPLITS:
        ids = [names.format(i=i, split=split) for i in range(number, number + counts[split])]
        number += counts[split]
        if record.layout.lists is not None:
            path = record.layout.list_path(root, split)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(f"{name}\n" for name in ids), encoding="utf-8")
        scenes = list(enumerate(ids))
        for start in range(0, len(scenes), _CHUNK):
            yield _Job(root, layout, size, seed, split, scenes[start : start + _CHUNK])


def _run(jobs: list[_Job], workers: int) -> None:
    """Do all jobs, with a progress bar on a terminal."""
    if workers == 1:
        _show(map(_write, jobs), len(jobs))
        return
    context = multiprocessing.get_context("spawn")  # a fork of a process with torch's threads may hang
    with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=context) as pool:
        futures = [pool.submit(_write, job) for job in jobs]
        try:
            _show((future.result() for future in as_completed(futures)), len(jobs))
        finally:
            pool.shutdown(cancel_futures=True)  # after an error, or Ctrl-C, the rest is not worth waiting for


def _show(done: Iterable[None], total: int) -> None:
    console = Console(stderr=True)
    for _ in track(done, "Making scenes", total, transient=True, console=console, disable=not console.is_terminal):
        pass


def _write(job: _Job) -> None:
    write = _WRITERS[job.layout]
    for index, name in job.scenes:
        image, maps = render(job.layout, job.size, seed=job.seed, split=job.split, index=index)
        write(job.root, name, image, maps)
