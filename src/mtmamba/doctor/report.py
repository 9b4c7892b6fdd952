"""The doctor's report on the terminal."""

from pathlib import Path

from rich.console import Console
from rich.markup import escape

from mtmamba.doctor.checks import looks

MARKS = {"ok": "[green]ok  [/green]", "none": "-   ", "warn": "[yellow]warn[/yellow]", "fail": "[red]FAIL[/red]"}


def examine(log_dir: str, cache_dir: str) -> bool:
    """Print every finding as it comes, problems with what to do.

    Returns:
        Whether the main job can run.
    """
    console = Console(highlight=False, soft_wrap=True)
    counts = dict.fromkeys(MARKS, 0)
    for title, look in looks({"log_dir": Path(log_dir).expanduser(), "cache_dir": Path(cache_dir).expanduser()}):
        console.print(f"[bold]{title}[/bold]")
        for finding in look():
            counts[finding.state] += 1
            console.print(f"  {MARKS[finding.state]} {escape(finding.name)}: {escape(finding.text)}")
            if finding.remedy:
                console.print(f"       [bold]→ {escape(finding.remedy)}[/bold]")
    well = (
        "Everything that the main job needs works."
        if not counts["fail"]
        else "The main job cannot run: see FAIL above."
    )
    total = "{ok} ok, {none} not there and not needed, {warn} warnings, {fail} failures".format_map(counts)
    console.print(f"{total}. {well}")
    return not counts["fail"]
