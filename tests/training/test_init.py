"""Training that begins from another model's weights."""

import json

import cv2
import numpy as np
import pytest
import torch

from fake_data import write_nyud
from fake_training import rows, run
from mtmamba.checkpoints import CheckpointError, read_checkpoint
from mtmamba.sharing import read_model, save_pretrained
from mtmamba.tasks.panels import GAP, TITLE_HEIGHT


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_nyud(tmp_path_factory.mktemp("data") / "NYUDv2", train=10, val=3, size=(32, 48))


@pytest.fixture(scope="module")
def first(dataset, tmp_path_factory):
    """A run from nothing: its folder and its record."""
    run_dir = tmp_path_factory.mktemp("logs") / "first"
    return run_dir, run(dataset, run_dir, "decoder=stm1", "trainer.max_steps=2")


def test_a_run_begins_from_the_weights_and_shows_what_they_were_worth(dataset, first, tmp_path):
    one_step = [f"init={first[0]}", "decoder=stm1", "seed=1", "optimizer.lr=1e-9", "optimizer.weight_decay=0"]
    one_step += ["trainer.max_steps=1"]
    record = run(dataset, tmp_path / "second", *one_step)
    assert record["start"]["model"] == str(first[0])
    for task, scores in record["start"]["tasks"].items():
        before, after = ({name: found["tasks"][task][name] for name in scores} for found in (first[1], record))
        assert scores == pytest.approx(before, rel=1e-5)
        assert scores == pytest.approx(after, rel=1e-3)
    assert json.loads((tmp_path / "second/metrics.json").read_text())["start"] == record["start"]
    found = {path.name for path in (tmp_path / "second/pictures").iterdir()}
    assert found == {"start.png", "step_000001.png", "best.png", "before_and_after.png"}
    both = cv2.imread(str(tmp_path / "second/pictures/before_and_after.png"))
    below = both[TITLE_HEIGHT + 3 * 3 * (128 + GAP) :]  # three images of 32x64, in columns 256 wide
    assert len(np.unique(below.reshape(-1, 3), axis=0)) > 50  # the keys: depth's bar alone has as many colours
    assert {row["step"] for row in rows(tmp_path / "second")} == {"0", "1"}  # the score before is no row of the curve

    released = save_pretrained(tmp_path / "second", tmp_path / "released")
    assert "init" not in read_model(released)[0]["mtmamba"]["values"]


def test_going_on_keeps_its_own_weights_and_the_first_scores(dataset, first, tmp_path):
    settings = [f"init={first[0]}", "decoder=stm1", "trainer.val_check_interval=10", "optimizer.schedule=null"]
    whole = run(dataset, tmp_path / "whole", *settings, "trainer.max_steps=3")
    run(dataset, tmp_path / "cut", *settings, "trainer.max_steps=2")
    again = run(dataset, tmp_path / "unused", *settings, "trainer.max_steps=3", f"resume={tmp_path}/cut")
    assert again["start"] == whole["start"]
    mine, its = (read_checkpoint(tmp_path / name / "checkpoints/last.ckpt")["state_dict"] for name in ("cut", "whole"))
    assert mine.keys() == its.keys()
    assert all(torch.equal(mine[name], its[name]) for name in mine)


def test_weights_of_another_network_are_refused(dataset, first, tmp_path, caplog):
    with pytest.raises(CheckpointError, match=r"best.ckpt, got encoder\.embed_dim=24 instead of 12: choose as there"):
        run(
            dataset,
            tmp_path / "other",
            f"init={first[0]}",
            "decoder=stm1",
            "encoder.embed_dim=24",
            "encoder.drop_path=0.3",
        )
    with pytest.raises(CheckpointError, match="got decoder=stm2 instead of stm1: choose as there"):
        run(dataset, tmp_path / "other_decoder", f"init={first[0]}", "decoder=stm2", "optimizer=demo")
    assert "got optimizer=demo, which suit minutes on synthetic scenes" in caplog.text
    with pytest.raises(FileNotFoundError, match="Expected a checkpoint, or a run's folder"):
        run(dataset, tmp_path / "none", "init=nowhere")
