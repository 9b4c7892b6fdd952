"""One broken run does not end a report: it is named with the reason, and the others are reported."""

import csv
import io
import json
import os
import struct
import zlib

import pytest

import mtmamba
from fake_runs import PAPER, paper_scores, write_logs, write_run
from mtmamba.report.workflow import report

DEMO = "experiment=demo"
SCORES = {"depth": {"RMSE": 0.8}}
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)


def png(width, height):
    """A picture that claims a size, of black pixels: a few kilobytes whatever that is."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(10**5)))
        + chunk(b"IEND", b"")
    )


def reported(folder):
    """Report all runs of a folder, beside a good one; the Markdown and the page."""
    write_run(folder / "logs/good", PAPER, paper_scores("semseg depth normals edge", "55.82 0.5066 18.63 78.70"))
    report(mtmamba.load_config([f"runs={folder}/logs", f"out={folder}/report"], "report"))
    text = (folder / "report/report.md").read_text(encoding="utf-8")
    assert "55.82" in text.partition("Table 5")[2].partition("###")[0]
    return text, (folder / "report/report.html").read_text(encoding="utf-8")


def change(run, **record):
    path = run / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | record))


BROKEN = {
    "a score of 1e308": (
        lambda run: change(run, tasks={"depth": {"RMSE": 1e308}}),
        "metrics.json holds a number beyond 1e+15 as tasks.depth.RMSE",
    ),
    "a number of parameters beyond floats": (
        lambda run: change(run, parameters=10**400),
        "beyond 1e+15 as parameters",
    ),
    "an integer of 5,000 digits": (
        lambda run: (run / "metrics.json").write_text('{"seed": ' + "9" * 5000 + "}"),
        "metrics.json cannot be read: Exceeds the limit",
    ),
    "nested JSON": (lambda run: (run / "metrics.json").write_text("[" * 10**6), "metrics.json cannot be read"),
    "NUL in JSON": (lambda run: change(run, checkpoint="a\0b"), "metrics.json holds a NUL character in checkpoint"),
    "NUL bytes": (lambda run: (run / "metrics.json").write_bytes(bytes(64)), "metrics.json cannot be read"),
    "NUL bytes in YAML": (lambda run: (run / "config.yaml").write_bytes(bytes(64)), "config.yaml cannot be read"),
    "a YAML bomb": (
        lambda run: (run / "config.yaml").write_text(BOMB),
        "config.yaml cannot be read: it holds an alias",
    ),
    "nested YAML": (
        lambda run: (run / "config.yaml").write_text("[" * 10**6),
        "config.yaml cannot be read: it is nested more than 64 deep",
    ),
    "no UTF-8": (lambda run: (run / "config.yaml").write_bytes(b"a: \xff\xfe"), "config.yaml cannot be read"),
    "a folder for a file": (
        lambda run: ((run / "config.yaml").unlink(), (run / "config.yaml").mkdir()),
        "no config.yaml",
    ),
    "a pipe for a file": (
        lambda run: ((run / "config.yaml").unlink(), os.mkfifo(run / "config.yaml")),
        "no config.yaml",
    ),
    "protocols of another kind": (
        lambda run: change(run, protocols={"edge": [1]}),
        "metrics.json holds protocols that are no mappings",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_run_is_named_and_the_rest_goes_on(tmp_path, kind):
    damage, reason = BROKEN[kind]
    damage(write_run(tmp_path / "logs/bad", DEMO, SCORES))
    text, _ = reported(tmp_path)
    (line,) = [line for line in text.partition("### Left out")[2].splitlines() if "logs/bad" in line]
    assert reason in line.replace("\\", "")


def test_a_folder_whose_name_is_not_utf8_is_reported_escaped(tmp_path):
    name = os.fsdecode(b"caf\xe9\x1b[2J")
    write_logs(write_run(tmp_path / "logs" / name, DEMO, SCORES))
    text, page = reported(tmp_path)
    assert "caf\\udce9�\\[2J" in text
    assert "caf\\udce9�[2J" in page


def test_a_lone_surrogate_of_a_record_is_written_escaped(tmp_path):
    write_run(tmp_path / "logs/odd", DEMO, SCORES, hardware="\ud800 card")
    assert "\\ud800 card" in reported(tmp_path)[1]


PICTURES = {
    "60000 x 60000 pixels": (lambda path: path.write_bytes(png(60000, 60000)), "its pixels are too many"),
    "10000 x 10000 pixels": (lambda path: path.write_bytes(png(10000, 10000)), "its pixels are too many"),
    "cut off": (lambda path: path.write_bytes(png(400, 4000)[:99]), "it cannot be read as a picture"),
    "text": (lambda path: path.write_text("no picture"), "it cannot be read as a picture"),
    "a pipe": (os.mkfifo, "it is no file"),
}


@pytest.mark.parametrize("kind", PICTURES)
def test_a_broken_picture_is_named_and_the_rest_goes_on(tmp_path, kind):
    write_logs(write_run(tmp_path / "logs/bad", DEMO, SCORES))
    write, reason = PICTURES[kind]
    (tmp_path / "logs/bad/pictures/best.png").unlink()
    write(tmp_path / "logs/bad/pictures/best.png")
    page = reported(tmp_path)[1]
    assert f"logs/bad/pictures/best.png is not shown: {reason}." in page
    assert page.count("<svg") == 2


LOGS = {
    "huge values": ("step,train/loss\n0,1e308\n1,-1e308\n2,1\n", 1),
    "huge values alone": ("step,train/loss\n0,1e308\n1,-1e308\n", 0),
    "a step beyond all": (f"step,train/loss\n{10**18},1\n", 0),
    "NUL": ("step,train/loss\n\0,1\n", 0),
    "more cells than names": ("step,train/loss\n1,2,3\n", 0),
}


@pytest.mark.parametrize("kind", LOGS)
def test_broken_logs_are_left_out_of_the_curves(tmp_path, kind):
    text, charts = LOGS[kind]
    (write_run(tmp_path / "logs/bad", DEMO, SCORES) / "metrics.csv").write_text(text)
    assert reported(tmp_path)[1].count("<svg") == charts


def test_no_cell_of_the_csv_is_a_formula(tmp_path, monkeypatch):
    for name in ("=1+1", "+a", "-b", "@c"):
        write_run(tmp_path / name, DEMO, SCORES, seed=ord(name[0]))
    monkeypatch.chdir(tmp_path)
    runs = ",".join(f"'{name}'" for name in ("=1+1", "+a", "-b", "@c"))
    for alone in runs.split(","):
        report(mtmamba.load_config([f"runs=[{alone}]", f"out={tmp_path}/report"], "report"))
        rows = list(csv.reader(io.StringIO((tmp_path / "report/report.csv").read_text())))
        cells = [cell for row in rows for cell in row]
        assert f"'{alone.strip(chr(39))}" in cells
        assert "+2.38" in cells  # a number stays one
        assert [cell for cell in cells if cell[:1] in "=+-@" and cell and not is_number(cell)] == []


def is_number(text):
    try:
        float(text)
    except ValueError:
        return False
    return True
