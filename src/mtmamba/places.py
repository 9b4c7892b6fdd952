"""Where models lie, and whether what settings name is there; it is told without PyTorch."""

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from mtmamba.config.settings import ConfigError, shown
from mtmamba.extensions import find_extensions
from mtmamba.files import what_is
from mtmamba.shipped import PACKAGE, released_dir

LAST, BEST = "last.ckpt", "best.ckpt"
FOLDER = "checkpoints"
WEIGHTS, CONFIG = "model.safetensors", "config.json"
"""What makes a folder of `mtmamba.save_pretrained`."""
HUB = "hf://"
REPOSITORY = re.compile(r"\w[\w.-]*/\w[\w.-]*")
"""A model's name on the hub."""
MODELS = ("ckpt", "init")
"""Settings that name a model."""
OUTPUTS = ("output", "export", "out", "pack", "save_dir")
"""Settings that name what is to be written."""


def check_places(cfg: DictConfig) -> None:
    """Refuse extensions, models, weights and a run to resume that are not there, before anything is read of them.

    Args:
        cfg: any script's configuration. What lies on the hub is not looked for.

    Raises:
        ConfigError: a file of ``extensions`` is none, or there is no such backend of the scan, or no such task.
        FileNotFoundError: there is no such model, file of weights or run.
        PermissionError: nothing can be written where it should be.
    """
    own = list(find_extensions(cfg.get("extensions") or ()))
    if "backend" in cfg and not own:  # which may bring others
        require_backend(cfg.backend, sorted(path.stem for path in (PACKAGE / "scan/backends").glob("[a-z]*.py")))
    require_tasks(cfg)
    for name in filter(None, (cfg.get(key) for key in MODELS)):
        if name.startswith(HUB):
            hub_name(name)
        else:
            require_tasks_of(find_model(name), cfg.get("tasks") or ())
    weights = OmegaConf.select(cfg, "encoder.weights")
    if weights and cfg.get("init") is None and not (path := Path(weights).expanduser()).is_file():
        raise FileNotFoundError(f"Expected a file of weights at {path}, got {what_is(path)}: correct encoder.weights.")
    if cfg.get("resume") not in (None, "auto"):
        find_checkpoint(Path(cfg.resume), LAST)
    for key in OUTPUTS:
        if path := cfg.get(key):
            require_writable(key, Path(path).expanduser())


def require_writable(key: str, path: Path) -> None:
    """Raise PermissionError where a file or folder cannot be written, since what is there of its path forbids it."""
    there = next(place for place in (path, *path.absolute().parents) if place.exists())
    there = there.absolute().parent if there == path and not path.is_dir() else there  # a file may be replaced
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise PermissionError(f"Expected {key} in a folder that can be written, got {path}: choose another.")


def hub_name(address: str) -> tuple[str, str | None]:
    """Return a model's name on the hub, and its revision where the address has one.

    Raises:
        FileNotFoundError: the address has another form.
    """
    name, _, revision = address.removeprefix(HUB).partition("@")
    if not REPOSITORY.fullmatch(name):
        raise FileNotFoundError(f"Expected {HUB}owner/name or {HUB}owner/name@revision, got {address}: correct it.")
    return name, revision or None


def require_tasks(cfg: DictConfig) -> None:
    """Raise ConfigError where the dataset has no such tasks, as far as its configuration says which it has."""
    known = OmegaConf.select(cfg, "data.num_outputs")
    if known and (unknown := [task for task in cfg.get("tasks") or () if task not in known]):
        raise ConfigError(
            f"Expected tasks among {', '.join(known)}, which this data has, got {shown(unknown)}: choose others, or "
            "another data, or name the file of a task of yours in extensions=[FILE.py]."
        )


def require_tasks_of(model: Path, tasks: Iterable[str]) -> None:
    """Raise ConfigError where a folder of `mtmamba.save_pretrained` lacks a task; PyTorch reads those of others."""
    try:
        known = json.loads((model / CONFIG).read_text(encoding="utf-8"))["mtmamba"]["values"]["tasks"]
    except (OSError, ValueError, LookupError, TypeError):  # a checkpoint, or damaged
        return
    if unknown := [task for task in tasks if task not in known]:
        raise ConfigError(
            f"Expected tasks among {', '.join(known)}, the model's, got {shown(unknown)}: choose of those."
        )


def require_backend(name: str, known: Iterable[str]) -> None:
    """Raise ConfigError where the scan has no such backend."""
    if name not in (backends := ("auto", *known)):
        raise ConfigError(f"Expected backend={'|'.join(backends)}, got backend={name}: choose one of those.")


def require_predictions(folder: Path) -> None:
    """Raise FileNotFoundError where a folder of predictions is not there."""
    if not folder.is_dir():
        raise FileNotFoundError(f"Expected a folder of predictions, got no {folder}: correct pred.")


def require_released(path: Path) -> None:
    """Raise FileNotFoundError where an authors' checkpoint is not there."""
    if not path.is_file():
        raise FileNotFoundError(f"Expected an authors' checkpoint at {path}, got {what_is(path)}: check source=FILE.")


def find_model(source: str | Path) -> Path:
    """Return the checkpoint, or the folder of `mtmamba.save_pretrained`, that is meant.

    Args:
        source: a checkpoint, a run's folder, a folder of `save_pretrained`, or the name of a model of ours.

    Raises:
        FileNotFoundError: there is none.
    """
    path = Path(source).expanduser()
    if not path.exists() and path.parent == Path() and (released_dir() / path / CONFIG).is_file():
        path = released_dir() / path
    if (path / CONFIG).is_file() and (path / WEIGHTS).is_file():
        return path
    return find_checkpoint(path)


def find_checkpoint(path: Path, *names: str) -> Path:
    """Return the checkpoint that a path means.

    Args:
        path: a checkpoint, or a run's folder.
        names: of the folder's checkpoints, the first that exists is taken; best before last by default.

    Raises:
        FileNotFoundError: there is none, or it is no file.
    """
    places = [path / FOLDER / name for name in names or (BEST, LAST)] if path.is_dir() else [path]
    found = next((place for place in places if os.path.lexists(place)), places[-1])
    if found.is_file():
        return found
    raise FileNotFoundError(
        f"Expected a checkpoint, or a run's folder with {FOLDER}/{LAST}, got {found}, {what_is(found)}: check the path."
    )
