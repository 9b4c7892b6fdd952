"""Score a folder of predictions: ``python src/eval_predictions.py pred=DIR data=nyud``."""

from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from mtmamba.build import with_choices
from mtmamba.evaluation.folder import evaluate_predictions


@hydra.main(version_base="1.3", config_path="../configs", config_name="eval_predictions")
def main(cfg: DictConfig) -> None:
    """Compose the configuration and score."""
    evaluate_predictions(with_choices(cfg), Path(HydraConfig.get().runtime.output_dir))


if __name__ == "__main__":
    main()
