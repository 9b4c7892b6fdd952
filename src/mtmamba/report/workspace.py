"""A table of the paper on Weights & Biases: a workspace sorted by task, and a report of our runs beside its rows."""

from collections.abc import Iterable, Mapping
from typing import Any

from mtmamba.markdown import table_lines
from mtmamba.paper import METRICS, TASKS, Network, PublishedTable, network_of
from mtmamba.report.groups import summarise
from mtmamba.report.writers import escape_markdown
from mtmamba.tasks import get_task

STEP = "trainer/global_step"
ABOUT = (
    "Means over finished runs of the same network, with how many there are in brackets. Length, batch, labels and "
    "other settings are not compared here: `src/report.py` does that from the runs' folders."
)


def workspace(table: PublishedTable, entity: str, project: str) -> Any:
    """Return a workspace: the table's columns, a section for each task, pictures; runs of one configuration grouped."""
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    columns = _columns(table)
    sections = [ws.Section(name="Table", panels=_bars(table), is_open=True)]
    for task in TASKS[table.data]:
        record = get_task(task)
        names = [f"{task}/train/loss", f"{task}/val/loss", *(f"{task}/val/{metric}" for metric in record.units)]
        lines: list[Any] = [wr.LinePlot(title=name, x=STEP, y=[name]) for name in dict.fromkeys(names)]
        sections.append(ws.Section(name=record.title, panels=lines, is_open=True))
    pictures = wr.MediaBrowser(title="Predictions", media_keys=["pictures", "pictures/classes"])
    sections.append(ws.Section(name="Pictures", panels=[pictures]))
    return ws.Workspace(
        entity=entity,
        project=project,
        name=_title(table),
        sections=sections,
        runset_settings=ws.RunsetSettings(
            groupby=[ws.Metric("Group")], pinned_columns=[f"summary:{name}" for name in columns]
        ),
    )


def report(table: PublishedTable, runs: Iterable[Any], entity: str, project: str) -> Any:
    """Return a report: the paper's rows beside the means of finished runs, and the runs' bars.

    Args:
        table: of the paper.
        runs: of the project, as ``wandb.Api().runs`` gives them.
        entity: user or team.
        project: its name.
    """
    import wandb_workspaces.reports.v2 as wr

    runset = wr.Runset(entity=entity, project=project, name="Runs", groupby=["group"])
    blocks: list[Any] = [
        wr.MarkdownBlock(text=f"{ABOUT}\n\n{comparison(table, runs)}"),
        wr.PanelGrid(runsets=[runset], panels=_bars(table)),
    ]
    return wr.Report(entity=entity, project=project, title=_title(table), blocks=blocks, width="fluid")


def comparison(table: PublishedTable, runs: Iterable[Any]) -> str:
    """Return the rows of a table in Markdown, each task's score ours and the paper's.

    Args:
        table: of the paper.
        runs: with ``state``, ``config`` and ``summary``.
    """
    ours: dict[Network, list[Mapping[str, Any]]] = {}
    for run in runs:
        if run.state == "finished" and (network := _network(run.config)) is not None:
            ours.setdefault(network, []).append(run.summary)
    names = {f"row/{task}/{METRICS[task]}": task for task in TASKS[table.data]}
    heads = [f"{task} {METRICS[task]} {get_task(task).arrow(METRICS[task])}" for task in names.values()] + ["Δm, % ↑"]
    lines = []
    for row in table.rows:
        summaries = [summary for overrides in row.networks for summary in ours.get(network_of(overrides), [])]
        cells = [escape_markdown(row.name)]
        for name, task in names.items():
            cells += [_mean(summaries, name), row.scores.get(task, "-")]
        whole = summaries if len(row.networks) == 1 else []  # Delta_m of one of several networks is not the row's
        lines.append([*cells, _mean(whole, "row/delta_m"), row.delta_m or "-"])
    columns = [name for head in heads for name in (f"{escape_markdown(head)}, ours", "paper")]
    return "\n".join(table_lines(["", *columns], lines))


def _mean(summaries: Iterable[Mapping[str, Any]], name: str) -> str:
    values = [float(summary[name]) for summary in summaries if name in summary]
    return f"{summarise(values).mean:.4g} ({len(values)})" if values else "-"


def _network(config: Mapping[str, Any]) -> Network | None:
    """Return the network of a run of ours; None of anything else."""
    try:
        choices = config["choices"]
        data, encoder, decoder, ablation = (choices[key] for key in ("data", "encoder", "decoder", "ablation"))
        return Network(data, encoder, decoder, ablation, tuple(config["tasks"]))
    except (KeyError, TypeError):
        return None


def _bars(table: PublishedTable) -> list[Any]:
    import wandb_workspaces.reports.v2 as wr

    return [wr.BarPlot(title=name, metrics=[name], groupby="Group") for name in _columns(table)]


def _columns(table: PublishedTable) -> list[str]:
    return [*(f"row/{task}/{METRICS[task]}" for task in TASKS[table.data]), "row/delta_m"]


def _title(table: PublishedTable) -> str:
    return f"Table {table.number.split(',')[0]}: {table.title}"
