"""The paper's tables from finished runs: ``python src/report.py runs=logs``."""

import hydra
from omegaconf import DictConfig

from mtmamba.report.workflow import report


@hydra.main(version_base="1.3", config_path="../configs", config_name="report")
def main(cfg: DictConfig) -> None:
    """Gather the runs and write the report."""
    report(cfg)


if __name__ == "__main__":
    main()
