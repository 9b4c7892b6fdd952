"""Export a model that a path or a name means, as the script does."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from mtmamba.compose import dataset_record
from mtmamba.export.program import ExportError
from mtmamba.export.write import FORMATS, export
from mtmamba.restore import config_of, restore_model
from mtmamba.rules import SIZE
from mtmamba.sharing import read_model


def export_checkpoint(cfg: DictConfig) -> dict[str, Any]:
    """Write a model's network; returns what `mtmamba.export.write.export` does.

    Args:
        cfg: from the export script's configuration.

    Raises:
        FileNotFoundError: there is no such model.
        CheckpointError: it is damaged, or none of this program.
        ExportError: a setting cannot be carried out, or as `mtmamba.export.write.export` says.
    """
    suffix = FORMATS[cfg.format].suffix
    if cfg.output is not None and Path(cfg.output).suffix != suffix:
        raise ExportError(f"Expected output to end in {suffix} for format={cfg.format}, got {cfg.output}: rename it.")
    checkpoint, path = read_model(cfg.ckpt)
    full = config_of(checkpoint["mtmamba"])
    size = full.data.crop_size if cfg.size is None else cfg.size
    if not (isinstance(size, Sequence) and SIZE.holds(list(size))):
        raise ExportError(f"Expected size to be {SIZE.words}, got {cfg.size}: write size={SIZE.example}.")
    own = path.with_suffix("") if Path(cfg.ckpt).exists() else Path(Path(cfg.ckpt).name)  # not among downloads
    return export(
        restore_model(full, checkpoint, path),
        own.with_name(own.name + suffix) if cfg.output is None else Path(cfg.output),
        format=cfg.format,
        size=(size[0], size[1]),
        dynamic=cfg.dynamic,
        normalise=cfg.normalise,
        opset=cfg.opset,
        classes=dataset_record(full).classes,
        repeats=cfg.repeats or 0,
    )
