"""Measure speed on this machine: ``python src/benchmark.py``."""

from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from mtmamba.benchmarks.suite import benchmark
from mtmamba.build import with_choices


@hydra.main(version_base="1.3", config_path="../configs", config_name="benchmark")
def main(cfg: DictConfig) -> None:
    """Compose the configuration and measure."""
    benchmark(with_choices(cfg), Path(HydraConfig.get().runtime.output_dir))


if __name__ == "__main__":
    main()
