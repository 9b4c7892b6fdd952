"""Export a model that a path or a name means, as the script does."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from mtmamba.config.compose import dataset_record
from mtmamba.export.request import FORMATS, check_request
from mtmamba.export.write import export
from mtmamba.restore import config_of, restore_model
from mtmamba.sharing import read_model


def export_checkpoint(cfg: DictConfig) -> dict[str, Any]:
    """Write a model's network; returns what `mtmamba.export.write.export` does.

    Args:
        cfg: from the export script's configuration.

    Raises:
        FileNotFoundError: there is no such model.
        CheckpointError: it is damaged, or none of this program.
        ConfigError: a setting cannot be carried out.
        ExportError: as `mtmamba.export.write.export` says.
    """
    check_request(cfg)
    checkpoint, path = read_model(cfg.ckpt)
    full = config_of(checkpoint["mtmamba"])
    size = full.data.crop_size if cfg.size is None else cfg.size
    own = path.with_suffix("") if Path(cfg.ckpt).exists() else Path(Path(cfg.ckpt).name)  # not among downloads
    return export(
        restore_model(full, checkpoint, path),
        own.with_name(own.name + FORMATS[cfg.format].suffix) if cfg.output is None else Path(cfg.output),
        format=cfg.format,
        size=(size[0], size[1]),
        dynamic=cfg.dynamic,
        normalise=cfg.normalise,
        opset=cfg.opset,
        classes=dataset_record(full).classes,
        training_size=full.data.crop_size,
        repeats=cfg.repeats or 0,
    )
