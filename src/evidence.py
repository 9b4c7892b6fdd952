"""Train and evaluate the rows of a protocol that results/ lacks: ``python src/evidence.py data_root=...``."""

from pathlib import Path

from omegaconf import DictConfig

from mtmamba.command import command


def main(cfg: DictConfig, _: Path) -> None:
    """Pack, gather or run."""
    from mtmamba.runs.protocol import work

    work(cfg)


if __name__ == "__main__":
    command("evidence", main)
