"""The authors' checkpoints turned into ours, and ours into theirs."""

import logging
import math
import re
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from mtmamba import build, restore
from mtmamba.checkpoints import NETWORK, save_checkpoint
from mtmamba.config import compose
from mtmamba.models.adapters import (
    ReleasedError,
    decoder_views,
    encoder_views,
    export_views,
    load_released_decoder,
    load_released_encoder,
    position_indices,
    strip_prefix,
)
from mtmamba.models.pretrained import UNREADABLE
from mtmamba.models.skeleton import skeleton
from mtmamba.places import require_released
from mtmamba.shipped import config_dir
from mtmamba.tasks import all_tasks

log = logging.getLogger(__name__)

EXPERIMENTS = ("nyud_mtmamba", "pascal_mtmamba", "cityscapes_mtmamba")
"""Experiments on the datasets that weights were released for."""

DECODERS = {
    "block_ctm.": "mtmamba_plus",
    "multi_task_decoder.": "invpt",
    "atrc_module.": "atrc_wide",
    "parts_query_encoder_decoder_blocks.": "mqtransformer",
}
"""How a name begins that no other decoder has; one of MTMamba's is told by its cross-task block."""

HEAD = re.compile(r"(?:final_project\.|final_logits\.|heads\.(?=\w+\.linear_pred))(\w+)\.")
"""How names of a task's head begin."""


def import_checkpoint(cfg: DictConfig, source: Path, output: Path | None = None) -> Path:
    """Turn a checkpoint of the authors into one that `mtmamba.load_model` and the evaluation script take.

    Args:
        cfg: from `mtmamba.load_config`, of the model that the file should hold. Pretrained weights are fetched for a
            head alone.
        source: a PyTorch file with a dict of tensors under ``model``: MTMamba, MTMamba++, InvPT, ATRC or MQTransformer,
            names with or without a ``module.`` prefix, the encoder's under ``backbone.``. Of the last three it may be
            the head alone, to be trained on behind the configuration's encoder. Opened with ``weights_only``.
        output: where to write; by default beside ``source``, ending in ``.ckpt``.

    Returns:
        Where the checkpoint was written.

    Raises:
        FileNotFoundError: there is no such source.
        ReleasedError: it cannot be read, or is not of this model; the message names what was found and what fits.
    """
    output = output or source.with_name(re.sub(r"(\.(pth|pt|tar|bin|ckpt))+$", "", source.name) + ".ckpt")
    if output.resolve() == source.resolve():
        raise ReleasedError(f"Expected output to differ from source, got {source} twice: give output=FILE.")
    require_new(output, "output")
    state = read_released(source)
    _require_fitting(cfg, state, source)
    if _is_head(state):
        model = build.build_model(cfg)
        log.info("%s is a head alone: its encoder is encoder=%s, as configured", source, cfg.choices.encoder)
    else:
        with skeleton():  # so nothing is drawn at random, and nothing fetched
            model = build.build_model(cfg)
        model.to_empty(device="cpu")
        load_released_encoder(model.encoder, state)
    load_released_decoder(model.decoder, state)
    weights = {NETWORK + name: x for name, x in model.state_dict().items()}
    content = {"state_dict": weights, "mtmamba": compose.describe(cfg), "global_step": 0}
    save_checkpoint(content, output)
    log.info("Imported all %d tensors of %s into %s", len(state), source, output)
    return output


def export_checkpoint(source: Path, output: Path) -> None:
    """Write a checkpoint of ours in the authors' naming: a dict of tensors under ``model``.

    Args:
        source: one of ours, or a run's folder (its best checkpoint, else its last).
        output: where to write.

    Raises:
        FileNotFoundError: there is no such source.
        ReleasedError: it is none of ours, or of a model that the authors' program does not have.
    """
    if output.resolve() == source.resolve():
        raise ReleasedError(f"Expected export to differ from source, got {source} twice: give another export=FILE.")
    require_new(output, "export")
    model = restore.load_model(source)
    encoder = encoder_views(model.encoder.state_dict())
    state = {f"module.backbone.{name}": x for name, x in (export_views(encoder) | position_indices(encoder)).items()}
    decoder = decoder_views(model.decoder, model.decoder.state_dict())
    state |= {f"module.{name}": x for name, x in export_views(decoder).items()}
    save_checkpoint({"model": state}, output)
    log.info("Exported %d tensors of %s into %s", len(state), source, output)


def require_new(path: Path, setting: str) -> None:
    """Refuse to write over a file: names cut short may meet, and a run's checkpoint is not to be replaced.

    Raises:
        ReleasedError: there is such a file.
    """
    if path.exists():
        raise ReleasedError(f"Expected no file at {path}, got one: move it away, or give another {setting}=FILE.")


def read_released(path: Path) -> dict[str, Tensor]:
    """Read the tensors of an authors' checkpoint, names without the ``module.`` prefix.

    Raises:
        FileNotFoundError: no such file.
        ReleasedError: it cannot be read, or holds something else.
    """
    require_released(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise ReleasedError(
            f"Expected an authors' checkpoint, got {path}, which cannot be read ({type(error).__name__}): it is cut "
            "short, no PyTorch file, or one that would run code. Download it again."
        ) from error
    if isinstance(content, dict) and "mtmamba" in content:
        raise ReleasedError(
            f"Expected an authors' checkpoint, got {path}, which is one of this program already: evaluate it as it is, "
            "or turn it into the authors' naming with export=FILE."
        )
    state = content.get("model") if isinstance(content, dict) else None
    if not isinstance(state, dict) or not state or not all(isinstance(x, Tensor) for x in state.values()):
        found = f"a dict with {', '.join(map(str, content))}" if isinstance(content, dict) else type(content).__name__
        raise ReleasedError(
            f"Expected an authors' checkpoint, a dict with tensors under `model`, got {path} with {found[:200]}: give "
            "their file, or to encoder.weights that of an encoder alone."
        )
    return strip_prefix(state, "module.")


def _require_fitting(cfg: DictConfig, state: dict[str, Tensor], source: Path) -> None:
    """Compare what the names say of the model with the configuration, before tensors are compared one by one."""
    tasks, decoder, encoder = _tasks(state), _decoder(state), _encoder(state)
    if not tasks:
        raise ReleasedError(
            f"Expected an authors' checkpoint, got {source}, which has no task's head (final_project.…): weights of an "
            "encoder alone go to encoder.weights."
        )
    expected, found, remedies = [], [], []
    if set(tasks) != set(compose.num_outputs(cfg)):
        expected.append(f"tasks {', '.join(compose.num_outputs(cfg))}")
        found.append(f"tasks {', '.join(tasks)}")
        remedies.append(_tasks_choice(tasks))
    if decoder not in (None, cfg.choices.decoder):
        expected.append(f"decoder {cfg.choices.decoder}")
        found.append(f"decoder {decoder}")
        remedies.append(f"decoder={decoder}")
    if any(cfg.encoder.get(key) != value for key, value in encoder.items()):
        expected.append(f"encoder {cfg.choices.encoder}")
        found.append("encoder with " + ", ".join(f"{key} {value}" for key, value in encoder.items()))
        remedies.append(_encoder_choice(encoder))
    if remedies:
        raise ReleasedError(
            f"Expected {'; '.join(expected)} in {source}, got {'; '.join(found)}: choose {' '.join(remedies)}."
        )


def _is_head(state: dict[str, Tensor]) -> bool:
    """Return whether there is no encoder beside a decoder other than MTMamba's, which were released whole."""
    return _decoder(state) in ("invpt", "atrc_wide", "mqtransformer") and not any(
        name.startswith("backbone.") for name in state
    )


def _tasks(state: dict[str, Tensor]) -> dict[str, int]:
    """Return the tasks that have a head with their numbers of outputs, in the canonical order."""
    found = {head[1]: len(x) for name, x in state.items() if (head := HEAD.match(name)) and x.ndim}
    known = all_tasks()
    return {task: found[task] for task in [*known, *sorted(found.keys() - known.keys())] if task in found}


def _decoder(state: dict[str, Tensor]) -> str | None:
    """Return the decoder that has such names; None where they do not tell."""
    for start, decoder in DECODERS.items():
        if any(name.startswith(start) for name in state):
            return decoder
    return "mtmamba" if any(".op_share." in name for name in state) else None


def _encoder(state: dict[str, Tensor]) -> dict[str, Any]:
    """Return the Swin's settings, read off its names and shapes; empty where these do not tell."""
    blocks: dict[int, set[int]] = {}
    tables: dict[int, torch.Size] = {}
    for name, x in state.items():
        if found := re.match(r"backbone\.stages\.(\d+)\.blocks\.(\d+)\.", name):
            stage, block = int(found[1]), int(found[2])
            blocks.setdefault(stage, set()).add(block)
            if name.endswith("relative_position_bias_table") and x.ndim == 2:
                tables[stage] = x.shape
    patches = state.get("backbone.patch_embed.projection.weight")
    if patches is None or patches.ndim != 4 or not blocks or blocks.keys() != tables.keys():
        return {}
    return {
        "embed_dim": patches.shape[0],
        "depths": [len(blocks[stage]) for stage in sorted(blocks)],
        "num_heads": [tables[stage][1] for stage in sorted(tables)],
        "window": (math.isqrt(tables[max(tables)][0]) + 1) // 2,
    }


def _tasks_choice(tasks: dict[str, int]) -> str:
    for experiment in EXPERIMENTS:
        if compose.num_outputs(compose.load_config([f"experiment={experiment}"])) == tasks:
            return f"experiment={experiment}"
    return f"tasks=[{','.join(tasks)}]"


def _encoder_choice(encoder: dict[str, Any]) -> str:
    for path in sorted((config_dir() / "encoder").glob("swin_*.yaml")):
        known: Any = OmegaConf.to_container(OmegaConf.load(path))
        if encoder.items() <= known.items():
            return f"encoder={path.stem}"
    return " ".join(f"encoder.{key}={value}" for key, value in encoder.items()).replace(", ", ",")
