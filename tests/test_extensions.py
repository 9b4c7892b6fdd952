"""What people add by a file of their own: docs/extending.md as it stands there, trained, evaluated and loaded again."""

import csv
import json
import multiprocessing
import os
import re
import runpy
import shlex
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import fake_data
import mtmamba
from mtmamba.config.checks import ConfigError
from mtmamba.data.datasets import get_dataset
from mtmamba.extensions import load_extensions

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/extending.md").read_text(encoding="utf-8")
TITLE, *SECTIONS = re.split(r"^## ", PAGE, flags=re.M)
EXAMPLES = {section.partition("\n")[0]: section for section in SECTIONS}
SIZE = (32, 48)

SMALL = {
    "train.py": {
        "data": "nyud", "data.root": "nyud", "data.crop_size": "[32,64]", "data.batch_size": "1",
        "data.num_workers": "0", "encoder": "swin_micro", "decoder": "fcn", "trainer": "demo",
        "trainer.max_steps": "2", "trainer.val_check_interval": "2", "trainer.log_every_n_steps": "1",
        "logger": "csv", "baseline": "false", "pictures": "0",
    },
    "eval.py": {
        "boundaries": "null", "bootstrap.resamples": "0", "save_predictions": "true", "pictures": "0", "worst": "0",
        "data.num_workers": "0",
    },
    "model_stats.py": {},
    "report.py": {"out": "report"},
}  # fmt: skip
"""Settings for those that a command leaves open."""


@pytest.fixture(scope="module")
def fresh_processes():
    """New processes that know nothing of this one's extensions; what they all import is imported once."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["mtmamba.training.train", "mtmamba.evaluation.checkpoint", "wandb"])
    return processes


def called(folder, script, arguments):
    """Run a script as its command line would."""
    os.chdir(folder)
    with open("output.txt", "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = [script, *arguments]
    runpy.run_path(str(ROOT / "src" / script), run_name="__main__")


@pytest.fixture
def run(fresh_processes, tmp_path, monkeypatch):
    """Call ``run(script, arguments, fails=False)`` in a new process, in the example's folder: what it printed."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests")]))

    def call(script, arguments, *, fails=False):
        process = fresh_processes.Process(target=called, args=(tmp_path, script, arguments))
        process.start()
        process.join()
        printed = (tmp_path / "output.txt").read_text()
        assert bool(process.exitcode) is fails, printed[-3000:]
        return printed

    return call


def example(title):
    """Return an example's files by path, and its commands: script and arguments."""
    blocks = re.findall(r"^```(\w+)\n(.*?)^```", EXAMPLES[title], re.M | re.S)
    files = {re.match(r"# (\S+)\n", text)[1]: text for kind, text in blocks if kind in ("python", "yaml")}
    lines = [shlex.split(line) for kind, text in blocks if kind == "bash" for line in text.splitlines()]
    assert all(line[0] == "python" and line[1].startswith("src/") for line in lines)
    return files, [(line[1].removeprefix("src/"), line[2:]) for line in lines]


def write_targets(root):
    """What the examples of a task and of a dataset read, in their layouts: 4 images to train on and 2 others."""
    rng = np.random.default_rng(0)
    names = [f"room_{i}" for i in range(6)]
    for lists in (root / "rooms", root / "data/stereo/lists"):
        fake_data.write_list(lists / "train.txt", names[:4])
        fake_data.write_list(lists / "val.txt", names[4:])
    (root / "data/stereo/labels").mkdir()
    for name in names:
        for image in (f"rooms/images/{name}.png", f"rooms/albedo/{name}.png", f"data/stereo/left/{name}.png"):
            fake_data.write_png(root / image, rng.integers(0, 255, (*SIZE, 3), dtype=np.uint8))
        fake_data.write_png(root / f"rooms/depth/{name}.png", rng.integers(1, 9000, SIZE, dtype=np.uint16))
        disparity = rng.integers(0, 60, SIZE).astype(np.float32)
        classes = rng.choice(np.array([0, 1, 2, 255], np.uint8), SIZE)
        np.savez(root / f"data/stereo/labels/{name}.npz", classes=classes, disparity=disparity)


def write(files, folder):
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)


@pytest.mark.parametrize("title", EXAMPLES)
def test_an_example_is_trained_evaluated_and_loaded_in_a_new_process(title, tmp_path, run):
    files, commands = example(title)
    assert sum(len(text.splitlines()) for text in files.values()) < 60
    write(files, tmp_path)
    fake_data.write_nyud(tmp_path / "nyud", train=4, val=2, size=SIZE)
    write_targets(tmp_path)
    printed = {}
    for script, arguments in commands:
        words = [word.replace("RUN", "runs/train.py") for word in arguments]
        given = {word.partition("=")[0] for word in words}
        more = {**SMALL[script], "hydra.run.dir": f"runs/{script}"}
        if "data" in given:
            del more["data.root"]
        if "encoder" in given:
            more["encoder.pretrained"] = "false"
        if script in ("train.py", "eval.py"):
            more |= {"trainer.accelerator": "cpu", "cache_dir": "cache", "log_dir": "logs"}
        printed[script] = run(script, [*words, *(f"{key}={x}" for key, x in more.items() if key not in given)])
    trained, evaluated = (tmp_path / f"runs/{script}/metrics.json" for script in ("train.py", "eval.py"))
    trained, evaluated = json.loads(trained.read_text()), json.loads(evaluated.read_text())
    for task, scores in trained["tasks"].items():
        numbers = {name: value for name, value in scores.items() if isinstance(value, float)}
        assert numbers
        assert {name: evaluated["tasks"][task][name] for name in numbers} == pytest.approx(numbers, rel=1e-4)
    CHECKS[title](tmp_path, evaluated, printed)


def saved(folder, task):
    return np.stack([np.load(folder / f"runs/eval.py/predictions/{task}/room_{i}.npy") for i in (4, 5)])


def read_log(folder):
    with (folder / "runs/train.py/metrics.csv").open() as file:
        return [row for row in csv.DictReader(file) if row["train/loss"]]


def last_checkpoint(folder):
    return torch.load(folder / "runs/train.py/checkpoints/last.ckpt", weights_only=True)


def task_scores_are_those_of_its_files(folder, record, printed):
    files = [cv2.imread(str(folder / f"rooms/albedo/room_{i}.png"))[..., ::-1] for i in (4, 5)]
    truth = np.stack(files).transpose(0, 3, 1, 2) / 255
    wanted = np.sqrt(np.square(saved(folder, "albedo") - truth).mean())
    assert record["tasks"]["albedo"]["RMSE"] == pytest.approx(wanted, rel=1e-4)
    assert record["tasks"].keys() == {"albedo", "depth"}
    assert re.search(r"albedo\W+RMSE", (folder / "report/report.md").read_text())


def dataset_scores_are_those_of_its_files(folder, record, printed):
    files = [np.load(folder / f"data/stereo/labels/room_{i}.npz")["disparity"] for i in (4, 5)]
    disparity = np.stack(files)
    errors = saved(folder, "depth")[disparity > 0] - 60 / disparity[disparity > 0]
    assert record["tasks"]["depth"]["RMSE"] == pytest.approx(np.sqrt(np.square(errors).mean()), rel=1e-3)
    assert record["classes"]["semseg"].keys() == {"floor", "wall", "furniture"}


def decoder_is_counted(folder, record, printed):
    width, channels, outputs = 64, (12, 24, 48, 96), 40 + 1 + 3 + 1
    heads = (width + 1) * outputs
    pyramid = sum((c + 1) * width for c in channels) + width * (9 * width + 1) + 2 * width
    lines = [line.split("│") for line in printed["model_stats.py"].splitlines() if "│" in line]
    rows = {cells[1].strip(): " ".join(cells) for cells in lines}
    for name, number in {"pyramid": pyramid, "heads": heads}.items():
        assert f"{number:,}" in rows[name]


def encoder_is_frozen(folder, record, printed):
    checkpoint = last_checkpoint(folder)
    trained = sum(len(group["params"]) for group in checkpoint["optimizer_states"][0]["param_groups"])
    frozen = [name for name in checkpoint["state_dict"] if name.startswith("model.encoder.vit.")]
    assert len(frozen) > 100
    parameters = [
        name for name in checkpoint["state_dict"]
        if name.startswith("model.") and not name.endswith(("running_mean", "running_var", "num_batches_tracked"))
    ]  # fmt: skip
    assert trained == len(parameters) - len(frozen)


def loss_is_a_geometric_mean(folder, record, printed):
    for row in read_log(folder):
        losses = [float(row[f"train/{task}/loss"]) for task in ("semseg", "depth", "normals", "edge")]
        assert float(row["train/loss"]) == pytest.approx(np.prod(losses) ** (1 / 4), rel=1e-3)


def schedule_is_one_cycle(folder, record, printed):
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-3, total_steps=2)
    optimizer.step()
    rates = [schedule.get_last_lr()[0]]
    schedule.step()
    rates.append(schedule.get_last_lr()[0])
    assert [float(row["optimizer/lr"]) for row in read_log(folder)] == pytest.approx(rates)


def norms_are_logged(folder, record, printed):
    assert all(float(row[f"gradients/{part}"]) > 0 for row in read_log(folder) for part in ("encoder", "decoder"))


CHECKS = {
    "A task": task_scores_are_those_of_its_files,
    "A dataset in Python": dataset_scores_are_those_of_its_files,
    "A decoder": decoder_is_counted,
    "An encoder": encoder_is_frozen,
    "A loss": loss_is_a_geometric_mean,
    "An optimiser and its schedule": schedule_is_one_cycle,
    "A callback": norms_are_logged,
}


def test_a_network_of_ones_own_is_given_away_and_loaded_from_python(tmp_path):
    write(example("A decoder")[0], tmp_path)
    mine = {"config_dir": tmp_path / "mine"}
    extensions = [f"{tmp_path}/mine/fpn.py"]
    cfg = mtmamba.load_config(["decoder=fpn", f"extensions=[{extensions[0]}]"], **mine)
    model, images = mtmamba.build_model(cfg).eval(), torch.rand(1, 3, 32, 64)
    mtmamba.save_pretrained(model, tmp_path / "given")
    again = mtmamba.load_model(tmp_path / "given", extensions=extensions, **mine)
    sys.modules.pop("fpn")
    assert type(again.decoder).__name__ == "FPN"
    assert all(torch.equal(x, again(images)[task]) for task, x in model(images).items())


def test_what_was_not_given_is_named(tmp_path, run):
    write(example("A decoder")[0], tmp_path)
    printed = run("train.py", ["decoder=fpn"], fails=True)
    assert "or one of yours in --config-dir DIR, got fpn" in printed
    printed = run("train.py", ["--config-dir", "mine", "decoder=fpn", "trainer.accelerator=cpu"], fails=True)
    assert "Expected fpn.FPN to be importable, got no such name: give its file with extensions=[FILE.py]" in printed
    with pytest.raises(ValueError, match=r"among semseg, .* in extensions=\[FILE\.py\]"):
        mtmamba.load_config(["tasks=[albedo]"])
    with pytest.raises(ValueError, match=r"a dataset out of .* in extensions=\[FILE\.py\]"):
        get_dataset("stereo")


def test_a_file_that_cannot_be_an_extension_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"Python file in extensions, got .*nothing\.py"):
        mtmamba.load_config([f"extensions=[{tmp_path}/nothing.py]"])
    for given in ("nothing.py", [None], [tmp_path / "__main__.py"]):
        (tmp_path / "__main__.py").touch()
        with pytest.raises(ConfigError, match=r"Python file in extensions, got .*(nothing|None|__main__)"):
            load_extensions(given)
    for name in ("colorsys", "torch"):
        (tmp_path / f"{name}.py").touch()
        with pytest.raises(ConfigError, match=rf"names of their own, got .*{name}\.py beside .*: rename it"):
            load_extensions([tmp_path / f"{name}.py"])


def test_an_extension_is_imported_once_and_may_be_mended_after_an_error(tmp_path):
    file = tmp_path / "once_more.py"
    for text, words in [
        ("\n1 / 0", r"ZeroDivisionError: division by zero \(line 2\)"),
        ("def (", r"SyntaxError: invalid syntax \(once_more.py, line 1\)"),
        ("import sys\nsys.exit(3)", r"SystemExit: 3 \(line 2\)"),
        ("import no_such_thing", r"ModuleNotFoundError: No module named 'no_such_thing' \(line 1\)"),
    ]:
        file.write_text(text)
        with pytest.raises(ConfigError, match=rf"once_more\.py to be imported without an error, got {words}: mend it"):
            load_extensions([file])
    file.write_text("values = []")
    load_extensions([file, str(file)])
    first = sys.modules["once_more"].values
    load_extensions([file])
    assert sys.modules.pop("once_more").values is first
