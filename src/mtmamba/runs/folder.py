"""A run's folder: what is written down when it begins, and how an interrupted one is found again."""

import logging
import shutil
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_info, rank_zero_only
from omegaconf import DictConfig, OmegaConf

from mtmamba.checkpoints import FOLDER, LAST, find_checkpoint
from mtmamba.files import write_json, write_text
from mtmamba.runs.environment import environment

log = logging.getLogger(__name__)


def resumed_checkpoint(cfg: DictConfig) -> Path | None:
    """Return the checkpoint that ``resume`` means: a path's, the newest unfinished run's for ``auto``, or None."""
    if cfg.resume is None:
        return None
    if cfg.resume != "auto":
        return find_checkpoint(Path(cfg.resume), LAST).resolve()
    found = find_unfinished(cfg, Path(cfg.log_dir))
    if found is None:
        rank_zero_info(f"resume=auto: no unfinished run of this configuration below {cfg.log_dir}; starting anew.")
        return None
    rank_zero_info(f"resume=auto: going on with {found}.")
    return (found / FOLDER / LAST).resolve()


@rank_zero_only
def remove_empty(folder: Path) -> None:
    """Remove a folder that holds nothing but Hydra's record of the call."""
    if folder.is_dir() and {p.name for p in folder.iterdir()} <= {".hydra"}:
        shutil.rmtree(folder)


@rank_zero_only
def begin(cfg: DictConfig, run_dir: Path) -> None:
    """Write down what runs where, and let the package's messages reach the terminal and ``run.log``."""
    write_text(run_dir / "config.yaml", OmegaConf.to_yaml(cfg, resolve=True))
    write_json(run_dir / "environment.json", environment())
    ours = logging.getLogger("mtmamba")
    ours.setLevel(logging.INFO)
    for handler in list(ours.handlers):
        ours.removeHandler(handler)
        handler.close()
    for handler in (logging.StreamHandler(), logging.FileHandler(run_dir / "run.log")):
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
        ours.addHandler(handler)
    log.info("Run folder: %s", run_dir)


def find_unfinished(cfg: DictConfig, log_dir: Path) -> Path | None:
    """Return the newest run below a folder that has this configuration, a checkpoint, and no results yet."""
    wanted = _comparable(cfg)
    for last in sorted(log_dir.rglob(f"{FOLDER}/{LAST}"), key=lambda p: p.stat().st_mtime, reverse=True):
        run = last.parents[1]
        config = run / "config.yaml"
        if not (run / "metrics.json").exists() and config.is_file() and _comparable(OmegaConf.load(config)) == wanted:
            return run
    return None


def _comparable(cfg: Any) -> Any:
    """Return a configuration's values but for ``resume``, which says how a run was started and not what it is."""
    return OmegaConf.to_container(OmegaConf.merge(cfg, {"resume": None}), resolve=True)
