"""A task and a dataset of one's own, by one file and no change of the package: trained and evaluated end to end."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fake_data
import mtmamba
from mtmamba.config_checks import ConfigError

ROOT = Path(__file__).parents[1]

EXTENSION = """
import numpy as np

from mtmamba.data.datasets import DatasetRecord, from_file
from mtmamba.data.datasets import register as register_dataset
from mtmamba.data.datasets.nyud import DATASET as NYUD
from mtmamba.data.layouts import Layout
from mtmamba.data.readers import read_depth
from mtmamba.metrics import DepthError
from mtmamba.tasks import Task, register
from mtmamba.types import IGNORE


def l1(logits, target):
    valid = (target != IGNORE).float()
    return ((logits.float() - target).abs() * valid).sum((1, 2, 3)) / valid.sum((1, 2, 3)).clamp(min=1)


class AlbedoError(DepthError):
    def statistics(self, prediction, target):
        valid = target != IGNORE
        squares = (prediction.double() - target).square() * valid
        return {"squares": squares.sum((1, 2, 3)), "count": valid.sum((1, 2, 3))}


register(
    Task(
        name="albedo", title="Albedo", loss=l1, activate=lambda x: x.float().sigmoid(), metric=lambda _: AlbedoError(),
        headline="RMSE", units={"RMSE": ""}, lower_is_better=frozenset({"RMSE"}), channels=3,
    )
)
tasks = {"semseg": NYUD.layout.tasks["semseg"], "depth": NYUD.layout.tasks["depth"], "albedo": (("albedo/{id}.npy",),)}
register_dataset(
    DatasetRecord(
        name="my_rooms",
        layout=Layout("gt_sets", "images/{id}.png", tasks),
        readers={
            "semseg": NYUD.readers["semseg"],
            "depth": from_file(read_depth),
            "albedo": from_file(np.load),
        },
    )
)
"""


def run(script, *overrides):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, ROOT / "src" / script, *overrides],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_a_task_and_a_dataset_of_ones_own_are_trained_and_evaluated(tmp_path):
    data = fake_data.write_nyud(tmp_path / "rooms", train=4, val=2, size=(32, 48))
    (data / "albedo").mkdir()
    for index in range(1, 7):
        np.save(data / f"albedo/{index:04d}.npy", np.random.default_rng(index).random((32, 48, 3), np.float32))
    (tmp_path / "mine.py").write_text(EXTENSION)
    mine = [f"extensions=[{tmp_path}/mine.py]", f"cache_dir={tmp_path}/cache", "trainer.accelerator=cpu"]
    dataset = [
        "data=nyud", "data.dataset=my_rooms", "data.tasks=[semseg,depth,albedo]", "+data.num_outputs.albedo=3",
        f"data.root={data}", "data.crop_size=[32,64]", "data.num_workers=0", "data.batch_size=2",
        "data.delta_m_base={}",
    ]  # fmt: skip
    trained, evaluated = tmp_path / "run", tmp_path / "scores"
    run("train.py", *mine, *dataset, "trainer.max_steps=2", "logger=csv", f"hydra.run.dir={trained}")
    run("eval.py", *mine, f"ckpt={trained}", "save_predictions=true", "baseline=true", f"hydra.run.dir={evaluated}")

    for folder in (trained, evaluated):
        record = json.loads((folder / "metrics.json").read_text())
        assert record["tasks"].keys() == {"semseg", "depth", "albedo"}
        assert 0 < record["tasks"]["albedo"]["RMSE"] < 1
        assert record["constant"].keys() == {"semseg", "depth"}  # the task of ours says nothing of a constant
        assert (folder / "pictures/best.png").is_file()
    assert record["classes"]["semseg"].keys() == {str(i) for i in range(40)}  # numbers, for want of names
    saved = np.load(evaluated / "predictions/albedo/0005.npy")
    assert saved.shape == (3, 32, 48)
    truth = np.stack([np.load(data / f"albedo/{name}.npy") for name in ("0005", "0006")])
    found = np.stack([np.load(evaluated / f"predictions/albedo/{name}.npy") for name in ("0005", "0006")])
    wanted = np.sqrt(np.square(found.transpose(0, 2, 3, 1) - truth).mean())
    assert record["tasks"]["albedo"]["RMSE"] == pytest.approx(wanted, rel=1e-5)


def test_a_missing_extension_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"Python file in extensions, got .*nothing\.py"):
        mtmamba.load_config([f"extensions=[{tmp_path}/nothing.py]"])
