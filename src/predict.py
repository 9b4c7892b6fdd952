"""Predict images, folders, videos and cameras: ``python src/predict.py source=photo.jpg``."""

import sys
from pathlib import Path

from omegaconf import DictConfig

from mtmamba.command import command


def main(cfg: DictConfig, _: Path) -> None:
    """Predict; the exit status is 1 where an input could not be predicted."""
    from mtmamba.inference.request import read_request

    request = read_request(cfg)  # a wrong path is answered before PyTorch is imported

    from mtmamba.inference.predict import predict

    if not predict(cfg, request):
        sys.exit(1)


if __name__ == "__main__":
    command("predict", main)
