"""Write a network to a file that other programs run: ``python src/export.py ckpt=RUN format=onnx``."""

import logging
from pathlib import Path

from omegaconf import DictConfig

from mtmamba.command import command


def main(cfg: DictConfig, run_dir: Path) -> None:
    """Export a checkpoint's network."""
    from mtmamba.export.request import check_request

    check_request(cfg)  # before PyTorch is imported

    from mtmamba.config.compose import with_choices
    from mtmamba.export.checkpoint import export_checkpoint

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    export_checkpoint(with_choices(cfg))


if __name__ == "__main__":
    command("export", main)
