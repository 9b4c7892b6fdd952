"""Train a model: ``python src/train.py experiment=nyud_mtmamba``; a bare call trains the demo."""

from pathlib import Path

from omegaconf import DictConfig

from mtmamba.command import command


def main(cfg: DictConfig, run_dir: Path) -> None:
    """Train."""
    from mtmamba.data.roots import check_root

    check_root(cfg)  # before PyTorch is imported

    from mtmamba.config.compose import with_choices
    from mtmamba.training.train import train

    train(with_choices(cfg), run_dir)


if __name__ == "__main__":
    command("train", main)
