"""Every bad input is answered in one sentence that names it: no traceback, no hang, nothing left behind.

docs/bad_inputs.md holds the sentences. After they change: ``WRITE_BAD_INPUTS=1 pytest tests/test_bad_inputs.py -m "slow
or not slow"``, without ``-n``.
"""

import faulthandler
import os
import re
import runpy
import shutil
import sys
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

from bad_inputs import calls, data_files, datasets, models, prepare
from mtmamba.data.datasets import get_dataset

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/bad_inputs.md"
GROUPS = {
    "Images": data_files.IMAGES,
    "Labels": data_files.LABELS,
    "Lists of ids": datasets.LISTS,
    "Layouts": datasets.LAYOUTS,
    "Descriptions of one's own folder": datasets.DESCRIPTIONS,
    "Checkpoints": models.CHECKPOINTS,
    "The authors' files": models.RELEASED,
    "Encoder weights": models.WEIGHTS,
    "Predictions": calls.PREDICTIONS,
    "Run folders": calls.RUNS,
    "Photographs": calls.PHOTOS,
    "Settings": calls.OVERRIDES,
}
CASES = [(group, case) for group, cases in GROUPS.items() for case in cases]
FAST = 2
"""Of each group, how many are tried in the fast tests."""
PATIENCE = 120
"""Seconds after which a call counts as hanging: every thread's place is printed, and the tests end."""
OTHERS = r"\d\d:\d\d:\d\d (INFO|WARNING) |libpng (error|warning): "
"""Lines beside the sentence: the log, and what libpng says by itself."""
CHANGING = {
    r"\d{4}-\d\d-\d\d_[\d-]+": "TIME",
    r"(?<=/parts-24x32/)\w+": "KEY",
    r", toy(_\w+)?\b": "",
}
"""What differs from call to call; other tests' networks may be there."""
LEFT = r"cache($|/)|results($|/predictions\.json$)"
"""What a call may leave: a cache, and the list of what could not be predicted."""


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    prepare(folder)
    return folder


@pytest.fixture(scope="module")
def page():
    """The rows of the page by group, words and script; written anew where the environment asks for it."""
    rows, group = {}, ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        group = line[3:] if line.startswith("## ") else group
        if found := re.fullmatch(r"\| (.*?) \| `(\w+)` \| (.*) \|", line):
            rows[group, found[1], found[2]] = found[3]
    yield rows
    if "WRITE_BAD_INPUTS" in os.environ:
        text = PAGE.read_text(encoding="utf-8").partition("\n## ")[0].rstrip() + "\n"
        for group, cases in GROUPS.items():
            keys = [(group, case.words, case.script) for case in cases]
            lines = [
                f"| {words} | `{script}` | {rows[key]} |" for key in keys if key in rows for _, words, script in [key]
            ]
            text += "\n".join([f"\n## {group}\n", "| what | command | answer |", "|---|---|---|", *lines, ""])
        PAGE.write_text(text, encoding="utf-8")


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def run(call, folder, monkeypatch):
    """Run a script's command in a folder, in this process; return its exit status."""
    script, *arguments = call.split()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", [f"{script}.py", *arguments])
    monkeypatch.setenv("MTMAMBA_CACHE", str(folder / "cache"))
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    GlobalHydra.instance().clear()
    faulthandler.dump_traceback_later(PATIENCE, exit=True)
    try:
        runpy.run_path(str(ROOT / f"src/{script}.py"), run_name="__main__")
    except SystemExit as end:
        return end.code
    finally:
        faulthandler.cancel_dump_traceback_later()
    return 0


def answers(said, folder):
    """Return the sentences that a call ended with, without what differs from place to place."""
    lines = [line for line in said.err.splitlines() if not re.match(OTHERS, line)]
    lines += re.findall(r"(Skipped: .*?) \d+ of \d+ inputs", " ".join(said.out.split()))
    for index, line in enumerate(lines):
        text = line.replace(f"{folder}/", "").replace(str(folder), ".")
        for name in ("nyud", "pascal_context"):
            text = text.replace(get_dataset(name).remedy, "(Where to get it.)")
        for changing, word in CHANGING.items():
            text = re.sub(changing, word, text)
        lines[index] = re.sub(r"^(Error|Skipped): ", "", text)
    return lines


@pytest.mark.parametrize(
    ("group", "case"),
    [
        pytest.param(
            group, case, id=f"{group}: {case.words}", marks=() if case in GROUPS[group][:FAST] else pytest.mark.slow
        )
        for group, case in CASES
    ],
)
def test_a_bad_input_is_answered_in_a_sentence(group, case, sound, page, tmp_path, monkeypatch, capfd):
    folder = tmp_path / "here"
    shutil.copytree(sound, folder)
    case.damage(folder)
    before = files(folder)
    capfd.readouterr()
    status = run(case.call, folder, monkeypatch)
    said = capfd.readouterr()
    (sentence,) = answers(said, folder)
    assert status == 1
    assert case.says in sentence
    assert re.search(r"[.?)]$|set data\.root=\S*$", sentence)
    assert {path for path in files(folder) - before if not re.match(LEFT, path)} == set()
    cell = sentence.replace("|", "\\|").replace("<", "&lt;")
    if "WRITE_BAD_INPUTS" in os.environ:
        page[group, case.words, case.script] = cell
    assert page.get((group, case.words, case.script)) == cell


def test_there_are_at_least_150_and_the_page_has_no_others(page):
    keys = [(group, case.words, case.script) for group, case in CASES]
    assert len(keys) == len(set(keys)) >= 150
    assert set(page) == set(keys)
