"""What ``report.py`` is asked for, checked before PyTorch is imported."""

import glob
import os
from pathlib import Path

from omegaconf import DictConfig

from mtmamba.config.settings import ConfigError
from mtmamba.paper import TASKS


class ReportError(ValueError):
    """There is nothing to report; the message says where runs were looked for."""


def check_request(cfg: DictConfig) -> None:
    """Refuse what no report can be made of.

    Args:
        cfg: from the report script's configuration.

    Raises:
        ReportError: there is no folder that ``runs`` means.
        ConfigError: ``derived`` names no task of the paper's.
    """
    for data, tasks in cfg.derived.items():
        if unknown := [task for task in tasks if task not in TASKS.get(data, ())]:
            raise ConfigError(
                f"Expected derived to name tasks of {', '.join(TASKS)}, got {data}: {unknown}: correct `derived`."
            )
    for pattern in patterns_of(cfg):
        find_roots(pattern)


def patterns_of(cfg: DictConfig) -> list[str]:
    """Return the folders and globs of folders of ``runs``."""
    return [cfg.runs] if isinstance(cfg.runs, str) else list(cfg.runs)


def find_roots(pattern: str) -> list[Path]:
    """Return what a folder or a glob of folders means, at least one folder among it.

    Raises:
        ReportError: there is none.
    """
    roots = [Path(path) for path in sorted(glob.glob(os.path.expanduser(pattern), recursive=True))]
    if not any(root.is_dir() for root in roots):
        raise ReportError(f"Expected folders of runs, got {pattern}, which matches none: correct `runs`.")
    return roots
