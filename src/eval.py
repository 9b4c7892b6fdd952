"""Evaluate a checkpoint: ``python src/eval.py ckpt=logs/demo/…``."""

from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from mtmamba.build import with_choices
from mtmamba.evaluation.checkpoint import evaluate


@hydra.main(version_base="1.3", config_path="../configs", config_name="eval")
def main(cfg: DictConfig) -> None:
    """Compose the configuration and evaluate."""
    evaluate(with_choices(cfg), Path(HydraConfig.get().runtime.output_dir))


if __name__ == "__main__":
    main()
