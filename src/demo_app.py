"""Serve a page on which to drop photographs: ``python src/demo_app.py [ckpt=RUN]``."""

from pathlib import Path

from omegaconf import DictConfig

from mtmamba.command import command


def main(cfg: DictConfig, _: Path) -> None:
    """Serve until Ctrl-C."""
    from mtmamba.inference.sources import find_examples

    if cfg.examples is not None:
        find_examples(cfg.examples)  # before PyTorch is imported

    from mtmamba.inference.page import launch
    from mtmamba.inference.predict import make_predictor

    launch(make_predictor(cfg), host=cfg.host, port=cfg.port, examples=cfg.examples)


if __name__ == "__main__":
    command("demo_app", main)
