"""Train a model: ``python src/train.py experiment=nyud_mtmamba``; a bare call trains the demo."""

from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from mtmamba.build import with_choices
from mtmamba.training.train import train


@hydra.main(version_base="1.3", config_path="../configs", config_name="train")
def main(cfg: DictConfig) -> None:
    """Compose the configuration and train."""
    train(with_choices(cfg), Path(HydraConfig.get().runtime.output_dir))


if __name__ == "__main__":
    main()
