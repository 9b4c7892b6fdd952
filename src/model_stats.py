"""Parameters and FLOPs of a model: ``python src/model_stats.py encoder=swin_tiny``; of the paper's: ``table=all``."""

import sys

import hydra
from omegaconf import DictConfig

from mtmamba.build import with_choices
from mtmamba.stats.report import report_model, report_tables


@hydra.main(version_base="1.3", config_path="../configs", config_name="model_stats")
def main(cfg: DictConfig) -> None:
    """Compose the configuration and count; exit with 1 if a figure is not the paper's."""
    if cfg.table is None:
        report_model(with_choices(cfg))
    elif not report_tables(str(cfg.table)):
        sys.exit(1)


if __name__ == "__main__":
    main()
