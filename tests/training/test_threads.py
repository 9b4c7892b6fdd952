"""A run computes with one number of threads, whoever starts its processes and wherever it goes on."""

import os

import pytest
import torch

import toy_network  # noqa: F401 - registers encoder=toy
from fake_data import write_nyud
from fake_training import run
from mtmamba.checkpoints import read_checkpoint
from mtmamba.training.lit_module import MultiTaskModule
from mtmamba.training.threads import VARIABLE, settle_threads, threads_of_its_own


@pytest.fixture
def begin(monkeypatch):
    """Stand as a process does that was begun with so many threads, and with these variables."""
    before = torch.get_num_threads()

    def as_begun(threads, **variables):
        torch.set_num_threads(threads)
        for name in (VARIABLE, "SLURM_CPUS_PER_TASK"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    yield as_begun
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("devices", "threads", "variables", "resumed", "settled"),
    [
        (1, 8, {}, None, 8),
        (2, 8, {}, None, 4),
        (3, 2, {}, None, 1),
        (2, 8, {"SLURM_CPUS_PER_TASK": "6"}, None, 6),
        (2, 3, {VARIABLE: "3"}, None, 3),  # Lightning's other process, torchrun's, or the user's choice
        (1, 8, {}, {"threads": 2}, 2),
        (2, 3, {VARIABLE: "3"}, {"threads": 2}, 2),
        (2, 8, {}, {"global_step": 5}, 4),  # a checkpoint of an earlier version
    ],
)
def test_threads_are_shared_out_and_kept(begin, devices, threads, variables, resumed, settled):
    begin(threads, **variables)
    with threads_of_its_own():
        settle_threads(devices, resumed)
        assert (torch.get_num_threads(), os.environ[VARIABLE]) == (settled, str(settled))
    assert (torch.get_num_threads(), os.environ.get(VARIABLE)) == (threads, variables.get(VARIABLE))


def test_a_run_that_goes_on_with_other_threads_ends_with_the_same_bits(begin, tmp_path, monkeypatch):
    dataset = write_nyud(tmp_path / "NYUDv2", train=10, val=3, size=(32, 48))
    options = ["encoder=toy", "decoder=toy", "tasks=[depth]", "optimizer.schedule=null", "pictures=0"]
    found, original = [], MultiTaskModule.training_step

    def noted(self, batch, batch_idx):
        found.append(torch.get_num_threads())
        return original(self, batch, batch_idx)

    monkeypatch.setattr(MultiTaskModule, "training_step", noted)
    begin(2)
    whole = run(dataset, tmp_path / "whole", *options, "trainer.max_steps=4")
    run(dataset, tmp_path / "parts", *options, "trainer.max_steps=2")
    begin(1, **{VARIABLE: "1"})
    resume = f"resume={tmp_path}/parts"
    parts = run(dataset, tmp_path / "parts", *options, "trainer.max_steps=4", resume)
    assert found == [2] * 8
    ours, theirs = (read_checkpoint(tmp_path / name / "checkpoints/last.ckpt") for name in ("parts", "whole"))
    assert all(torch.equal(x, theirs["state_dict"][name]) for name, x in ours["state_dict"].items())
    assert parts["tasks"] == whole["tasks"]
    assert torch.get_num_threads() == 1
