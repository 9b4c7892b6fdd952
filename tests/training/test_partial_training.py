"""Training on partial labels: each task's gradient is that of the images that have its label."""

import csv
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning import seed_everything

import fake_training
import mtmamba
from fake_data import write_nyud
from mtmamba import build
from mtmamba.benchmarks.network_cases import random_batch
from mtmamba.checkpoints import read_checkpoint
from mtmamba.config.checks import ConfigError
from mtmamba.losses import LogTotal, WeightedTotal
from mtmamba.models.multitask import MultiTaskModel
from mtmamba.tasks import get_task
from mtmamba.training.lit_module import MultiTaskModule
from mtmamba.types import IGNORE
from toy_network import ToyDecoder, ToyEncoder

TRAIN = Path(__file__).parents[2] / "src/train.py"
OUTPUTS = {"semseg": 5, "depth": 1, "normals": 3, "edge": 1}
LABELLED = {"semseg": [1, 1, 1, 1], "depth": [0, 1, 1, 0], "normals": [0, 0, 0, 0], "edge": [0, 1, 0, 0]}
TOTALS = {"log": LogTotal(), "weighted": WeightedTotal({"depth": 2.0, "edge": 50.0})}


def toy_module(total):
    torch.manual_seed(0)
    model = MultiTaskModel(ToyEncoder(4), ToyDecoder([4, 8, 16, 32], OUTPUTS)).double()
    parts = {"optimizer": torch.optim.SGD, "schedule": None, "delta_m_base": {}, "description": {}}
    return MultiTaskModule(model, OUTPUTS, total, **parts)


def toy_batch():
    torch.manual_seed(1)
    batch = random_batch(OUTPUTS, 4, (32, 64), torch.device("cpu"))
    return {name: x.double() if name in ("image", "depth", "normals") else x for name, x in batch.items()}


def gradient(module, loss):
    parameters = list(module.parameters())
    found = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
    return torch.cat([x.flatten() for x in found])


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
@pytest.mark.parametrize("total", TOTALS.values(), ids=TOTALS)
def test_each_tasks_gradient_is_that_of_the_sub_batch_that_has_it(total):
    module, batch = toy_module(total), toy_batch()
    expected = 0
    for task, there in LABELLED.items():
        if images := [i for i, label in enumerate(there) if label]:
            logits, auxiliary = module.outputs(batch["image"][images])
            loss, target = get_task(task).loss, batch[task][images]
            losses = loss(logits[task], target) + loss(auxiliary["coarse"][task], target)
            term = losses.log() if isinstance(total, LogTotal) else total.weights.get(task, 1) * losses
            expected = expected + gradient(module, term.mean())
    labels = {task: torch.tensor(there) * 4 / max(1, sum(there)) for task, there in LABELLED.items()}
    masked = {
        task: batch[task].masked_fill(~batch_mask(batch[task], there), IGNORE) for task, there in LABELLED.items()
    }
    found = gradient(module, module.training_step({**batch, **masked, "labels": labels}, 0))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-12)
    logged = module.latest_losses()
    assert math.isnan(logged.pop("train/normals/loss"))
    assert all(map(math.isfinite, logged.values()))


def batch_mask(target, there):
    return torch.tensor(there, dtype=torch.bool).view(-1, *[1] * (target.ndim - 1))


@pytest.fixture(scope="module")
def complete(tmp_path_factory) -> Path:
    return write_nyud(tmp_path_factory.mktemp("complete") / "NYUDv2", train=10, val=3, size=(32, 48))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    """Half of the depth maps are missing; normals are left to the two images that the first epoch leaves out."""
    root = write_nyud(tmp_path_factory.mktemp("partial") / "NYUDv2", train=10, val=3, size=(32, 48))
    for number in (1, 3, 5, 7, 11):
        (root / f"depth/{number:04d}.npy").unlink()
    for index in np.random.default_rng([0, 0]).permutation(10)[:8]:
        (root / f"normals/{index + 1:04d}.png").unlink()
    return root


TOY = ["encoder=toy", "decoder=toy", "data.partial=true"]


def weights(run_dir):
    return read_checkpoint(run_dir / "checkpoints/last.ckpt")["state_dict"]


def test_complete_labels_give_the_same_bits(complete, tmp_path):
    for partial in ("false", "true"):
        options = [*TOY[:2], f"data.partial={partial}", "trainer.max_steps=3"]
        fake_training.run(complete, tmp_path / partial, *options)
    plain, other = weights(tmp_path / "false"), weights(tmp_path / "true")
    assert all(torch.equal(x, other[name]) for name, x in plain.items())
    assert fake_training.rows(tmp_path / "false") == fake_training.rows(tmp_path / "true")


def test_a_task_that_never_appears_in_an_epoch_is_not_trained_by_it(dataset, tmp_path):
    record = fake_training.run(dataset, tmp_path / "run", *TOY, "trainer.max_steps=2", "optimizer.weight_decay=0")
    with (tmp_path / "run/metrics.csv").open() as file:
        logged = [row for row in csv.DictReader(file) if row["train/loss"]]
    assert [row["train/normals/loss"] for row in logged] == ["nan", "nan"]
    assert all(math.isfinite(float(row["train/loss"])) for row in logged)
    assert record["tasks"]["normals"]["mErr"] > 0
    seed_everything(0, verbose=False)
    cfg = mtmamba.load_config(fake_training.overrides(dataset, tmp_path, *TOY))
    trained = weights(tmp_path / "run")
    moved = {name for name, x in build.build_module(cfg).state_dict().items() if not torch.equal(x, trained[name])}
    assert moved
    assert not any("normals" in name for name in moved)
    assert any("depth" in name for name in moved)


@pytest.mark.parametrize("loss", ["log", "weighted"])
def test_accumulation_makes_the_same_updates(dataset, tmp_path, loss):
    for micro in (1, 4):
        options = [*TOY, f"loss={loss}", f"data.device_batch_size={micro}", "optimizer.lr=0.01"]
        fake_training.run(dataset, tmp_path / f"{loss}-{micro}", *options)
    whole, parts = (weights(tmp_path / f"{loss}-{micro}") for micro in (4, 1))
    for name, x in whole.items():
        torch.testing.assert_close(parts[name], x, rtol=1e-3, atol=1e-5)
    scores = ({row["step"]: row["val/loss"] for row in fake_training.rows(tmp_path / f"{loss}-{m}")} for m in (1, 4))
    first, second = scores
    assert [float(x) for x in first.values() if x] == pytest.approx([float(x) for x in second.values() if x], rel=1e-3)


class Total:
    """A user's loss that takes no labels."""

    def __call__(self, losses):
        return sum(loss.mean() for loss in losses.values())


class LabelledTotal:
    """One that does."""

    def __call__(self, losses, labels):
        return sum((labels[name] * loss).mean() for name, loss in losses.items())


def test_a_loss_that_takes_no_labels_is_refused_before_anything_is_trained(tmp_path):
    def built(total, partial):
        cfg = mtmamba.load_config([*TOY[:2], f"data.partial={partial}"])
        cfg.loss = {"_target_": f"{__name__}.{total.__name__}"}
        return build.build_module(cfg)

    with pytest.raises(ConfigError, match=r"Expected a loss whose second .* data\.partial=one_label, .* none: add it"):
        built(Total, "one_label")
    assert isinstance(built(Total, "false").total, Total)
    module = built(LabelledTotal, "true")
    losses = {"depth": torch.tensor([3.0, 8.0])}
    assert module.combine(losses, {"depth": torch.tensor([2.0, 0.0])}) == 3


@pytest.mark.slow
def test_two_processes_equal_one(dataset, tmp_path):
    for devices in (1, 2):
        options = [*TOY[2:], f"trainer.devices={devices}", f"hydra.run.dir={tmp_path}/{devices}"]
        options += ["trainer.strategy=ddp"] if devices > 1 else []
        command = [sys.executable, str(TRAIN), *fake_training.overrides(dataset, tmp_path, *options)]
        subprocess.run(command, check=True, capture_output=True)
    ours, theirs = (torch.cat([x.double().flatten() for x in weights(tmp_path / name).values()]) for name in "12")
    assert (ours - theirs).norm() / ours.norm() < 1e-4
    first, second = (
        [float(row["val/loss"]) for row in fake_training.rows(tmp_path / name) if row["val/loss"]] for name in "12"
    )
    assert first == pytest.approx(second, rel=1e-3)
