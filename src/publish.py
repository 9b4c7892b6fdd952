"""Push a model to the hub: ``python src/publish.py ckpt=RUN repo=owner/name``."""

from pathlib import Path

from omegaconf import DictConfig

from mtmamba.command import command


def main(cfg: DictConfig, _: Path) -> None:
    """Publish."""
    from mtmamba.publishing import publish

    publish(cfg.ckpt, cfg.repo, private=cfg.private, half=cfg.half, notes=cfg.notes, extensions=cfg.extensions)


if __name__ == "__main__":
    command("publish", main)
