"""A protocol's rows, trained and evaluated by scripts that do in no time what the real ones do in minutes."""

import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time

import pytest
import torch
from omegaconf import OmegaConf

from mtmamba.config.checks import ConfigError
from mtmamba.config.compose import load_config
from mtmamba.runs import bundle, protocol

TRAIN = """
import pathlib, signal, sys, time
given = dict(a.split("=", 1) for a in sys.argv[1:])
run = pathlib.Path(given["hydra.run.dir"].strip("'"))
(run / "checkpoints").mkdir(parents=True, exist_ok=True)
(run / "calls.txt").open("a").write(" ".join(sys.argv[1:]) + "\\n")
def stop(*_):
    (run / "checkpoints/last.ckpt").write_text("half")
    sys.exit(1)
signal.signal(signal.SIGTERM, stop)
if given["decoder"] == "slow" and "resume" not in given:
    time.sleep(60)
if given["decoder"] == "broken":
    sys.exit(1)
(run / "checkpoints/last.ckpt").write_text("whole")
(run / "metrics.csv").write_text("step\\n1\\n")
(run / "metrics.json").write_text("{}")
"""
EVAL = """
import json, pathlib, sys
given = dict(a.split("=", 1) for a in sys.argv[1:])
run = pathlib.Path(given["hydra.run.dir"].strip("'"))
run.mkdir(parents=True)
record = {"run": str(run), "checkpoint": given["ckpt"], "git": None, "worst": ["a photograph"], "tasks": {"depth": 1}}
(run / "metrics.json").write_text(json.dumps(record))
(run / "resamples.csv").write_text("depth\\n1\\n")
"""


@pytest.fixture
def cfg(tmp_path, monkeypatch):
    """Three rows, and scripts that only leave the files."""
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    (scripts / "train.py").write_text(TRAIN)
    (scripts / "eval.py").write_text(EVAL)
    (tmp_path / "photos it's").mkdir()
    monkeypatch.setattr(protocol, "SCRIPTS", scripts)
    rows = {"a": "decoder=a", "b": "decoder=b x=1", "slow": "decoder=slow", "broken": "decoder=broken"}
    return OmegaConf.create(
        {
            "protocol": {"name": "p", "train": ["experiment=e"], "eval": ["y=2"], "rows": rows},
            "data_root": str(tmp_path / "photos it's"),
            "rows": ["a", "b"],
            "seeds": [0, 1],
            "devices": "auto",
            "num_workers": 3,
            "minutes": None,
            "results": str(tmp_path / "results"),
            "log_dir": str(tmp_path / "logs"),
            "pack": None,
            "gather": None,
        }
    )


def calls(cfg, row, seed=0):
    return (protocol.Path(cfg.log_dir) / f"evidence/p/seed{seed}/{row}/calls.txt").read_text().splitlines()


def test_rows_without_results_are_run_and_finished_ones_skipped(cfg, tmp_path):
    done = tmp_path / "results/p/seed0/a"
    done.mkdir(parents=True)
    (done / "metrics.json").write_text("{}")
    protocol.work(cfg)
    assert not (tmp_path / "logs/evidence/p/seed0/a").exists()
    for seed, row in ((0, "b"), (1, "a"), (1, "b")):
        result = tmp_path / f"results/p/seed{seed}/{row}"
        assert sorted(path.name for path in result.iterdir()) == ["metrics.json", "resamples.csv", "training.csv"]
        record = json.loads((result / "metrics.json").read_text())
        # Nothing of the machine, and of no single photograph.
        assert record == {
            "run": f"evidence/p/seed{seed}/{row}",
            "checkpoint": "checkpoints/last.ckpt",
            "git": None,
            "tasks": {"depth": 1},
        }
        assert len(calls(cfg, row, seed)) == 1
    call = calls(cfg, "b", 1)[0]
    assert call.startswith("experiment=e decoder=b x=1 seed=1 data.root='")
    assert "photos it\\'s' data.num_workers=3" in call
    before = time.time_ns()
    protocol.work(cfg)  # nothing is left to do
    assert all(path.stat().st_mtime_ns < before for path in (tmp_path / "results").rglob("*.json"))


@pytest.mark.parametrize(("visible", "expected"), [(None, {"0", "1"}), ("2,5", {"2", "5"})])
def test_rows_keep_to_the_devices_that_are_visible(cfg, visible, expected, monkeypatch):
    """They had gone to the machine's first ones, whatever the user had left them."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    given = []
    monkeypatch.setattr(protocol, "_trained", lambda row, root, workers, device, over: given.append(device))
    with pytest.raises(RuntimeError, match="failures"):
        protocol.work(cfg)
    assert set(given) <= expected
    assert len(given) == 4


def test_a_row_takes_the_place_of_what_an_unfinished_one_has_left(cfg, tmp_path):
    left = tmp_path / "results/p/seed0/a/training.csv"
    left.parent.mkdir(parents=True)
    left.write_text("half")
    cfg.rows, cfg.seeds = ["a"], [0]
    protocol.work(cfg)
    assert left.with_name("metrics.json").is_file()
    assert left.read_text() == "step\n1\n"


def test_a_file_of_somebodys_among_the_results_is_named_before_any_work(cfg, tmp_path):
    note = tmp_path / "results/p/seed0/a/note.txt"
    note.parent.mkdir(parents=True)
    note.touch()
    with pytest.raises(ConfigError, match=r"nothing but metrics\.json.* in .*seed0/a, got note\.txt"):
        protocol.work(cfg)
    assert not (tmp_path / "logs").exists()


def test_results_that_cannot_be_kept_are_a_failure(cfg, tmp_path, capfd):
    """Such as those of an evaluation that left no bootstrap samples: it runs in a thread that nobody waits for."""
    script = tmp_path / "scripts/eval.py"
    script.write_text(script.read_text().replace('(run / "resamples.csv").write_text("depth\\n1\\n")', ""))
    cfg.rows, cfg.seeds = ["a"], [0]
    with pytest.raises(RuntimeError, match=r"got failures in a, seed 0: see"):
        protocol.work(cfg)
    assert "a, seed 0: its results could not be kept" in capfd.readouterr().err
    assert not (tmp_path / "results/p/seed0/a").exists()


def test_what_was_cut_goes_on_from_its_checkpoint(cfg, tmp_path):
    cfg.rows, cfg.seeds, cfg.minutes = ["slow", "a"], [0], 1.5 / 60
    protocol.work(cfg)
    assert not (tmp_path / "results").exists()  # the time was over before row a
    cfg.minutes = None
    protocol.work(cfg)
    assert sorted(path.name for path in (tmp_path / "results/p/seed0").iterdir()) == ["a", "slow"]
    first, second = calls(cfg, "slow")
    assert "resume=" not in first
    assert "/slow/checkpoints/last.ckpt'" in second.partition("resume=")[2]


def test_a_row_that_fails_is_named_and_the_others_are_run(cfg, tmp_path):
    cfg.rows, cfg.seeds = ["broken", "a"], [0]
    with pytest.raises(RuntimeError, match=r"got failures in broken, seed 0: see"):
        protocol.work(cfg)
    assert [path.name for path in (tmp_path / "results/p/seed0").iterdir()] == ["a"]


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stop_leaves_a_checkpoint_and_begins_no_other_row(cfg, tmp_path, stop):
    """Rows had gone on, one after the other, in threads that the exit waited for."""
    before = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGTERM, signal.SIGHUP)}
    cfg.rows, cfg.seeds = ["slow", "a"], [0]
    run = tmp_path / "logs/evidence/p/seed0/slow"

    def wait_and_stop():
        while not (run / "calls.txt").is_file():
            time.sleep(0.01)
        time.sleep(0.2)  # until it listens for signals
        os.kill(os.getpid(), stop)

    threading.Thread(target=wait_and_stop).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            protocol.work(cfg)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert (run / "checkpoints/last.ckpt").read_text() == "half"
    assert not (run.parent / "a").exists()


def test_what_nobody_expects_of_a_row_is_no_success(cfg, monkeypatch):
    """It had been printed by its thread, and the exit status was 0."""
    monkeypatch.setattr(protocol, "_trained", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        protocol.work(cfg)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("rows", ["a", "c"], "Expected rows among a, b, slow, broken, got c"),
        ("devices", 0, "Expected devices to be auto or a number from 1 to"),
        ("data_root", "/nowhere", "Expected the photographs' folder in data_root, got /nowhere"),
        ("gather", "/nowhere.tar", "Expected a folder or a .tar in gather, got /nowhere.tar"),
    ],
)
def test_settings_that_cannot_work_are_refused(cfg, key, value, message):
    cfg[key] = value
    with pytest.raises(ConfigError, match=message):
        protocol.work(cfg)


def test_a_bundle_runs_where_it_is_unpacked_and_its_rows_come_back(cfg, tmp_path):
    (tmp_path / "photos it's/list.txt").write_text("one")
    cfg.pack = str(tmp_path / "bundle.tar")
    protocol.work(cfg)
    away = tmp_path / "away"
    with tarfile.open(cfg.pack) as archive:
        archive.extractall(away, filter="data")
    assert (away / "data/list.txt").read_text() == "one"
    assert (away / "src/mtmamba/runs/bundle.py").is_file()
    assert (away / "REVISION").read_text() == (bundle.git_revision() or "")
    command = [sys.executable, away / "src/evidence.py", "data_root=data", "rows=[nothing]"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=away, env={"PYTHONPATH": "src"})
    assert "Expected rows among single_semseg" in done.stderr + done.stdout
    row = away / "results/lite2_4k/seed7/g0"
    row.mkdir(parents=True)
    for name in protocol.RESULT:
        (row / name).write_text("{}")
    (away / "results/lite2_4k/seed7/g1").mkdir()  # trained, not evaluated
    (away / "results/lite2_4k/seed7/g1/training.csv").write_text("")
    results = tmp_path / "back"
    assert "lite2_4k/seed7/g0" in bundle.gather(away / "results", results)
    assert not (results / "lite2_4k/seed7/g1").exists()
    with tarfile.open(tmp_path / "back.tar", "w") as archive:
        archive.add(away / "results", "results")
    assert bundle.gather(tmp_path / "back.tar", results) == []  # known already


def test_an_archive_that_climbs_out_is_refused(tmp_path):
    with tarfile.open(tmp_path / "bad.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("../out/seed0/a/metrics.json"))
    with pytest.raises(ConfigError, match=r"Expected a folder or a \.tar in gather"):
        bundle.gather(tmp_path / "bad.tar", tmp_path / "results")


@pytest.mark.parametrize(
    "path", sorted((protocol.SCRIPTS.parent / "configs/protocol").glob("*.yaml")), ids=lambda path: path.stem
)
def test_every_row_of_a_protocol_is_a_configuration(path):
    cfg = OmegaConf.load(path)
    assert cfg.name == path.stem
    for overrides in cfg.rows.values():
        load_config([*cfg.train, *overrides.split(), "seed=3"])


def test_a_revision_written_by_hand_may_end_with_a_line(tmp_path, monkeypatch):
    monkeypatch.setattr(bundle, "REPOSITORY", tmp_path)
    assert bundle.packed_revision() is None
    (tmp_path / "REVISION").write_text("6aa279b\n")
    assert bundle.packed_revision() == "6aa279b"
