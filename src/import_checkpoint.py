"""Import an authors' checkpoint: ``python src/import_checkpoint.py source=FILE experiment=nyud_mtmamba``."""

import logging
from pathlib import Path

import hydra
from omegaconf import DictConfig

from mtmamba.build import with_choices
from mtmamba.released import export_checkpoint, import_checkpoint


@hydra.main(version_base="1.3", config_path="../configs", config_name="import_checkpoint")
def main(cfg: DictConfig) -> None:
    """Turn the source into a checkpoint of ours, or with ``export=FILE`` one of ours into the authors' naming."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    source = Path(cfg.source)
    if cfg.export is not None:
        export_checkpoint(source, Path(cfg.export))
    else:
        import_checkpoint(with_choices(cfg), source, Path(cfg.output) if cfg.output is not None else None)


if __name__ == "__main__":
    main()
