"""The authors' checkpoints turned into ours, and ours into theirs."""

import logging
import math
import pickle
import re
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from mtmamba import run
from mtmamba.files import replacing
from mtmamba.models.adapters import (
    CheckpointError,
    decoder_views,
    encoder_views,
    export_views,
    load_released_decoder,
    load_released_encoder,
    position_indices,
    strip_prefix,
)
from mtmamba.types import TASKS

log = logging.getLogger(__name__)

EXPERIMENTS = ("nyud_mtmamba", "pascal_mtmamba")
"""Of the datasets that weights were released for."""


def import_checkpoint(cfg: DictConfig, source: Path, output: Path | None = None) -> Path:
    """Turn a checkpoint of the authors into one that `mtmamba.load_model` and the evaluation script take.

    Args:
        cfg: from `mtmamba.load_config`, of the model that the file should hold. No pretrained weights are fetched.
        source: a PyTorch file with a dict of tensors under ``model``: MTMamba or MTMamba++, names with or without a
            ``module.`` prefix, the encoder's under ``backbone.``. Opened with ``weights_only``.
        output: where to write; by default beside ``source``, ending in ``.ckpt``.

    Returns:
        Where the checkpoint was written.

    Raises:
        FileNotFoundError: there is no such source.
        CheckpointError: it cannot be read, or is not of this model; the message names what was found and what fits.
    """
    output = output or source.with_name(source.name.split(".")[0] + ".ckpt")
    if output.resolve() == source.resolve():
        raise CheckpointError(f"Expected output to differ from source, got {source} twice: give output=FILE.")
    state = read_released(source)
    _require_fitting(cfg, state, source)
    with torch.device("meta"):  # so nothing is drawn at random, and nothing fetched
        model = run.build_model(cfg)
    model.to_empty(device="cpu")
    load_released_encoder(model.encoder, state)
    load_released_decoder(model.decoder, state)
    weights = {f"model.{name}": x for name, x in model.state_dict().items()}
    _write({"state_dict": weights, "mtmamba": run.describe(cfg), "global_step": 0}, output)
    log.info("Imported all %d tensors of %s into %s", len(state), source, output)
    return output


def export_checkpoint(source: Path, output: Path) -> None:
    """Write a checkpoint of ours in the authors' naming: a dict of tensors under ``model``.

    Args:
        source: one of ours, or a run's folder (its best checkpoint, else its last).
        output: where to write.

    Raises:
        FileNotFoundError: there is no such source.
        CheckpointError: it is none of ours, or of a model that the authors' program does not have.
    """
    if output.resolve() == source.resolve():
        raise CheckpointError(f"Expected export to differ from source, got {source} twice: give another export=FILE.")
    model = run.load_model(source)
    encoder = encoder_views(model.encoder.state_dict())
    state = {f"module.backbone.{name}": x for name, x in (export_views(encoder) | position_indices(encoder)).items()}
    decoder = decoder_views(model.decoder, model.decoder.state_dict())
    state |= {f"module.{name}": x for name, x in export_views(decoder).items()}
    _write({"model": state}, output)
    log.info("Exported %d tensors of %s into %s", len(state), source, output)


def read_released(path: Path) -> dict[str, Tensor]:
    """Read the tensors of an authors' checkpoint, names without the ``module.`` prefix.

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: it cannot be read, or holds something else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"Expected an authors' checkpoint at {path}, got none: check source=FILE.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise CheckpointError(
            f"Expected an authors' checkpoint, got {path}, which cannot be read as tensors ({type(error).__name__}): it "
            "is cut short, or something else. Download it again."
        ) from error
    if isinstance(content, dict) and "mtmamba" in content:
        raise CheckpointError(
            f"Expected an authors' checkpoint, got {path}, which is one of this program already: evaluate it as it is, or "
            "turn it into the authors' naming with export=FILE."
        )
    state = content.get("model") if isinstance(content, dict) else None
    if not isinstance(state, dict) or not state or not all(isinstance(x, Tensor) for x in state.values()):
        found = f"a dict with {', '.join(map(str, content))}" if isinstance(content, dict) else type(content).__name__
        raise CheckpointError(
            f"Expected an authors' checkpoint, a dict with tensors under `model`, got {path} with {found[:200]}: weights "
            "of an encoder alone go to encoder.weights."
        )
    return strip_prefix(state, "module.")


def _require_fitting(cfg: DictConfig, state: dict[str, Tensor], source: Path) -> None:
    """Compare what the names and shapes say of the model with the configuration, before they are compared one by one."""
    tasks, decoder, encoder = _tasks(state), _decoder(state), _encoder(state)
    if not tasks:
        raise CheckpointError(
            f"Expected an authors' checkpoint, got {source}, which has no task's head (final_project.…): it is no MTMamba."
        )
    choices = [_experiment(tasks), decoder and f"decoder={decoder}", encoder and _encoder_choice(encoder)]
    configured = {key: OmegaConf.to_container(cfg.encoder).get(key) for key in encoder or ()}
    for what, expected, found in (
        ("tasks", run.num_outputs(cfg).keys(), tasks),
        ("decoder", cfg.choices.decoder, decoder),
        ("encoder", configured, encoder),
    ):
        if found is not None and set(found)
            raise CheckpointError(f"Expected ")


def _write(content: dict[str, Any], path: Path) -> None:
    with replacing(path) as partial:
        torch.save(content, partial)
