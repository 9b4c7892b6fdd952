"""The scripts as people call them: fresh processes on a tiny dataset and a checkpoint of a micro model."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import forked
import mtmamba
from fake_data import write_nyud
from mtmamba import build
from mtmamba.config import compose

ROOT = Path(__file__).parents[1]


def call(script: str, *arguments: str, cwd: Path) -> str:
    """Run a script in another working directory; return what it printed."""
    command = [sys.executable, str(ROOT / f"src/{script}.py"), *arguments]
    environment = {**os.environ, "NO_ALBUMENTATIONS_UPDATE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def dataset(folder: Path) -> list[str]:
    """The overrides that choose the dataset."""
    return ["data=nyud", f"data.root={folder}/NYUDv2", "data.crop_size=[32,64]", "data.num_workers=0"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where the dataset and an untrained checkpoint lie."""
    folder = tmp_path_factory.mktemp("scripts")
    write_nyud(folder / "NYUDv2", train=4, val=5, size=(32, 48))
    cfg = mtmamba.load_config([*dataset(folder), "data.val_batch_size=2"])
    torch.manual_seed(0)
    state = build.build_module(cfg).state_dict()
    torch.save({"mtmamba": compose.describe(cfg), "state_dict": state, "global_step": 0}, folder / "tiny.ckpt")
    return folder


def record(path: Path) -> dict:
    return json.loads((path / "metrics.json").read_text())


def test_evaluation_leaves_a_run_folder(folder):
    """The default place, from another working directory."""
    options = [f"log_dir={folder}/logs", f"cache_dir={folder}/cache", "boundaries=null", "bootstrap.resamples=9"]
    printed = call("eval", f"ckpt={folder}/tiny.ckpt", *options, cwd=folder)
    (out,) = (folder / "logs/eval").iterdir()
    assert record(out)["images"] == 5
    assert "95 %" in printed


def test_benchmark_leaves_a_run_folder(folder):
    options = [*dataset(folder), f"log_dir={folder}/logs", f"cache_dir={folder}/cache", "loader.samples=4"]
    status, _, said = forked.call(ROOT / "src/benchmark.py", "what=[loader]", *options, cwd=folder)
    assert status == 0, said
    (out,) = (folder / "logs/benchmark").iterdir()
    assert json.loads((out / "benchmark.json").read_text())["loader"]["samples_per_second"] > 0


@pytest.mark.slow
def test_an_export_lies_beside_its_checkpoint(folder):
    call("export", f"ckpt={folder}/tiny.ckpt", "format=torch_export", cwd=folder)
    assert torch.export.load(folder / "tiny.pt2")


@pytest.mark.slow
def test_saved_predictions_score_the_same(folder):
    """Boundaries matched by several processes, which import the script anew."""
    options = [f"cache_dir={folder}/cache", "boundary_workers=2", "bootstrap.resamples=20"]
    first, second = folder / "first", folder / "second"
    more = ["save_predictions=true", "tta.flip=true", "tta.scales=[0.75,1]", f"hydra.run.dir={first}"]
    call("eval", f"ckpt={folder}/tiny.ckpt", *options, *more, cwd=folder)
    more = [*dataset(folder), f"pred={first}/predictions", f"hydra.run.dir={second}"]
    call("eval_predictions", *options, *more, cwd=folder)
    ours, theirs = record(first)["tasks"], record(second)["tasks"]
    for task, name in (("semseg", "mIoU"), ("depth", "RMSE"), ("edge", "odsF")):
        assert theirs[task][name] == pytest.approx(ours[task][name], rel=1e-12)


@pytest.mark.slow
def test_two_processes_evaluate_as_one(folder):
    """Five images, so that the shares differ; in batches of one, so that predictions are the same to the last bit."""
    options = [
        f"ckpt={folder}/tiny.ckpt",
        f"cache_dir={folder}/cache",
        "save_predictions=true",
        "trainer.accelerator=cpu",
    ]
    options += ["data.val_batch_size=1", "boundary_workers=1", "baseline=true"]
    for devices in (1, 2):
        strategy = "auto" if devices == 1 else "ddp"
        place = f"hydra.run.dir={folder}/devices{devices}"
        call("eval", *options, f"trainer.devices={devices}", f"trainer.strategy={strategy}", place, cwd=folder)
    one, two = (record(folder / f"devices{devices}") for devices in (1, 2))
    for key in ("tasks", "intervals", "classes", "worst", "images", "constant"):
        assert one[key] == two[key]
    files = [path.relative_to(folder / "devices1") for path in (folder / "devices1/predictions").rglob("*.*")]
    assert len(files) == 20
    for file in files:
        assert (folder / "devices1" / file).read_bytes() == (folder / "devices2" / file).read_bytes()


@pytest.mark.slow
def test_two_processes_share_the_check_of_every_image_and_stop_together(tmp_path):
    """One broken image in each share, neither among the samples; the error is said once."""
    root = write_nyud(tmp_path / "NYUDv2", train=20, val=9)
    (root / "images/0002.png").write_bytes((root / "images/0002.png").read_bytes()[:-40])
    (root / "edge/0005.png").write_bytes((root / "edge/0005.png").read_bytes()[:-40])
    options = [*dataset(tmp_path), "data.check=all", "logger=csv", "trainer.accelerator=cpu", "trainer.devices=2"]
    command = [
        sys.executable,
        str(ROOT / "src/train.py"),
        *options,
        "trainer.strategy=ddp",
        f"cache_dir={tmp_path}/cache",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=600)
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert done.returncode == 1
    assert "images/0002.png" in error
    assert "edge/0005.png" in error
    assert not (tmp_path / "logs").exists()
