"""A table of the paper on Weights & Biases; what cannot work is said before PyTorch is imported."""

import logging
from importlib.util import find_spec

from omegaconf import DictConfig

from mtmamba.config.settings import ConfigError
from mtmamba.paper import TABLES, require_table

log = logging.getLogger(__name__)


def dashboard(cfg: DictConfig) -> None:
    """Save the workspace and the report.

    Args:
        cfg: of ``configs/dashboard.yaml``.

    Raises:
        ConfigError: there is no such table, wandb-workspaces is not installed, or nobody is logged in.
    """
    tables = {table.number: table for table in TABLES}
    require_table(str(cfg.table), tables)
    if find_spec("wandb_workspaces") is None:
        raise ConfigError("Expected wandb-workspaces for a dashboard, got none: pip install 'mtmamba[dashboard]'.")
    import wandb

    table = tables[str(cfg.table)]
    try:
        api = wandb.Api()
        entity = str(cfg.entity or api.default_entity)
        runs = list(api.runs(f"{entity}/{cfg.project}"))
    except (wandb.errors.Error, ValueError) as error:
        raise ConfigError(
            f"Expected the runs of {cfg.project} on Weights & Biases, got: {' '.join(str(error).split())}: log in with "
            "`wandb login`, and send offline runs with `wandb sync`."
        ) from error
    from mtmamba.report.workspace import report, workspace

    log.info("Workspace: %s", workspace(table, entity, cfg.project).save().url)
    log.info("Report: %s", report(table, runs, entity, cfg.project).save().url)
