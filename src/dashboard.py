"""A table of the paper on Weights & Biases: ``python src/dashboard.py project=...``."""

from pathlib import Path

from omegaconf import DictConfig

from mtmamba.command import command


def main(cfg: DictConfig, _: Path) -> None:
    """Build both."""
    from mtmamba.report.dashboard import dashboard

    dashboard(cfg)


if __name__ == "__main__":
    command("dashboard", main)
