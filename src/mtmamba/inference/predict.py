"""The work of ``predict.py``: inputs in, a folder of results out; what cannot be read is listed, the rest goes on."""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mtmamba.files import claimed, printable, write_json
from mtmamba.inference.predictor import PIXELS_AHEAD, Failure, Predictor
from mtmamba.inference.request import Request, require_new
from mtmamba.inference.result import Result
from mtmamba.inference.sources import RECORD, Item, SourceError, is_endless
from mtmamba.inference.video import Film, describe_video, frames
from mtmamba.tasks.pictures import Picture
from mtmamba.workers import usable_cores

WRITERS = min(usable_cores(), 16)
"""Threads that encode and write results while the network goes on."""
WAITING = 32
"""Results that wait for them, at most."""
STOPPED = "stopped by Ctrl-C"
"""What is said of a film that was."""
LINE_SECONDS = 30
"""Seconds between two lines of progress in a file."""


def predict(cfg: DictConfig, request: Request) -> bool:
    """Predict what was asked for and write the results.

    Args:
        cfg: of ``configs/predict.yaml``.
        request: what `read_request` makes of it.

    Returns:
        Whether every input could be predicted.

    Raises:
        SourceError: a setting is not what it should be.
        FileExistsError: the folder holds files and ``overwrite`` is false, or another call is writing to it.
        KeyboardInterrupt: it was stopped; but a camera or a stream, the last input, ends well so.
    """
    kinds = [cfg.save] if isinstance(cfg.save, str) else list(cfg.save)
    predictor, folder = make_predictor(cfg), request.folder
    console = Console()
    start, entries = time.perf_counter(), []
    with claimed(folder):
        require_new(folder, cfg.overwrite)  # another call may have filled it meanwhile
        try:
            if request.images:
                found = _counted(predictor.files(request.images, cfg.batch_size), len(request.images), console)
                for entry in written(found, folder, kinds, cfg.show):
                    entries.append(entry)
            for video in request.videos:
                entries.append(_film(predictor, video, folder, kinds, cfg.batch_size, console))
                last = video is request.videos[-1]
                if STOPPED in entries[-1].get("done", ()) and not (last and is_endless(video.source)):
                    raise KeyboardInterrupt
        finally:
            write_json(folder / RECORD, {"model": str(cfg.ckpt), "settings": _settings(cfg), "predictions": entries})
    bad = [entry for entry in entries if "error" in entry]
    for entry in bad:
        console.print(
            printable(f"Skipped: {' '.join(entry['error'].split())}"), style="red", markup=False, soft_wrap=True
        )
    seconds = time.perf_counter() - start
    done = f"{len(entries) - len(bad)} of {len(entries)} inputs in {seconds:.1f} s: {folder}"
    console.print(printable(done), markup=False, soft_wrap=True)
    return not bad


def make_predictor(cfg: DictConfig) -> Predictor:
    """Load the model that a script's configuration names, with its settings."""
    tasks = None if cfg.tasks is None else list(cfg.tasks)
    return Predictor.from_pretrained(cfg.ckpt, extensions=cfg.extensions, tasks=tasks, **_settings(cfg))


def _settings(cfg: DictConfig) -> dict[str, Any]:
    size = list(cfg.size) if OmegaConf.is_config(cfg.size) else str(cfg.size)
    flip = bool(OmegaConf.select(cfg, "tta.flip", default=False))
    return {"device": str(cfg.device), "precision": str(cfg.precision), "size": size, "flip": flip}


def _counted(results: Iterator[Any], total: int | None, console: Console) -> Iterator[Any]:
    """Pass results on under a bar of progress with images per second; into a file goes a line now and then."""
    columns = (TextColumn("Predicting"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
        task = progress.add_task("", total=total, rate="")
        start = said = time.perf_counter()
        of = "" if total is None else f" of {total}"
        for number, result in enumerate(results, 1):
            yield result
            now = time.perf_counter()
            rate = f"{number / (now - start):.1f} images/s"
            progress.update(task, completed=number, rate=rate)
            if not console.is_terminal and now - said > LINE_SECONDS:
                console.print(f"{number}{of} images, {rate}", markup=False, soft_wrap=True)
                said = now


def written(
    results: Iterator[Result | Failure], folder: Path, kinds: Sequence[str], show: bool
) -> Iterator[dict[str, Any]]:
    """Write results in threads, and yield what ``predictions.json`` says of each, in order.

    What ends the results, such as Ctrl-C, is raised when those that were there are written.
    """
    waiting: deque[tuple[Future[dict[str, Any]], int]] = deque()
    held = 0
    with ThreadPoolExecutor(WRITERS) as pool:
        try:
            for result in results:
                if isinstance(result, Failure):
                    entry = {"source": result.item.source, "name": result.item.name, "error": result.reason}
                    waiting.append((_known(entry), 0))
                else:
                    waiting.append((pool.submit(_saved, result, folder, kinds), result.image[..., 0].size))
                    if show:
                        result.show()
                held += waiting[-1][1]
                del result  # so that nothing but its writer holds it
                while len(waiting) > WAITING or held > PIXELS_AHEAD:
                    future, pixels = waiting.popleft()
                    held -= pixels
                    yield future.result()
        except (Exception, KeyboardInterrupt):
            yield from _entries(waiting)
            raise
        yield from _entries(waiting)


def _entries(waiting: deque[tuple[Future[dict[str, Any]], int]]) -> Iterator[dict[str, Any]]:
    while waiting:
        yield waiting.popleft()[0].result()


def _known(entry: dict[str, Any]) -> Future[dict[str, Any]]:
    future: Future[dict[str, Any]] = Future()
    future.set_result(entry)
    return future


def _saved(result: Result, folder: Path, kinds: Sequence[str]) -> dict[str, Any]:
    start = time.perf_counter()
    files = [path.relative_to(folder).as_posix() for path in result.save(folder, kinds)]
    height, width = result.image.shape[:2]
    return {
        "source": result.source,
        "name": result.name,
        "width": width,
        "height": height,
        "done": list(result.photo.done),
        "files": files,
        "seconds_to_write": round(time.perf_counter() - start, 4),
    }


def _film(
    predictor: Predictor, video: Item, folder: Path, kinds: Sequence[str], batch_size: int, console: Console
) -> dict[str, Any]:
    """Predict a video, a camera or a stream into a film of each task and one of all side by side.

    Ctrl-C ends it, and the films are whole.
    """
    source, name = video.source, video.name
    done, count, stopped = [], 0, False
    try:
        rate, total, sound = describe_video(source)
        if sound:
            done.append("sound dropped")
        results = predictor.photos(((f"{name}/{i:06d}", p) for i, p in enumerate(frames(source))), batch_size)
        with ExitStack() as stack:
            films = _films(stack, predictor, folder, name, kinds, rate)
            try:
                for result in _counted(results, total or None, console):
                    for part, film in films.items():
                        film.add(side_by_side(result) if part == "side_by_side" else result.picture(part))
                    if "raw" in kinds:
                        result.save(folder, ["raw"])
                    count += 1
            except KeyboardInterrupt:
                stopped = True
    except SourceError as error:
        return {"source": source, "name": name, "frames": count, "error": str(error)}
    if stopped:
        done.append(STOPPED)
    files = [film.path.relative_to(folder).as_posix() for film in films.values()]
    return {
        "source": source,
        "name": name,
        "frames": count,
        "frames_per_second": float(rate),
        "done": done,
        "files": files,
    }


def _films(
    stack: ExitStack, predictor: Predictor, folder: Path, name: str, kinds: Sequence[str], rate: Fraction
) -> dict[str, Film]:
    paths = {}
    if "picture" in kinds:
        paths = {task.name: folder / "pictures" / task.name / f"{name}.mp4" for task in predictor.tasks}
    if "sheet" in kinds:
        paths["side_by_side"] = folder / "sheets" / f"{name}.mp4"
    return {part: stack.enter_context(Film(path, rate)) for part, path in paths.items()}


def side_by_side(result: Result) -> Picture:
    """Return a frame and the picture of every task in a grid two or three wide, each at half the frame's size."""
    pictures = [result.image, *(result.picture(task.name) for task in result.tasks)]
    columns = 2 if len(pictures) in (2, 4) else 3
    height, width = (max(2, side // 2) for side in result.image.shape[:2])
    small = [np.asarray(cv2.resize(x, (width, height), interpolation=cv2.INTER_AREA), np.uint8) for x in pictures]
    small += [np.zeros_like(small[0])] * (-len(small) % columns)
    return np.vstack([np.hstack(small[i : i + columns]) for i in range(0, len(small), columns)])
