"""The paper's tables from finished runs: ``python src/report.py runs=logs``."""

from pathlib import Path

from omegaconf import DictConfig

from mtmamba.command import command


def main(cfg: DictConfig, run_dir: Path) -> None:
    """Gather the runs and write the report."""
    from mtmamba.report.request import check_request

    check_request(cfg)  # before PyTorch is imported

    from mtmamba.report.workflow import report

    report(cfg)


if __name__ == "__main__":
    command("report", main)
