"""Training with balanced tasks: every choice, accumulation, several processes, resuming, partial labels, refusals."""

import os
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from lightning.fabric.plugins.environments.lightning import find_free_network_port
from lightning.pytorch.utilities import rank_zero_only

import fake_training
import mtmamba
import toy_network  # noqa: F401 - which registers encoder=toy
import two_processes
from fake_data import write_nyud
from mtmamba import build
from mtmamba.benchmarks.network_cases import random_batch
from mtmamba.checkpoints import read_checkpoint
from mtmamba.config.checks import ConfigError, settle_auto
from mtmamba.shipped import config_dir
from mtmamba.tasks import select_tasks
from mtmamba.training.balancing import Moment
from mtmamba.training.checkpointing import Checkpointing
from mtmamba.training.gradient_balancing import GradientBalancing, watched
from mtmamba.training.step_check import FIND_UNUSED

CHOICES = sorted(path.stem for path in (config_dir() / "balancing").glob("*.yaml"))
TOY = ["encoder=toy", "decoder=toy", "loss=weighted", "optimizer.lr=0.01", "trainer.val_check_interval=100"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    return write_nyud(tmp_path_factory.mktemp("data") / "NYUDv2", train=10, val=2, size=(32, 48))


def weights(run_dir):
    return read_checkpoint(run_dir / "checkpoints/last.ckpt")["state_dict"]


def test_a_solver_that_is_not_installed_is_named(monkeypatch):
    """Python 3.13 has no wheel of ecos: set-up had asked for a C compiler there."""
    monkeypatch.setattr(build, "find_spec", lambda name: None if name == "ecos" else find_spec(name))
    cfg = mtmamba.load_config(["experiment=demo", "loss=weighted", "balancing=nash_mtl"])
    with pytest.raises(ConfigError, match=r"Expected ecos for balancing=nash_mtl, got none: pip install ecos"):
        build.build_module(cfg)


def test_the_choices_are_those_that_are_documented():
    assert set(CHOICES) == {
        "none", "uncertainty", "dwa", "rlw", "famo", "db_mtl",
        "pcgrad", "cagrad", "mgda", "nash_mtl", "imtl_g", "aligned_mtl", "upgrad",
    }  # fmt: skip
    assert all((config_dir() / f"balancing/{choice}.yaml").read_text().startswith("# ") for choice in CHOICES)


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_trains_on_partial_labels(dataset, tmp_path, choice):
    options = [*TOY, f"balancing={choice}", "data.partial=random:0.4", "trainer.max_steps=2"]
    fake_training.run(dataset, tmp_path / "run", *options)
    logged = fake_training.rows(tmp_path / "run")
    for row in logged[:2]:
        assert float(row["train/loss"]) > 0
        there = [task for task in ("semseg", "depth", "normals", "edge") if row[f"train/{task}/loss"] != "nan"]
        found = {task: float(row[f"balancing/{task}/weight"]) for task in there} if choice != "none" else {}
        assert all(0 <= weight < 100 for weight in found.values())
        if choice not in ("none", "uncertainty", "dwa", "rlw", "famo"):
            assert all(float(row[f"balancing/{task}/norm"]) > 0 for task in there)
    assert all(x.isfinite().all() for x in weights(tmp_path / "run").values())
    model = mtmamba.load_model(tmp_path / "run")
    assert sum(p.numel() for p in model.parameters()) > 0


@pytest.mark.parametrize("options", [["rlw"], ["uncertainty"], ["dwa"], ["upgrad", "balancing.at=parameters"]], ids=str)
def test_accumulation_makes_the_same_updates(dataset, tmp_path, options):
    for micro in (4, 2):
        choice, *more = options
        more += [*TOY, "data.partial=random:0.6", f"data.device_batch_size={micro}"]
        fake_training.run(dataset, tmp_path / str(micro), f"balancing={choice}", *more)
    whole, parts = (weights(tmp_path / str(micro)) for micro in (4, 2))
    for name, x in whole.items():
        if name.startswith("model."):
            torch.testing.assert_close(parts[name], x, rtol=2e-3, atol=2e-5)


@pytest.mark.parametrize("choice", ["famo", "db_mtl", "mgda"])
def test_accumulation_that_would_change_the_weights_is_refused(dataset, tmp_path, choice):
    with pytest.raises(ConfigError, match=rf"Expected no accumulation with balancing={choice}.*got 4 micro-batches"):
        fake_training.run(dataset, tmp_path / "run", *TOY, f"balancing={choice}", "data.device_batch_size=1")


@pytest.mark.parametrize("choice", ["famo", "dwa", "pcgrad"])
def test_an_interrupted_run_goes_on_with_its_weights(dataset, tmp_path, monkeypatch, choice):
    options = [*TOY, f"balancing={choice}", "trainer.max_steps=7"]
    fake_training.run(dataset, tmp_path / "whole", *options)
    original = Checkpointing.on_train_batch_end

    def stop_at_step(self, trainer, *arguments):
        self.asked = trainer.global_step == 5
        original(self, trainer, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpointing, "on_train_batch_end", stop_at_step)
        with pytest.raises(SystemExit):
            fake_training.run(dataset, tmp_path / "parts", *options)
    fake_training.run(dataset, tmp_path / "parts", *options, f"resume={tmp_path}/parts")
    ours = weights(tmp_path / "parts")
    assert all(torch.equal(x, ours[name]) for name, x in weights(tmp_path / "whole").items())


def test_one_epoch_is_what_dynamic_weight_average_takes_for_one(dataset, tmp_path):
    """Two steps of four of ten images are an epoch: weights move in the third."""
    fake_training.run(dataset, tmp_path / "run", *TOY, "balancing=dwa", "trainer.max_steps=6")
    found = [row["balancing/depth/weight"] for row in fake_training.rows(tmp_path / "run")[:6]]
    assert found[:4] == ["1"] * 4
    assert found[4] == found[5] != "1"


def test_choices_that_do_not_go_together_are_refused():
    def module(*options):
        return build.build_module(mtmamba.load_config(["encoder=toy", "decoder=toy", *options]))

    with pytest.raises(ConfigError, match=r"Expected loss=weighted with balancing=famo, .* got loss=log: choose"):
        module("balancing=famo", "loss=log")
    with pytest.raises(ConfigError, match=r"Expected an encoder that is trained with .*mgda, .*freeze=all: train"):
        module("balancing=mgda", "encoder.freeze=all")
    assert module("balancing=mgda", "loss=log").balancing.whole_batch


def test_gradients_by_task_are_in_no_cuda_graph(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    for choice, graphs in (("mgda", False), ("rlw", True)):
        cfg = mtmamba.load_config([f"balancing={choice}"])
        settle_auto(cfg)
        assert cfg.cuda_graph is graphs
    with pytest.raises(ConfigError, match="Expected cuda_graph=false with balancing=mgda, whose gradients by task no"):
        settle_auto(mtmamba.load_config(["balancing=mgda", "cuda_graph=true"]))


@pytest.mark.parametrize("at", ["maps", "parameters"])
@pytest.mark.parametrize("part", ["none", "blocks"])
def test_gradients_that_weigh_1_are_those_of_the_sum(at, part):
    """Of the paper's network, whose operators are our own, with and without recomputation."""
    tasks = {"semseg": 40, "depth": 1, "normals": 3, "edge": 1}
    torch.manual_seed(0)
    options = ["encoder.pretrained=false", "backend=torch", f"model.checkpointing={part}", "drop_path=0"]
    model = mtmamba.build_model(mtmamba.load_config(options)).train()
    batch = random_batch(tasks, 2, (32, 64), torch.device("cpu"))

    def losses():
        logits = model(batch["image"])
        return torch.stack([task.loss(logits[task.name], batch[task.name]).mean() for task in select_tasks(tasks)])

    losses().sum().backward()
    plain = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    balancing = GradientBalancing(4, lambda found: torch.ones(4).double(), at=at)
    with watched(model.encoder) as maps:
        found = losses()
    balancing(found, torch.ones(4), Moment(0, False), model.encoder, maps).backward()
    if at == "parameters":
        balancing.finish(model.encoder, 1, Moment(0, False))
    for expected, parameter in zip(plain, model.parameters(), strict=True):
        scale = expected.abs().max().item()
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-3, atol=1e-4 * scale + 1e-9)
    assert balancing.gramian.diagonal().min() > 0


def test_two_processes_equal_one(tmp_path):
    other = torch.multiprocessing.get_context("spawn").Process(target=two_processes.one_of_two, args=(1, tmp_path))
    other.start()
    two, one = two_processes.one_of_two(0, tmp_path), two_processes.gradients_of(0, 1)
    other.join()
    assert other.exitcode == 0
    for name, expected in one.items():
        assert expected.norm() > 0
        torch.testing.assert_close(
            two[name], expected, rtol=1e-6, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}"
        )


PLAIN = ["encoder=swin_micro", "decoder=stm1", "trainer.strategy=ddp"]
BRANCH = ["encoder=toy", "decoder=toy_branch", f"trainer.strategy={FIND_UNUSED}"]
"""Two of the encoder's layers are never used, and the branch not in every process's part of a batch."""
CASES = {
    **{choice: [*BRANCH, f"balancing={choice}"] for choice in CHOICES},
    "upgrad of parameters": [*BRANCH, "balancing=upgrad", "balancing.at=parameters"],
    **{f"{choice} under ddp": [*PLAIN, f"balancing={choice}"] for choice in ("famo", "upgrad")},
}
SHORT = [*TOY[2:], "data.partial=one_label", "trainer.max_steps=5", "pictures=0"]
"""Four images a step with four tasks: most steps lack some, and most halves of a batch; `dwa` needs its third epoch."""


def ddp_runs(rank, port, dataset, folder):
    """Whole runs, one after the other, in one of two processes as a launcher such as torchrun starts them."""
    os.environ |= {"LOCAL_RANK": str(rank), "RANK": str(rank), "WORLD_SIZE": "2", "MASTER_PORT": str(port)}
    rank_zero_only.rank = rank  # which it had read as it was imported
    for name, options in CASES.items():
        fake_training.run(dataset, folder / f"two/{name}", *SHORT, *options, "trainer.devices=2")
    with pytest.raises(ConfigError, match=rf"got 4 without one at step 0, .* trainer.strategy={FIND_UNUSED}"):
        fake_training.run(dataset, folder / "refused", *SHORT, *TOY[:2], *PLAIN[2:], "trainer.devices=2")


@pytest.mark.slow
def test_whole_runs_in_two_processes_equal_one(dataset, tmp_path):
    torch.multiprocessing.spawn(ddp_runs, (find_free_network_port(), dataset, tmp_path), nprocs=2)
    for name, options in CASES.items():
        fake_training.run(dataset, tmp_path / f"one/{name}", *SHORT, *options, "trainer.strategy=auto")
        one, two = (weights(tmp_path / place / name) for place in ("one", "two"))
        assert one.keys() == two.keys()
        ours, theirs = (torch.cat([x.double().flatten() for x in found.values()]) for found in (one, two))
        assert (ours - theirs).norm() / ours.norm() < 1e-4, name
