"""The tables and the chart of docs/results.md from the committed results: ``python src/results.py``."""

from pathlib import Path

from mtmamba.report.costs import write_charts
from mtmamba.report.evidence import write_page

ROOT = Path(__file__).parents[1]

if __name__ == "__main__":
    write_page(ROOT / "docs/results.md", ROOT / "results")
    write_charts(ROOT / ".github/pictures", ROOT / "results")
