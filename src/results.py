"""The tables and the chart of docs/results.md from the committed results: ``python src/results.py``."""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()  # before PyTorch is imported

    from mtmamba.report.costs import write_charts
    from mtmamba.report.evidence import EvidenceError, write_page

    try:
        write_page(ROOT / "docs/results.md", ROOT / "results")
        write_charts(ROOT / ".github/pictures", ROOT / "results")
    except EvidenceError as error:
        sys.exit(f"Error: {error}")
