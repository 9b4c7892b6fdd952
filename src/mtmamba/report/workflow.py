"""What the report script does: find runs, compare them with the paper, write the four files."""

from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

from mtmamba.config import compose
from mtmamba.extensions import load_extensions
from mtmamba.files import printable, write_text
from mtmamba.report.compare import compare
from mtmamba.report.evaluations import join_evaluations
from mtmamba.report.groups import group_runs
from mtmamba.report.page import html
from mtmamba.report.request import patterns_of
from mtmamba.report.runs import find_runs
from mtmamba.report.tables import TextTable, all_metrics, left_out_list, other_runs, paper_table, run_list
from mtmamba.report.writers import csv_text, latex, markdown

ABOUT = (
    "Values are means over seeds, ± the sample standard deviation where there is more than one run (n). Scores stand "
    "beside the paper's only where both mean the same; diff. is ours less the paper's. Δm is cut off after two digits, "
    "as in the paper. {labels}"
)


def report(cfg: DictConfig) -> None:
    """Write ``report.md``, ``report.tex``, ``report.csv`` and ``report.html``; show the tables that hold a run.

    Args:
        cfg: from the report script's configuration.

    Raises:
        ReportError: no run is found.
    """
    plain = compose.plain(cfg)
    load_extensions(plain["extensions"])
    derived, sources = plain["derived"], patterns_of(cfg)
    found, broken = find_runs(sources)
    groups, repeated = group_runs(join_evaluations(found))
    lines, others = compare(groups, derived)

    paper = [paper_table(number, rows) for number, rows in lines.items()]
    tables = [other_runs(others), all_metrics(groups), run_list(groups), left_out_list([*broken, *repeated])]
    filled = [table for table in (*paper, *tables) if table.rows]
    named = "; ".join(f"{', '.join(tasks)} of {data}" for data, tasks in derived.items() if tasks)
    labels = f"Derived labels: {named}." if named else "All labels are taken to be the published ones."
    about = ABOUT.format(labels=labels)
    room = {"picture_width": cfg.picture_width, "max_megabytes": cfg.max_megabytes}
    page = html(paper, tables, groups, sources, about, **room)
    out = Path(cfg.out)
    files = {
        "report.md": f"# MTMamba: report\n\n{about}\n\n" + "\n".join(map(markdown, filled)),
        "report.tex": latex(filled),
        "report.csv": csv_text(lines, groups),
        "report.html": page,
    }
    for name, text in files.items():
        write_text(out / name, printable(text))
    _show([table for table in (*paper, tables[0], tables[-1]) if table.rows and table.has_runs], out)


def _show(tables: list[TextTable], out: Path) -> None:
    console = Console(highlight=False)
    for table in tables:
        console.print(printable(markdown(table, str)), markup=False, soft_wrap=True)
    written = f"Written: {out}/report.md, report.tex, report.csv, report.html"
    console.print(printable(written), markup=False, soft_wrap=True)
