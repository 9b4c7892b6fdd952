"""A run's folder: what is written down when it begins, who is at work in it, and how an interrupted one is found."""

import contextlib
import fcntl
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from mtmamba.config.decisive import LENGTH, differences
from mtmamba.config.settings import ConfigError
from mtmamba.files import remove_folder, what_is, write_json, write_text
from mtmamba.places import FOLDER, LAST
from mtmamba.plain_yaml import plain_yaml
from mtmamba.runs.environment import environment
from mtmamba.runs.names import ENVIRONMENT, LOG, SCORES, SETTINGS

log = logging.getLogger(__name__)

LOCK = ".lock"


@rank_zero_only
def remove_empty(folder: Path) -> None:
    """Remove a folder that holds nothing but Hydra's record of the call, and those around it that are empty then."""
    if folder.is_dir() and {p.name for p in folder.iterdir()} <= {".hydra"}:
        remove_folder(folder)


@rank_zero_only
def require_new(run_dir: Path) -> None:
    """Refuse to begin a run over the checkpoints of another.

    Raises:
        ConfigError: there are some in the folder.
    """
    if (run_dir / FOLDER / LAST).is_file():
        raise ConfigError(
            f"Expected a new folder for a new run, got {run_dir} with {FOLDER}/{LAST} of another: go on with that one "
            f"by resume={run_dir}, or choose another folder."
        )


@rank_zero_only
def begin(cfg: DictConfig, run_dir: Path) -> None:
    """Write down what runs where, and let the package's messages reach the terminal and ``run.log``."""
    write_text(run_dir / SETTINGS, OmegaConf.to_yaml(cfg, resolve=True))
    write_json(run_dir / ENVIRONMENT, environment())
    speak(logging.FileHandler(run_dir / LOG))
    log.info("Run folder: %s", run_dir)


@rank_zero_only
def speak(*more: logging.Handler) -> None:
    """Let the package's messages reach the terminal, and whatever else is given."""
    ours = logging.getLogger("mtmamba")
    ours.setLevel(logging.INFO)
    for handler in list(ours.handlers):
        ours.removeHandler(handler)
        handler.close()
    for handler in (logging.StreamHandler(), *more):
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
        ours.addHandler(handler)


@contextlib.contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Keep other processes from going on with a run while this one is at it.

    The system gives the lock back when the process ends, however it ends; processes that it started have no part in it.

    Raises:
        ConfigError: another process is at work in the folder.
    """
    if rank_zero_only.rank != 0:  # type: ignore[attr-defined]
        yield
        return
    run_dir.mkdir(parents=True, exist_ok=True)
    path = run_dir / LOCK
    with path.open("a") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"Expected a run that nobody is at, got {run_dir}, where another process is training: wait for its "
                "end, or stop it first."
            ) from error
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def find_unfinished(description: Mapping[str, Any], log_dir: Path) -> Path | None:
    """Return the newest run below a folder that makes the same updates, has no results yet, and rests.

    Where there is none, the log names the nearest one and what differs.

    Args:
        description: of this configuration, from `mtmamba.config.compose.describe`.
        log_dir: the folder.
    """
    nearest: tuple[Path, dict[str, str]] | None = None
    for last in sorted(log_dir.rglob(f"{FOLDER}/{LAST}"), key=lambda p: p.stat().st_mtime, reverse=True):
        run = last.parents[1]
        if not last.is_file() or (run / SCORES).exists() or is_at_work(run):
            continue
        try:
            if not (path := run / SETTINGS).is_file():
                raise FileNotFoundError(what_is(path))
            config: Any = plain_yaml(path.read_text(encoding="utf-8"))
            differing = differences(description, {"choices": config["choices"], "values": config})
        except (OSError, ValueError, YAMLError, OmegaConfBaseException, KeyError, TypeError) as error:
            log.warning("resume=auto: passing over %s, whose config.yaml cannot be read (%s).", run, error)
            continue
        if not differing:
            return run
        if nearest is None or len(differing) < len(nearest[1]):
            nearest = run, differing
    log.info("resume=auto: no unfinished run of this configuration below %s; starting anew.", log_dir)
    if nearest is not None:
        way = f"; resume={nearest[0]} would go on with it" if set(nearest[1]) == {LENGTH} else ""
        log.info("The nearest one is %s, but %s%s.", nearest[0], ", ".join(nearest[1].values()), way)
    return None


def is_at_work(run: Path) -> bool:
    """Return whether another process holds the run's lock. Not to be asked of a run of this process's own."""
    if not (run / LOCK).is_file():
        return False
    with (run / LOCK).open("a") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
