"""Measure speed on this machine: ``python src/benchmark.py``."""

from pathlib import Path

from omegaconf import DictConfig

from mtmamba.command import command


def main(cfg: DictConfig, run_dir: Path) -> None:
    """Measure."""
    from mtmamba.benchmarks.suite import benchmark
    from mtmamba.config.compose import with_choices

    benchmark(with_choices(cfg), run_dir)


if __name__ == "__main__":
    command("benchmark", main)
