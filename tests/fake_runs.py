"""Folders of finished runs with known scores, as training leaves them, for tests."""

import json
from functools import cache
from pathlib import Path

import numpy as np
from omegaconf import OmegaConf
from PIL import Image

from mtmamba.config.compose import load_config
from mtmamba.paper import METRICS

VALIDATION_IMAGES = {"nyud": 654, "pascal_context": 5105}
BOUNDARIES = {"nyud": ("nyud", 654), "pascal_context": ("pascal", 2498)}
PAPER = "experiment=nyud_mtmamba"


@cache
def configuration(overrides: tuple[str, ...]) -> OmegaConf:
    return load_config(overrides)


def paper_scores(tasks: str, values: str) -> dict[str, dict[str, float]]:
    """Scores under the names of the paper's metrics: ``paper_scores("semseg depth", "54.32 0.5166")``."""
    pairs = zip(tasks.split(), values.split(), strict=True)
    return {task: {METRICS[task]: float(value), "protocol": "the paper's"} for task, value in pairs}


def write_run(folder: Path, overrides: str, scores: dict, seed: int = 0, **record) -> Path:
    """Write a training run's folder.

    Args:
        folder: a new one.
        overrides: of the configuration, separated by spaces.
        scores: ``tasks`` of ``metrics.json``.
        seed: the run's.
        record: entries of ``metrics.json`` to replace.
    """
    cfg = OmegaConf.merge(configuration(tuple(overrides.split())), {"seed": seed})
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(cfg, resolve=True))
    written = {
        "run": str(folder),
        "choices": dict(cfg.choices),
        "seed": seed,
        "git": "0123456789abcdef",
        "checkpoint": str(folder / "checkpoints/best.ckpt"),
        "step": 50000,
        "split": "val",
        "images": VALIDATION_IMAGES.get(cfg.choices.data, 64),
        "tasks": scores,
        "parameters": 1_239_999,
        "seconds": 5400.0,
        "hardware": "1 x <GPU> & co_op 100%",
    }
    if "odsF" in scores.get("edge", {}):
        name, images = BOUNDARIES[cfg.choices.data]
        written["protocols"] = {"edge": {"boundaries": {"name": name, "images": images}}}
    (folder / "metrics.json").write_text(json.dumps(written | record))
    return folder


def write_logs(folder: Path, steps: int = 20, seed: int = 0) -> None:
    """Add ``metrics.csv`` with losses and depth scores, and a picture panel of 300x40."""
    rng = np.random.default_rng(seed)
    lines = ["step,train/loss,val/loss,val/depth/RMSE"]
    for step in range(steps):
        validated = f"{2 - step / steps:.3f},{1.5 - step / steps:.3f}" if step % 5 == 4 else ","
        lines.append(f"{step},{3 * 0.9**step + 0.1 * rng.random():.4f},{validated}")
    lines.append(f"{steps},,1.25,0.75")
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n")
    (folder / "pictures").mkdir()
    picture = rng.integers(0, 256, (40, 300, 3), dtype=np.uint8)
    Image.fromarray(picture).save(folder / "pictures/best.png")
