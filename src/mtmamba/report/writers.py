"""Tables as Markdown, LaTeX and CSV."""

import csv
import io
import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from mtmamba.paper import METRICS
from mtmamba.report.compare import Line
from mtmamba.report.groups import Group, Summary
from mtmamba.report.tables import MINUS, Column, TextTable

CSV_COLUMNS = (
    "table", "row", "configuration", "runs", "settings", "task", "metric",
    "ours", "deviation", "n", "paper", "difference",
)  # fmt: skip

_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "$": r"\$",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "±": r"$\pm$", MINUS: r"$-$", "↑": r"$\uparrow$",
    "↓": r"$\downarrow$", "→": r"$\rightarrow$", "Δm": r"$\Delta_m$", "°": r"$^\circ$", "·": r"$\cdot$",
    "10⁶": "$10^6$", "10⁹": "$10^9$", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
}  # fmt: skip


def escape_latex(text: str) -> str:
    r"""Write text so that LaTeX shows it as it is; control characters become spaces.

    >>> escape_latex("human_parts, 5 %")
    'human\\_parts, 5 \\%'
    """
    return re.sub("|".join(map(re.escape, _LATEX)), lambda found: _LATEX[found[0]], " ".join(text.split()))


def escape_markdown(text: str) -> str:
    r"""Write text so that Markdown shows it as it is, on one line.

    >>> escape_markdown("2*STM | a_b")
    '2\\*STM \\| a\\_b'
    """
    return re.sub(r"([\\`*_{}\[\]<>|#~])", r"\\\1", " ".join(text.split()))


def markdown(table: TextTable, escape: Callable[[str], str] = escape_markdown) -> str:
    """Return a table with its title and notes.

    Args:
        table: what to write.
        escape: of each text; ``str`` for a terminal.
    """
    columns = table.columns
    rows = [[escape(cell.text) for cell in row] for row in table.rows]
    head = [escape(column.name) for column in columns]
    if any(column.group for column in columns):  # Markdown has one row of headings: the lower ones become its first
        rows.insert(0, [name if column.group else "" for name, column in zip(head, columns, strict=True)])
        head = [name if not column.group else "" for name, column in zip(head, columns, strict=True)]
        for i in _group_starts(columns):
            head[i] = escape(columns[i].group)
    widths = [max(3, *(len(row[i]) for row in (head, *rows))) for i in range(len(columns))]
    rule = ["-" * (width - 1) + (":" if c.numbers else "-") for width, c in zip(widths, columns, strict=True)]
    lines = [f"### {escape(table.title)}", ""]
    for row in (head, rule, *rows):
        cells = [
            cell.rjust(width) if column.numbers else cell.ljust(width)
            for cell, width, column in zip(row, widths, columns, strict=True)
        ]
        lines.append(f"| {' | '.join(cells)} |")
    notes = [f"- {escape(note)}" for note in table.notes]
    return "\n".join([*lines, *([""] if notes else []), *notes]) + "\n"


def latex(tables: Iterable[TextTable]) -> str:
    """Return the tables as floats; a document needs the packages booktabs, graphicx and, before 2018, inputenc."""
    head = "% \\usepackage{booktabs, graphicx}\n"
    return head + "\n".join(_latex_table(table) for table in tables)


def csv_text(lines: Mapping[str, Sequence[Line]], groups: Iterable[Group]) -> str:
    """Return every number at full precision, one a row: the paper's tables, then every metric of every configuration.

    Args:
        lines: the paper's tables, by number.
        groups: every configuration.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for number, rows in lines.items():
        for line in rows:
            start = {"table": number, "row": line.row.name, "settings": line.departures, **_ours(line.members)}
            for name, figure in line.figures.items():
                if figure.ours is not None or figure.paper is not None:
                    task, metric = (name, METRICS[name]) if name in METRICS else ("", name)
                    values = {"paper": figure.paper, "difference": figure.difference, **_summary(figure.ours)}
                    writer.writerow(_no_formulas({**start, "task": task, "metric": metric, **values}))
    for group in groups:
        start = {"table": "all metrics", "settings": group.differs_in, **_ours([group])}
        for task, metric in group.metrics():
            summary = _summary(group.summary(task, metric))
            writer.writerow(_no_formulas({**start, "task": task, "metric": metric, **summary}))
    return text.getvalue()


def _no_formulas(row: Mapping[str, Any]) -> dict[str, Any]:
    """Put an apostrophe before text that a spreadsheet would compute; numbers stay."""
    is_formula = re.compile(r"[=+\-@\t\r](?![\d.]+$)").match
    return {key: f"'{value}" if isinstance(value, str) and is_formula(value) else value for key, value in row.items()}


def _ours(groups: Sequence[Group]) -> dict[str, str]:
    return {
        "configuration": "; ".join(group.name for group in groups),
        "runs": "; ".join(str(run.folder) for group in groups for run in group.runs),
    }


def _summary(summary: Summary | None) -> dict[str, float | None]:
    return {} if summary is None else {"ours": summary.mean, "deviation": summary.deviation, "n": summary.n}


def _latex_table(table: TextTable) -> str:
    columns = table.columns
    names = " & ".join(escape_latex(column.name) for column in columns)
    heads = [names]
    if any(column.group for column in columns):
        spans = [(group, len(list(same))) for group, same in itertools.groupby(column.group for column in columns)]
        ends = list(itertools.accumulate(width for _, width in spans))
        rules = [
            f"\\cmidrule(lr){{{end - width + 1}-{end}}}"
            for (group, width), end in zip(spans, ends, strict=True)
            if group
        ]
        upper = [f"\\multicolumn{{{width}}}{{c}}{{{escape_latex(group)}}}" for group, width in spans]
        heads = [" & ".join(upper), "".join(rules) + "\n" + names]
    body = [" & ".join(escape_latex(cell.text) for cell in row) for row in table.rows]
    parts = [
        "\\begin{table}[tbp]",
        "\\centering",
        f"\\caption{{{escape_latex(table.title)}.}}",
        "\\resizebox{\\linewidth}{!}{%",
        f"\\begin{{tabular}}{{{''.join('r' if column.numbers else 'l' for column in columns)}}}",
        "\\toprule",
        " \\\\\n".join(heads) + " \\\\",
        "\\midrule",
        *(f"{row} \\\\" for row in body),
        "\\bottomrule",
        "\\end{tabular}}",
        *(f"\\par\\smallskip{{\\footnotesize {escape_latex(note)}}}" for note in table.notes),
        "\\end{table}",
    ]
    return "\n".join(parts) + "\n"


def _group_starts(columns: Sequence[Column]) -> list[int]:
    return [i for i, column in enumerate(columns) if column.group and (i == 0 or columns[i - 1].group != column.group)]
