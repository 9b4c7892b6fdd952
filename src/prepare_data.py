"""Get a dataset and check it: ``python src/prepare_data.py data=nyud source=NYUDv2.tar.gz``."""

from pathlib import Path

from omegaconf import DictConfig

from mtmamba.command import command


def main(cfg: DictConfig, run_dir: Path) -> None:
    """Prepare."""
    from mtmamba.data.roots import check_source

    check_source(cfg)  # before PyTorch is imported

    from mtmamba.config.compose import record_choices
    from mtmamba.preparation import prepare

    prepare(record_choices(cfg), run_dir)


if __name__ == "__main__":
    command("prepare_data", main)
