"""The rows of a protocol: those without committed results are trained and evaluated, one on each GPU at a time.

What is finished is skipped; what was cut goes on from its last checkpoint. So the same command, called whenever there
is a machine, ends with all rows.
"""

import json
import logging
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from omegaconf import DictConfig

from mtmamba.config.settings import ConfigError
from mtmamba.files import replacing, write_json
from mtmamba.places import FOLDER, LAST
from mtmamba.runs.bundle import gather, pack, packed_revision
from mtmamba.runs.environment import visible_gpus
from mtmamba.runs.names import CURVES, RESAMPLES, SCORES, TRAINING

log = logging.getLogger(__name__)

SCRIPTS = Path(__file__).parents[2]
RESULT = (SCORES, RESAMPLES, TRAINING)
"""Files that a finished row leaves."""
GRACE = 60
"""Seconds in which a training that is to stop writes its checkpoint."""
POLL = 0.2
"""Seconds between two looks at a running script."""


@dataclass(frozen=True)
class Row:
    """One training of a protocol and its evaluation.

    Attributes:
        name: of the row.
        seed: of the training.
        overrides: of ``train.py``.
        folder: of its run.
        result: the folder of its results.
    """

    name: str
    seed: int
    overrides: tuple[str, ...]
    folder: Path
    result: Path

    @property
    def checkpoint(self) -> Path:
        """Its training's last one."""
        return self.folder / FOLDER / LAST

    @property
    def title(self) -> str:
        """Name and seed, for people."""
        return f"{self.name}, seed {self.seed}"


def work(cfg: DictConfig) -> None:
    """Pack, gather, or run what is missing.

    Args:
        cfg: of ``configs/evidence.yaml``.

    Raises:
        ConfigError: a setting is not what it should be.
        RuntimeError: rows failed; the others are finished.
    """
    if cfg.gather is not None:
        found = gather(Path(cfg.gather).expanduser(), Path(cfg.results))
        _speak()
        log.info("%d new rows in %s: %s", len(found), cfg.results, ", ".join(found) or "none")
    elif cfg.pack is not None:
        pack(Path(cfg.pack).expanduser(), Path(cfg.data_root).expanduser(), Path(cfg.results))
    else:
        _run(cfg)


def missing_rows(cfg: DictConfig) -> list[Row]:
    """Return the rows that have no results yet: seed by seed, in the order asked for."""
    rows = {str(name): str(overrides) for name, overrides in cfg.protocol.rows.items()}
    names = list(rows) if cfg.rows is None else [cfg.rows] if isinstance(cfg.rows, str) else list(cfg.rows)
    if unknown := [name for name in names if name not in rows]:
        raise ConfigError(f"Expected rows among {', '.join(rows)}, got {unknown[0]}.")
    found = []
    for seed in cfg.seeds:
        place = Path(cfg.protocol.name, f"seed{seed}")
        for name in names:
            result = Path(cfg.results, place, name)
            if not (result / SCORES).is_file():
                overrides = (*cfg.protocol.train, *rows[name].split(), f"seed={seed}")
                found.append(Row(name, seed, overrides, Path(cfg.log_dir, "evidence", place, name), result))
    return found


def _speak() -> None:
    """Let messages reach the terminal: not before all settings are looked at, since this imports Lightning."""
    from mtmamba.runs.folder import speak

    speak()


def _run(cfg: DictConfig) -> None:
    root = Path(cfg.data_root).expanduser().resolve()
    if not root.is_dir():
        raise ConfigError(f"Expected the photographs' folder in data_root, got {root}, which is not there.")
    rows = missing_rows(cfg)
    for row in rows:
        if strange := [path.name for path in row.result.glob("*") if path.name not in RESULT]:
            expected = ", ".join(RESULT)
            raise ConfigError(f"Expected nothing but {expected} in {row.result}, got {strange[0]}: move it away.")
    devices = _devices(cfg.devices)
    _speak()
    log.info("%d rows to run: %s", len(rows), "; ".join(row.title for row in rows) or "none")
    waiting: SimpleQueue[Row] = SimpleQueue()
    for row in rows:
        waiting.put(row)
    over = threading.Event()
    if cfg.minutes is not None:
        timer = threading.Timer(60 * float(cfg.minutes), over.set)
        timer.daemon = True
        timer.start()
    failed: list[str] = []

    def serve(device: str | None) -> None:
        """Train row after row on one device; evaluations run beside the next training."""
        with ThreadPoolExecutor(1) as evaluations:
            while not over.is_set():
                try:
                    row = waiting.get_nowait()
                except Empty:
                    return
                if not _trained(row, root, cfg.num_workers, device, over):
                    if not over.is_set():
                        failed.append(row.title)
                    continue
                evaluations.submit(_evaluated, row, cfg.protocol.eval, root, device, over, failed)

    with ThreadPoolExecutor(len(devices)) as pool:
        try:
            for served in [pool.submit(serve, device) for device in devices]:
                served.result()
        except BaseException:  # such as Ctrl-C: rows at hand leave a checkpoint, and none begins
            over.set()
            raise
    if failed:
        raise RuntimeError(f"Expected every row to finish, got failures in {'; '.join(failed)}: see their run.log.")


def _devices(devices: str | int) -> Sequence[str | None]:
    """Return what ``CUDA_VISIBLE_DEVICES`` is for each row at a time; None leaves it alone."""
    count = len(gpus := visible_gpus())
    if devices == "auto":
        devices = max(count, 1)
    if not isinstance(devices, int) or devices < 1 or (count and devices > count):
        raise ConfigError(f"Expected devices to be auto or a number from 1 to {max(count, 1)}, got {devices}.")
    return gpus[:devices] if gpus else [None] * devices


def _trained(row: Row, root: Path, workers: int, device: str | None, over: threading.Event) -> bool:
    """Train a row to its end, from its last checkpoint where there is one; return whether it is there."""
    if (row.folder / SCORES).is_file():
        return True
    resumed = [f"resume={_quoted(row.checkpoint)}"] if row.checkpoint.is_file() else []
    settings = [*row.overrides, *resumed, f"data.root={_quoted(root)}", f"data.num_workers={workers}"]
    log.info("%s: training%s in %s", row.title, " goes on" if resumed else "", row.folder)
    _call("train", [*settings, f"hydra.run.dir={_quoted(row.folder)}"], row.folder, device, over)
    return (row.folder / SCORES).is_file()


def _evaluated(
    row: Row,
    settings: Sequence[str],
    root: Path,
    device: str | None,
    over: threading.Event,
    failed: list[str],
) -> None:
    """Evaluate a row's last weights and keep its results."""
    folder = row.folder / "eval"
    arguments = [f"ckpt={_quoted(row.checkpoint)}", f"data.root={_quoted(root)}", *settings]
    _call("eval", [*arguments, f"hydra.run.dir={_quoted(folder)}"], folder, device, over)
    if not (folder / SCORES).is_file():
        if not over.is_set():
            failed.append(row.title)
        return
    try:
        keep(row)
    except (OSError, ValueError, KeyError) as error:  # nobody waits for this thread's errors
        log.error("%s: its results could not be kept: %s", row.title, error)
        failed.append(row.title)
    else:
        log.info("%s: results in %s", row.title, row.result)


def keep(row: Row) -> None:
    """Copy a row's scores, their bootstrap samples and its training's curves to the results, in one step.

    Nothing of the machine goes with them, and of no single photograph.
    """
    record = json.loads((row.folder / "eval" / SCORES).read_text(encoding="utf-8"))
    run = Path("evidence", *row.result.parts[-3:]).as_posix()
    record = {key: value for key, value in record.items() if key != "worst"}
    record |= {"run": run, "checkpoint": "checkpoints/last.ckpt", "git": packed_revision() or record["git"]}
    for name in RESULT:  # what an unfinished row has left
        (row.result / name).unlink(missing_ok=True)
    with replacing(row.result, folder=True) as partial:
        write_json(partial / SCORES, record)
        shutil.copyfile(row.folder / "eval" / RESAMPLES, partial / RESAMPLES)
        shutil.copyfile(row.folder / CURVES, partial / TRAINING)


def _call(script: str, arguments: Sequence[str], folder: Path, device: str | None, over: threading.Event) -> None:
    """Run a script, its output into ``FOLDER.log``; once it is ``over`` it is asked to stop, as by Ctrl-C.

    A terminal's Ctrl-C does not reach it by itself: asked twice it would leave no checkpoint.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    environment: Mapping[str, Any] = os.environ | ({} if device is None else {"CUDA_VISIBLE_DEVICES": device})
    with folder.with_name(f"{folder.name}.log").open("a", encoding="utf-8") as output:
        command = [sys.executable, str(SCRIPTS / f"{script}.py"), *arguments]
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
        while process.poll() is None and not over.wait(POLL):
            pass
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(GRACE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _quoted(path: Path) -> str:
    """Return a path as Hydra reads it back, whatever characters it has."""
    text = str(path).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{text}'"
