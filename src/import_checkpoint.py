"""Import an authors' checkpoint: ``python src/import_checkpoint.py source=FILE experiment=nyud_mtmamba``."""

import logging
from pathlib import Path

from omegaconf import DictConfig

from mtmamba.command import command


def main(cfg: DictConfig, run_dir: Path) -> None:
    """Turn the source into a checkpoint of ours, or with ``export=FILE`` one of ours into the authors' naming."""
    from mtmamba.places import find_model, require_released

    source = Path(cfg.source)
    (require_released if cfg.export is None else find_model)(source)  # before PyTorch is imported

    from mtmamba.config.compose import with_choices
    from mtmamba.released import export_checkpoint, import_checkpoint

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if cfg.export is not None:
        export_checkpoint(source, Path(cfg.export))
    else:
        import_checkpoint(with_choices(cfg), source, Path(cfg.output) if cfg.output is not None else None)


if __name__ == "__main__":
    command("import_checkpoint", main)
