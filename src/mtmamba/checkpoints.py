"""Checkpoints: written whole or not at all, read without running code, found again."""

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mtmamba.files import replacing, what_is
from mtmamba.models.pretrained import UNREADABLE
from mtmamba.places import FOLDER

PARTS: dict[str, type] = {"state_dict": dict, "mtmamba": dict, "global_step": int}
"""What every checkpoint has."""

NETWORK = "model."
"""What checkpoints put before the names of the network's weights."""

MOST_THREADS = 4096
"""Threads that may be asked for: with many more than any machine has cores, OpenMP just ends the process."""

TRAINING_PARTS: dict[str, type] = {"callbacks": dict, "loops": dict, "optimizer_states": list, "lr_schedulers": list}
"""What a checkpoint to resume from has beside its weights."""


class CheckpointError(ValueError):
    """A file is no checkpoint of this program; the message says what came instead."""


def save_checkpoint(content: Mapping[str, Any], path: Path) -> None:
    """Replace ``path`` by a new checkpoint in one step."""
    with replacing(path) as partial, partial.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a whole checkpoint onto the CPU, with ``weights_only``, and check it.

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: not written by this program, or damaged.
    """
    checkpoint = glance(path)
    _require_intact(path)
    require_weights(checkpoint["state_dict"], path)
    return _read(path, mmap=False)


def glance(path: Path) -> dict[str, Any]:
    """Read a checkpoint's plain values; its tensors stay on the disk until they are looked at.

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: not written by this program.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"Expected a checkpoint at {path}, got {what_is(path)}: give a run's folder or a .ckpt file."
        )
    checkpoint = _read(path, mmap=True)
    if not isinstance(checkpoint, dict) or not {"mtmamba", "state_dict"} <= checkpoint.keys():
        raise CheckpointError(
            f"Expected a checkpoint of this program, got {path} without its description: an encoder's weights go "
            "to encoder.weights, the authors' checkpoints to src/import_checkpoint.py."
        )
    _require_parts(checkpoint, path)
    return checkpoint


def _read(path: Path, *, mmap: bool) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except UNREADABLE as error:
        raise CheckpointError(
            f"Expected a checkpoint of this program, got {path}, which holds something else or is damaged "
            f"({type(error).__name__}): give a run's folder or a .ckpt file from its {FOLDER}."
        ) from error


def _require_intact(path: Path) -> None:
    """Compare the checksums that PyTorch writes beside every tensor, and does not look at when it reads."""
    try:
        with zipfile.ZipFile(path) as file:
            damaged = file.testzip()
    except zipfile.BadZipFile as error:
        damaged = str(error)
    if damaged is not None:
        raise CheckpointError(
            f"Expected a whole checkpoint, got {path}, whose part {damaged} has changed since it was written: use "
            "another checkpoint, or copy it again."
        )


def _require_parts(checkpoint: Mapping[str, Any], path: Path) -> None:
    """Refuse a checkpoint whose inner parts are of other types than this program writes."""
    found: dict[str, Any] = {name: checkpoint.get(name) for name in PARTS}
    found |= {name: checkpoint[name] for name in TRAINING_PARTS if name in checkpoint}
    if isinstance(checkpoint["mtmamba"], dict):
        found |= {f"mtmamba.{name}": checkpoint["mtmamba"].get(name) for name in ("choices", "values")}
    for name, value in found.items():
        kind = {**PARTS, **TRAINING_PARTS}.get(name, dict)
        require_kind(name, value, kind, path)
    require_kind("threads", threads := checkpoint.get("threads", 1), int, path)
    if (step := checkpoint["global_step"]) < 0:
        raise CheckpointError(f"Expected a step of at least 0 in the checkpoint {path}, got {step}: use another.")
    if not 1 <= threads <= MOST_THREADS:
        raise CheckpointError(
            f"Expected a number of threads from 1 to {MOST_THREADS} in the checkpoint {path}, got {threads}: use "
            "another."
        )


def require_kind(name: str, value: Any, kind: type, path: Path) -> None:
    """Refuse a part of a checkpoint that is of another type."""
    if not isinstance(value, kind) or isinstance(value, bool):
        raise CheckpointError(
            f"Expected {name} of the checkpoint {path} to be of type {kind.__name__}, got {type(value).__name__}: "
            "it was not written by this program; use another checkpoint."
        )


def require_weights(weights: Mapping[str, Any], path: Path) -> None:
    """Refuse weights that are no finite real tensors."""
    for name, value in weights.items():
        if found := flaw(value) if isinstance(name, str) else "a name that is no text":
            raise CheckpointError(
                f"Expected finite real weights in the checkpoint {path}, got {found} for {name}: use another "
                "checkpoint."
            )


def flaw(value: Any) -> str | None:
    """Say what is wrong with a weight, where it is no finite real tensor whose numbers are all there."""
    if not isinstance(value, Tensor):
        return type(value).__name__
    if value.dtype.is_complex or (value.is_floating_point() and value.element_size() < 2):
        return str(value.dtype)
    if value.layout != torch.strided or value.device.type != "cpu":
        return f"a tensor of {value.layout} on {value.device}"
    if value.untyped_storage().nbytes() < value.numel() * value.element_size():
        return f"{value.numel()} numbers of which most are not there"
    return None if value.isfinite().all() else "NaN or infinity"


def require_weights_of(weights: Mapping[str, Tensor], model: nn.Module, path: Path) -> None:
    """Refuse weights that are not exactly a model's, by name, shape and whether they are real or whole numbers.

    Raises:
        CheckpointError: names the first that differs.
    """
    mine, its = (
        {name: (tuple(x.shape), "real" if x.is_floating_point() else "whole") for name, x in state.items()}
        for state in (model.state_dict(), weights)
    )
    require_equal(mine, its, path)


def require_equal(
    mine: Mapping[str, Any], its: Mapping[str, Any], path: Path, remedy: str = "it is of another network"
) -> None:
    """Refuse tensors of other names, shapes and kinds, ``{name: (shape, kind)}``, than a model's or its optimiser's."""
    for name in {**mine, **its}:
        if mine.get(name) != its.get(name):
            expected, found = (" ".join(map(str, kind[name])) if name in kind else "none" for kind in (mine, its))
            raise CheckpointError(
                f"Expected {name} to be {expected} numbers in the checkpoint {path}, got {found}: {remedy}."
            )


def network_weights(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the network's weights in a checkpoint by its own names."""
    return {k.removeprefix(NETWORK): v for k, v in checkpoint["state_dict"].items() if k.startswith(NETWORK)}
