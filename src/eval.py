"""Evaluate a checkpoint: ``python src/eval.py ckpt=logs/demo/…``."""

from pathlib import Path

from omegaconf import DictConfig

from mtmamba.command import command


def main(cfg: DictConfig, run_dir: Path) -> None:
    """Evaluate."""
    from mtmamba.data.roots import check_ids

    check_ids(cfg)  # before PyTorch is imported

    from mtmamba.config.compose import with_choices
    from mtmamba.evaluation.checkpoint import evaluate

    evaluate(with_choices(cfg), run_dir)


if __name__ == "__main__":
    command("eval", main)
