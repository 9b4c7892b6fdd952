"""The tables of docs/results.md from the committed results: ``python src/results.py``."""

from pathlib import Path

from mtmamba.report.evidence import write_page

ROOT = Path(__file__).parents[1]

if __name__ == "__main__":
    write_page(ROOT / "docs/results.md", ROOT / "results")
