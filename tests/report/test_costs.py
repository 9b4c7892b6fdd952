"""The chart of quality beside cost, read back from the figure and from the committed file."""

import re
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from mtmamba.report.costs import draw_costs, write_charts
from mtmamba.report.evidence import read_results

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results/lite2_4k"
COMMITTED = ROOT / ".github/pictures/lite2_4k_costs.svg"


def words(svg):
    return re.findall(r"<text[^>]*>([^<]+)<", svg.read_text(encoding="utf-8"))


def test_rows_stand_at_what_the_table_says_of_them():
    figure = Figure()
    draw_costs(read_results(RESULTS), figure)
    page = (ROOT / "docs/results.md").read_text(encoding="utf-8").split("\n\n| row less")[0]
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("| ")]
    table = {cells[0]: cells[6:9] for cells in lines if cells[6].startswith(("+", "-"))}
    del table["---"]
    time, size = figure.axes
    for drawn, cost in ((time, lambda p, s: 1000 / float(s)), (size, lambda p, s: float(p.replace(",", "")) / 1e6)):
        found = {c.get_label().split()[0]: c.lines[0].get_xydata()[0] for c in drawn.containers}
        assert found.keys() == table.keys() >= {"mtmamba", "stm2", "stm3", "swin2"}
        for row, (gain, parameters, speed) in table.items():
            assert found[row] == pytest.approx([cost(parameters, speed), float(gain)], rel=0.01)
    cross = next(line for line in size.lines if "single-task" in str(line.get_label()))
    assert cross.get_xydata()[0] == pytest.approx([45.84351, 0])  # 11,459,883 twice, 11,460,077, 11,463,666


def test_the_committed_chart_is_of_the_committed_results(tmp_path):
    write_charts(tmp_path, RESULTS.parent)
    assert words(tmp_path / COMMITTED.name) == words(COMMITTED)
    assert "stm3 +14.4" in words(COMMITTED)
