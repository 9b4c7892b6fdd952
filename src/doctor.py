"""Say what works on this machine, what does not, and what to do: ``python src/doctor.py``."""

import sys
from pathlib import Path

from omegaconf import DictConfig

from mtmamba.command import command


def main(cfg: DictConfig, _: Path) -> None:
    """Examine the machine; the exit status is 1 where the main job cannot run."""
    from mtmamba.doctor.report import examine

    if not examine(cfg.log_dir, cfg.cache_dir):
        sys.exit(1)


if __name__ == "__main__":
    command("doctor", main)
