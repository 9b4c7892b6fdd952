"""A checkpoint that revision ab2e2fa wrote after 4 of 6 steps: it evaluates and goes on as it did there.

``final.safetensors`` holds the weights that the same revision ended with.
"""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import mtmamba
from fake_data import write_nyud
from mtmamba.checkpoints import read_checkpoint
from mtmamba.evaluation.checkpoint import evaluate
from mtmamba.training.train import train

FIXTURE = Path(__file__).parents[1] / "fixtures/run_ab2e2fa"
OPTIONS = """
    data=nyud data.crop_size=[32,64] data.batch_size=2 data.val_batch_size=2 data.num_workers=0 logger=csv
    optimizer=paper optimizer.lr=0.01 trainer.accelerator=cpu trainer.max_steps=6 trainer.val_check_interval=3
    baseline=false pictures=0 tasks=[depth] decoder=stm1 encoder.embed_dim=4 encoder.num_heads=[1,1,1,1]
    encoder.drop_path=0.2 backend=torch
""".split()  # noqa: SIM905 - a line each would hide the rest


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_nyud(tmp_path_factory.mktemp("data") / "NYUDv2", train=6, val=2, size=(32, 48))


def test_it_has_the_same_score(dataset, tmp_path):
    options = [f"ckpt={FIXTURE}/checkpoints/last.ckpt", f"data.root={dataset}", f"cache_dir={tmp_path}/cache"]
    options += ["trainer.accelerator=cpu", "bootstrap.resamples=0", "worst=0", "pictures=0"]
    record = evaluate(mtmamba.load_config(options, "eval"), tmp_path / "evaluation")
    assert record["tasks"]["depth"]["RMSE"] == pytest.approx(5.547635857528757, rel=1e-6)
    assert record["step"] == 4


def test_it_goes_on_to_the_same_weights(dataset, tmp_path):
    run_dir = tmp_path / "run"
    shutil.copytree(FIXTURE, run_dir)
    options = [*OPTIONS, f"data.root={dataset}", f"log_dir={tmp_path}", f"cache_dir={tmp_path}/cache"]
    record = train(mtmamba.load_config([*options, f"resume={run_dir}"]), tmp_path / "new")
    assert record["tasks"]["depth"]["RMSE"] == pytest.approx(5.511376989790577, rel=1e-5)
    ours, theirs = (
        read_checkpoint(run_dir / "checkpoints/last.ckpt")["state_dict"],
        load_file(FIXTURE / "final.safetensors"),
    )
    assert ours.keys() == theirs.keys()
    for name, x in theirs.items():
        torch.testing.assert_close(ours[name], x, rtol=1e-4, atol=1e-6)
