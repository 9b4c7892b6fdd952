"""Parameters and FLOPs of a model: ``python src/model_stats.py encoder=swin_tiny``; of the paper's: ``table=all``."""

import sys
from pathlib import Path

from omegaconf import DictConfig

from mtmamba.command import command


def main(cfg: DictConfig, run_dir: Path) -> None:
    """Count; exit with 1 if a figure is not the paper's."""
    from mtmamba.paper import SIZED, require_table

    if cfg.table is not None:
        require_table(str(cfg.table), ("all", "1", *SIZED))  # before PyTorch is imported

    from mtmamba.config.compose import with_choices
    from mtmamba.stats.report import report_model, report_tables

    if cfg.table is None:
        report_model(with_choices(cfg))
    elif not report_tables(str(cfg.table)):
        sys.exit(1)


if __name__ == "__main__":
    command("model_stats", main)
