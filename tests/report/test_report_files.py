"""The report's files: Markdown, LaTeX, CSV, curves and the page, from runs with known numbers."""

import base64
import csv
import io
import json
import math
import re
import runpy
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mtmamba
from fake_data import write_nyud
from fake_runs import PAPER, paper_scores, write_logs, write_run
from mtmamba.config.checks import ConfigError
from mtmamba.report.curves import COLOURS, MAX_POINTS, Series, line_chart, read_curves
from mtmamba.report.page import PictureError, curves_of, embedded
from mtmamba.report.request import ReportError, check_request
from mtmamba.report.runs import read_run
from mtmamba.report.tables import Cell, Column, TextTable
from mtmamba.report.workflow import report
from mtmamba.report.writers import escape_latex, latex, markdown
from mtmamba.training import train as workflows

ROOT = Path(__file__).parents[2]
SVG = "{http://www.w3.org/2000/svg}"
SCRIPT = ROOT / "src/report.py"
TABLE = TextTable(
    "Parts & 2*Swin",
    [Column("Method", numbers=False), Column("ours", "a_b ↑"), Column("paper", "a_b ↑"), Column("n")],
    [[Cell("g|1"), Cell("1.50 ± 0.10"), Cell("−2"), Cell("3")], [Cell("h"), Cell("-"), Cell("4"), Cell("-")]],
    ["[1] 100 % of x_y."],
)
NAUGHTY = '<script src="https://example.org/x.js">alert("&")</script>'


class Page(HTMLParser):
    """What a browser would fetch, run and show; and whether every element that is opened is closed."""

    VOID = ("meta", "img", "line", "polyline", "circle", "link", "br", "input")

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.links, self.shown = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href", "srcset", "action", "data")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.shown.append(data)


def configuration(folder, *more):
    return mtmamba.load_config([f"runs={folder}/logs", f"out={folder}/report", *more], "report")


def test_markdown_is_what_it_should_be():
    assert markdown(TABLE) == (
        "### Parts & 2\\*Swin\n\n"
        "| Method |      a\\_b ↑ |       |   n |\n"
        "| ------ | ----------: | ----: | --: |\n"
        "|        |        ours | paper |     |\n"
        "| g\\|1   | 1.50 ± 0.10 |    −2 |   3 |\n"
        "| h      |           - |     4 |   - |\n\n"
        "- \\[1\\] 100 % of x\\_y.\n"
    )


def test_latex_is_what_it_should_be():
    assert latex([TABLE]) == (
        "% \\usepackage{booktabs, graphicx}\n"
        "\\begin{table}[tbp]\n\\centering\n\\caption{Parts \\& 2*Swin.}\n\\resizebox{\\linewidth}{!}{%\n"
        "\\begin{tabular}{lrrr}\n\\toprule\n"
        "\\multicolumn{1}{c}{} & \\multicolumn{2}{c}{a\\_b $\\uparrow$} & \\multicolumn{1}{c}{} \\\\\n"
        "\\cmidrule(lr){2-3}\nMethod & ours & paper & n \\\\\n\\midrule\n"
        "g\\textbar{}1 & 1.50 $\\pm$ 0.10 & $-$2 & 3 \\\\\nh & - & 4 & - \\\\\n"
        "\\bottomrule\n\\end{tabular}}\n\\par\\smallskip{\\footnotesize [1] 100 \\% of x\\_y.}\n\\end{table}\n"
    )


@given(st.text())
def test_no_text_escapes_latex(text):
    escaped = escape_latex(text).replace(r"$\Delta_m$", "")  # mathematics, which Δm becomes
    assert "\n" not in escaped
    assert not re.search(r"(?<!\\)[%#&_]", escaped)


def paths(drawing, colour):
    """The coordinates of the lines of a colour, ``(x, y)`` pairs, cut where the line is interrupted."""
    drawn = [
        path.get("d") for path in drawing.iter(f"{SVG}path") if f"fill: none; stroke: {colour}" in path.get("style")
    ]
    pieces = [piece for path in drawn for piece in path.split("M")[1:]]
    return [np.array(re.findall(r"[-\d.]+", piece), float).reshape(-1, 2) for piece in pieces]


def test_a_chart_breaks_where_values_are_not_finite():
    points = [(0, 1.0), (1, 2.0), (2, math.nan), (3, 3.0), (4, math.inf), (5, 2.0), (6, 1.0)]
    drawing = ElementTree.fromstring(line_chart([Series(points)]))
    first, lone, last = paths(drawing, COLOURS[0])
    assert [len(first), len(lone), len(last)] == [2, 1, 2]
    x, y = np.concatenate([first, lone, last]).T  # steps and values are places, up to a shift and a scale
    assert (x - x[0]) / (x[-1] - x[0]) == pytest.approx(np.array([0, 1, 3, 5, 6]) / 6, abs=1e-4)
    assert (y - y[0]) / (y[2] - y[0]) == pytest.approx(np.array([0, 0.5, 1, 0.5, 0]), abs=1e-4)
    assert y[0] > y[1]  # up is up
    assert len([used for used in drawing.iter(f"{SVG}use") if COLOURS[0] in used.get("style")]) == 5


def test_a_lone_value_is_seen_without_a_line():
    """What is validated once is a dot, twice as large at least as those on a line."""

    def radius(points):
        drawing = ElementTree.fromstring(line_chart([Series(points)]))
        (dot, *_) = [used for used in drawing.iter(f"{SVG}use") if COLOURS[0] in used.get("style")]
        (shape,) = drawing.findall(f".//{SVG}path[@id='{dot.get('{http://www.w3.org/1999/xlink}href')[1:]}']")
        return max(map(float, re.findall(r"[\d.]+", shape.get("d"))))

    assert radius([(7, 1.0)]) > 2 * radius([(6, 2.0), (7, 1.0)])


def test_a_long_line_is_thinned_to_its_end():
    points = [(step, float(step)) for step in range(1001)]
    (line,) = paths(ElementTree.fromstring(line_chart([Series(points, colour=9, pale=True)])), COLOURS[1])
    assert len(line) <= MAX_POINTS + 1
    assert line[-1, 0] == pytest.approx(line[:, 0].max())


def test_curves_leave_out_the_scoring_of_the_best_checkpoint(tmp_path):
    write_logs(write_run(tmp_path / "run", PAPER, paper_scores("depth", "0.5")), steps=10)
    assert [step for step, _ in read_curves(tmp_path / "run")["val/depth/RMSE"]] == [4, 9, 10]
    curves = curves_of(read_run(tmp_path / "run"))
    assert curves["val/depth/RMSE"] == [(4, 1.1), (9, 0.6)]
    assert [step for step, _ in curves["train/loss"]] == list(range(10))


def test_pictures_are_scaled_down_and_broken_ones_named(tmp_path):
    picture = np.full((50, 400, 3), (200, 100, 50), np.uint8)
    assert cv2.imwrite(str(tmp_path / "a.png"), picture)
    head, data = embedded(tmp_path / "a.png", 200).split(",")
    assert head == "data:image/jpeg;base64"
    decoded = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
    assert decoded.shape == (25, 200, 3)
    assert np.abs(decoded.astype(int) - picture[0, 0]).max() <= 3
    (tmp_path / "b.png").write_text("no picture")
    with pytest.raises(PictureError, match="cannot be read"):
        embedded(tmp_path / "b.png", 200)


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """A report of two seeds on the paper's row, a demo with pictures and naughty text, and a broken folder."""
    folder = tmp_path_factory.mktemp("reported")
    for seed, values in enumerate(("55.71 0.5081 18.66 78.60", "55.93 0.5058 18.60 78.80")):
        write_run(folder / f"logs/sweep/{seed}", PAPER, paper_scores("semseg depth normals edge", values), seed=seed)
    demo = write_run(folder / "logs/demo_1", "experiment=demo", {"depth": {"RMSE": 0.8}}, hardware=NAUGHTY)
    write_logs(demo)
    (folder / f"logs/{NAUGHTY.replace('/', '_')}").mkdir()
    (folder / f"logs/{NAUGHTY.replace('/', '_')}/metrics.json").write_text("{")
    report(configuration(folder))
    return folder / "report"


def test_a_report_is_four_files(reported):
    assert {path.name for path in reported.iterdir()} == {"report.md", "report.tex", "report.csv", "report.html"}


def test_the_page_parses_and_asks_nothing_of_the_network(reported):
    text = (reported / "report.html").read_text()
    page = Page(text)
    assert page.open == []
    assert page.tags.count("script") == 1  # the page's own
    assert page.links
    assert all(link.startswith(("data:image/jpeg;base64,", "#")) for link in page.links)
    assert not re.search(r"@import|url\(", text)
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(re.findall(r'id="([^"]+)"', text))


def test_the_page_shows_what_files_say_as_text(reported):
    shown = " ".join(Page((reported / "report.html").read_text()).shown)
    assert NAUGHTY in shown
    assert NAUGHTY.replace("/", "_") in shown
    for text in ("55.82 ± 0.16", "55.82", "synthetic · swin_micro · mtmamba", "Left out"):
        assert text in shown


def test_the_page_draws_curves_and_stays_below_its_size(reported, tmp_path):
    text = (reported / "report.html").read_text()
    assert len(re.findall("<svg", text)) == 2  # losses; RMSE
    assert len(re.findall("<img", text)) == 1
    small = configuration(reported.parent, f"out={tmp_path}", "max_megabytes=0.001")
    report(small)
    text = (tmp_path / "report.html").read_text()
    assert "<img" not in text
    assert "pictures/best.png is not shown" in text


def test_csv_gives_every_number_back(reported):
    rows = list(csv.DictReader(io.StringIO((reported / "report.csv").read_text())))
    ours = {(row["table"], row["row"], row["metric"]): row for row in rows if row["ours"]}
    found = ours["5", "adaptive g", "RMSE"]
    values = np.array([0.5081, 0.5058])
    assert float(found["ours"]) == pytest.approx(values.mean(), rel=1e-12)
    assert float(found["deviation"]) == pytest.approx(values.std(ddof=1), rel=1e-12)
    assert float(found["difference"]) == pytest.approx(values.mean() - 0.5066, rel=1e-9)
    assert (found["n"], found["paper"], found["runs"].count(";")) == ("2", "0.5066", 1)
    assert float(ours["all metrics", "", "odsF"]["ours"]) == pytest.approx(78.7)
    printed = [row["paper"] for row in rows if row["table"] == "6" and row["metric"] == "mIoU"]
    assert printed == ["49.25", "51.93", "53.62", "55.82"]


def test_latex_of_a_whole_report_is_balanced(reported):
    text = (reported / "report.tex").read_text()
    assert text.count("\\begin{table}") == text.count("\\end{table}") == 11
    for body in re.findall(r"\\begin\{tabular\}\{([lr]+)\}(.*?)\\end\{tabular\}", text, re.DOTALL):
        lines = [line for line in body[1].splitlines() if line.endswith(r"\\")]
        for line in lines:
            spanned = sum(int(n) - 1 for n in re.findall(r"\\multicolumn\{(\d+)\}", line))
            assert len(re.findall(r"(?<!\\)&", line)) + 1 + spanned == len(body[0])


def test_wrong_settings_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nyud: \['sal'\]"):
        check_request(configuration(tmp_path, "derived.nyud=[sal]"))
    with pytest.raises(ReportError, match="correct `runs`"):
        report(configuration(tmp_path))
    assert not (tmp_path / "report").exists()


def test_the_script_prints_the_tables(reported, monkeypatch, capsys, tmp_path):
    arguments = [f"runs=[{reported.parent}/logs/sweep,{reported.parent}/logs/d*]", f"out={tmp_path}"]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments])
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(SCRIPT), run_name="__main__")
    printed = capsys.readouterr().out
    assert "| adaptive g [1] |   2 |" in printed
    assert "### Other runs" in printed
    assert "Left out" not in printed
    assert {path.name for path in tmp_path.iterdir()} == {"report.md", "report.tex", "report.csv", "report.html"}


@pytest.mark.slow
def test_a_report_of_trained_models(tmp_path):
    dataset = write_nyud(tmp_path / "NYUDv2", train=10, val=3, size=(32, 48))
    for seed in (0, 1):
        (run_dir := tmp_path / f"logs/{seed}").mkdir(parents=True)
        overrides = [
            "data=nyud", f"data.root={dataset}", "data.crop_size=[32,64]", "data.batch_size=4", "data.num_workers=0",
            "logger=csv", "trainer.max_steps=4", "trainer.val_check_interval=2", "trainer.log_every_n_steps=1",
            "trainer.accelerator=cpu", "baseline=false", f"log_dir={tmp_path}/logs", f"cache_dir={tmp_path}/cache",
            f"seed={seed}",
        ]  # fmt: skip
        workflows.train(mtmamba.load_config(overrides), run_dir)
    command = [sys.executable, str(SCRIPT), f"runs={tmp_path}/logs", f"out={tmp_path}/report"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    records = [json.loads((tmp_path / f"logs/{seed}/metrics.json").read_text()) for seed in (0, 1)]
    errors = np.array([record["tasks"]["depth"]["RMSE"] for record in records])
    assert f"{errors.mean():.4f} ± {errors.std(ddof=1):.4f}" in printed
    page = (tmp_path / "report/report.html").read_text()
    assert page.count("<svg") == 9  # the loss, four tasks' losses, three metrics that are no loss, Delta_m
    assert page.count("<img") == 1
