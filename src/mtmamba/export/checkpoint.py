"""Export a checkpoint's network, as the script does."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from mtmamba import build
from mtmamba.checkpoints import find_checkpoint, read_checkpoint
from mtmamba.data.datasets import get_dataset
from mtmamba.export.program import ExportError
from mtmamba.export.write import FORMATS, export


def export_checkpoint(cfg: DictConfig) -> dict[str, Any]:
    """Write the network of a checkpoint, by default beside it; returns what `mtmamba.export.write.export` does.

    Args:
        cfg: from the export script's configuration.

    Raises:
        FileNotFoundError: there is no checkpoint.
        CheckpointError: the file is no checkpoint of this program.
        ExportError: the output ends in another way than its format's files, or as `mtmamba.export.write.export` says.
    """
    path, suffix = find_checkpoint(Path(cfg.ckpt)), FORMATS[cfg.format].suffix
    output = path.with_suffix(suffix) if cfg.output is None else Path(cfg.output)
    if output.suffix != suffix:
        raise ExportError(f"Expected output to end in {suffix} for format={cfg.format}, got {output}: rename it.")
    checkpoint = read_checkpoint(path)
    full = build.config_of(checkpoint["mtmamba"])
    height, width = full.data.crop_size if cfg.size is None else cfg.size
    return export(
        build.restore_model(full, checkpoint, path),
        output,
        format=cfg.format,
        size=(height, width),
        dynamic=cfg.dynamic,
        normalise=cfg.normalise,
        opset=cfg.opset,
        classes=get_dataset(full.data.dataset).classes,
        repeats=cfg.repeats or 0,
    )
