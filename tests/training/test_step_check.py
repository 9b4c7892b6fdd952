"""What one process finds wrong with a step ends all processes in one sentence, and costs them one question a step."""

import json
import os
from pathlib import Path

import pytest
import torch
from hydra.core.config_store import ConfigStore
from lightning.fabric.plugins.environments.lightning import find_free_network_port
from lightning.pytorch.strategies import SingleDeviceStrategy
from lightning.pytorch.utilities import rank_zero_only

import fake_training
from fake_data import write_nyud
from mtmamba.checkpoints import read_checkpoint
from mtmamba.config.checks import ConfigError
from mtmamba.training.lit_module import MultiTaskModule
from mtmamba.training.step_check import FIND_UNUSED
from mtmamba.training.watched_losses import NonFiniteLossError
from toy_network import ToyDecoder


class LoneDecoder(ToyDecoder):
    """Depth has a branch, which a process of ``lone`` rank uses in the first forward pass alone."""

    def __init__(self, channels, num_outputs, lone):
        super().__init__(channels, num_outputs)
        self.branch, self.lone, self.passes = torch.nn.Linear(channels[0], 1), lone, 0

    def forward(self, features):
        logits, every = super().forward(features), sum(x.mean() for x in features)
        self.passes += self.training
        if os.environ["RANK"] != str(self.lone) or self.passes == 1:
            every = every + self.branch(features[0]).mean()
        return logits | {"depth": logits["depth"] + every}


STORE = ConfigStore.instance()
STORE.store("toy_lone", {"_target_": f"{__name__}.LoneDecoder", "_partial_": True, "lone": None}, group="decoder")
TOY = ["encoder=toy", "decoder=toy", "pictures=0", "trainer.val_check_interval=9"]
BROKEN = {
    "whole": ["data.device_batch_size=2"],
    "micro": ["data.device_batch_size=1"],
    "balanced": ["data.device_batch_size=2", "loss=weighted", "balancing=upgrad"],
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_nyud(tmp_path_factory.mktemp("data") / "NYUDv2", train=10, val=2, size=(32, 48))


def noted(patch, owner, name):
    """Return a list of a function's calls from now on."""
    calls, original = [], getattr(owner, name)

    def call(*args, **kwargs):
        calls.append(name)
        return original(*args, **kwargs)

    patch.setattr(owner, name, call)
    return calls


def break_losses(patch, on_rank):
    """In the second step of each run one image's loss is infinite, in the first micro-batch of a process."""
    losses, broken = MultiTaskModule.task_losses, []

    def task_losses(self, logits, batch):
        found = losses(self, logits, batch)
        if not self.training or self.global_step != 1 or self.global_rank != on_rank or self in broken:
            return found
        broken.append(self)
        return found | {"depth": found["depth"] / torch.arange(len(batch["id"]))}

    patch.setattr(MultiTaskModule, "task_losses", task_losses)


@pytest.mark.parametrize("micro", [4, 1])
def test_a_step_asks_once_however_many_micro_batches_it_has(dataset, tmp_path, monkeypatch, micro):
    """And once whether to stop, as the validation in the end does."""
    asked = noted(monkeypatch, SingleDeviceStrategy, "reduce_boolean_decision")
    fake_training.run(dataset, tmp_path / "run", *TOY, "trainer.max_steps=3", f"data.device_batch_size={micro}")
    assert len(asked) == 2 * 3 + 1


def test_a_loss_of_an_early_micro_batch_ends_the_run_before_the_step(dataset, tmp_path, monkeypatch):
    break_losses(monkeypatch, 0)
    with pytest.raises(NonFiniteLossError, match=r"for depth at step 1 on images \d{4}: look"):
        fake_training.run(dataset, tmp_path / "run", *TOY, "data.device_batch_size=1")
    assert read_checkpoint(tmp_path / "run/checkpoints/last.ckpt")["global_step"] == 1


def trained(rank, port, dataset, folder):
    """Runs in one of two processes as a launcher starts them."""
    os.environ |= {"LOCAL_RANK": str(rank), "RANK": str(rank), "WORLD_SIZE": "2", "MASTER_PORT": str(port)}
    rank_zero_only.rank = rank  # which it had read as it was imported

    def run(name, strategy, *options):
        two = ["trainer.devices=2", f"trainer.strategy={strategy}", "callbacks.checkpoint_every=1"]
        fake_training.run(dataset, folder / name, *TOY, *two, *options)

    counts = []
    with pytest.MonkeyPatch.context() as patch:
        reduced = noted(patch, torch.distributed, "all_reduce")  # from Python: DDP's own of gradients is not
        for steps in (2, 3):
            before = len(reduced)
            run(f"sound_{steps}", "ddp", "decoder=toy_lone", "data.device_batch_size=1", f"trainer.max_steps={steps}")
            counts.append(len(reduced) - before)
    assert counts[1] - counts[0] == 2  # of a step of two micro-batches: what was found, and whether to stop

    for micro, step in ((2, 1), (1, 0)):
        expected = rf"got 2 without one at step {step}, such as model\.decoder\.branch\.bias: set trainer\.strategy="
        with pytest.raises(ConfigError, match=expected):
            run(f"lone_{micro}", "ddp", "decoder=toy_lone", "decoder.lone=1", f"data.device_batch_size={micro}")

    said = []
    with pytest.MonkeyPatch.context() as patch:
        break_losses(patch, 1)
        for name, options in BROKEN.items():
            with pytest.raises(NonFiniteLossError, match=r"for depth at step 1 on images \d{4}: look") as caught:
                run(name, FIND_UNUSED, *options)
            said.append(str(caught.value))
    (folder / f"said{rank}").write_text("\n".join(said))


@pytest.mark.slow
def test_two_processes_ask_one_another_once_a_step_and_end_together(dataset, tmp_path: Path):
    torch.multiprocessing.spawn(trained, (find_free_network_port(), dataset, tmp_path), nprocs=2)
    assert [path.name for path in tmp_path.glob("lone_*/checkpoints/*")] == ["last.ckpt"]
    first, second = ((tmp_path / f"said{rank}").read_text().splitlines() for rank in (0, 1))
    assert first == second
    for name, line in zip(BROKEN, first, strict=True):
        found = json.loads((tmp_path / name / "nonfinite_batch.json").read_text())
        assert (found["step"], found["tasks"]) == (1, ["depth"])
        assert f"on images {', '.join(found['images'])}:" in line
