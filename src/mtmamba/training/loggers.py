"""Where numbers go: metrics.csv in the run's folder, and Weights & Biases."""

import csv
import hashlib
import io
import logging
import math
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, MLFlowLogger
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import OmegaConf

from mtmamba.config.decisive import ALONE, INDIFFERENT, UPDATES
from mtmamba.connection import answers, has_key
from mtmamba.files import write_text
from mtmamba.runs.names import CURVES
from mtmamba.training.wandb_run import WandbRun

log = logging.getLogger(__name__)

PATIENCE = 4
"""Seconds to wait for Weights & Biases before a run goes on without."""
LONGEST, LONGEST_TAG = 128, 64
"""Characters that Weights & Biases takes of a group's name and of a tag."""


class CSVLogger(Logger):
    """One row per logged step in ``metrics.csv``, rewritten whole, so that no reader meets half a line.

    A resumed run goes on with the rows up to its checkpoint. (Lightning's own logger deletes the old file.)

    Args:
        save_dir: the run's folder.
        flush_every: rows between writings.
    """

    def __init__(self, save_dir: Path, flush_every: int = 20) -> None:
        super().__init__()
        self.path, self.flush_every = save_dir / CURVES, flush_every
        self._rows: dict[int, dict[str, Any]] = {}
        self._unsaved = 0

    @property
    def name(self) -> str:
        """The file's name, which Lightning asks for."""
        return self.path.name

    @property
    def version(self) -> int:
        """Nothing is versioned: a run has one file."""
        return 0

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """The run's folder holds its configuration already."""

    @rank_zero_only
    def resume(self, step: int) -> None:
        """Read back the rows of an interrupted run that precede an optimiser step."""
        if self.path.is_file():
            with self.path.open(newline="") as file:
                rows = [{k: v for k, v in row.items() if v != ""} for row in csv.DictReader(file)]
            self._rows = {int(row["step"]): row for row in rows if int(row["step"]) < step}

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Add values to the step's row."""
        row = self._rows.setdefault(int(step or 0), {"step": int(step or 0)})
        row.update({k: f"{v:.7g}" if math.isfinite(v) else str(v) for k, v in metrics.items()})
        self._unsaved += 1
        if self._unsaved >= self.flush_every:
            self.save()

    @rank_zero_only
    def save(self) -> None:
        """Write the file."""
        if self._unsaved:
            columns = dict.fromkeys(key for row in self._rows.values() for key in row)
            text = io.StringIO()
            writer = csv.DictWriter(text, ["step", *(c for c in columns if c != "step")], lineterminator="\n")
            writer.writeheader()
            writer.writerows(row for _, row in sorted(self._rows.items()))
            write_text(self.path, text.getvalue())
            self._unsaved = 0

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write what is left."""
        self.save()


def wandb_logger(
    save_dir: Path,
    project: str,
    label: str | None,
    choices: Mapping[str, str],
    seed: int = 0,
    keep_checkpoint: bool = False,
) -> WandbRun:
    """Return a Weights & Biases logger that never prompts: online where you are logged in, offline elsewhere.

    A resumed run goes on with its own page, since the id follows from the run's folder. The seeds of a configuration
    are one group, and the runs of a sweep have its folder's name as a tag.

    Args:
        save_dir: the run's folder.
        project: where the run is shown.
        label: what the run's name begins with, before what it was called with and the seed; data, encoder, decoder and
            ablation where it is None.
        choices: by group.
        seed: of the run.
        keep_checkpoint: whether the scored checkpoint becomes an artifact.
    """
    import wandb  # a second to import, and logger=csv does without it

    settings = wandb.setup().settings  # WANDB_MODE, WANDB_BASE_URL and wandb's own files
    mode, trouble, url = settings.mode, "", settings.base_url
    if mode == "online":
        if has_key(url) and not answers(url, PATIENCE):
            trouble = f"an answer from {url} within {PATIENCE} s, got none"
        else:
            try:
                mode = "online" if wandb.login(prompt=False) else "offline"
            except wandb.errors.Error as error:
                trouble = f"a login at {url}, got: {' '.join(str(error).split())}"
    if trouble:
        mode = "offline"
        log.warning("Expected %s: Weights & Biases goes on offline; upload the run later with `wandb sync`.", trouble)
    parts = [choices.get(group, "none") for group in ("data", "encoder", "decoder", "ablation")]
    parts = [part for part in parts if part != "none"]
    tags = [*parts, *([save_dir.parent.name] if save_dir.parent.name.endswith("_sweep") else [])]
    settled = decisive_settings(save_dir)
    run_id = hashlib.blake2b(str(save_dir.resolve()).encode(), digest_size=8).hexdigest()
    return WandbRun(
        project=project,
        name=" ".join([label or "-".join(parts), *settled, f"seed={seed}"]),
        group="/".join([choices["experiment"], label or "-".join(parts), *settled])[:LONGEST],
        job_type="train",
        tags=[tag[:LONGEST_TAG] for tag in dict.fromkeys(tags)],
        id=run_id,
        resume="allow",
        save_dir=save_dir,
        offline=mode == "offline",
        keep_checkpoint=keep_checkpoint,
        settings=wandb.Settings(mode=mode, init_timeout=30, silent=True),
    )


def mlflow_logger(*, tracking_uri: str, **settings: Any) -> Logger:
    """Return Lightning's logger for MLflow.

    Raises:
        ModuleNotFoundError: MLflow is missing, or what a database of one's own needs besides mlflow-skinny, of which
            MLflow itself says that it supports no such address.
    """
    for package in ("mlflow", "sqlalchemy", "alembic") if tracking_uri.startswith("sqlite:") else ("mlflow",):
        import_module(package)
    return MLFlowLogger(tracking_uri=tracking_uri, **settings)


def decisive_settings(run_dir: Path) -> list[str]:
    """Return what a run was called with beyond choices of groups, as far as its updates depend on it, without its seed.

    Such as ``["optimizer.lr=0.001"]``, from Hydra's record of the call; nothing where there is no such record.
    """
    path = run_dir / ".hydra" / "overrides.yaml"
    overrides: Any = OmegaConf.to_container(OmegaConf.load(path)) if path.is_file() else []  # nothing is interpolated
    found = []
    for key, _, value in (str(override).lstrip("+~").partition("=") for override in overrides):
        decides = (key.partition(".")[0] in UPDATES and "." in key) or key in ALONE
        if decides and key not in INDIFFERENT and key != "seed":
            found.append(f"{key}={value}")
    return sorted(found)
