"""Any optimiser, schedule, callback and logger by configuration alone."""

import pytest
import torch
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.loggers import CSVLogger as LightningCSVLogger
from omegaconf import OmegaConf

import mtmamba
import toy_network  # noqa: F401 - registers encoder=toy
from fake_data import write_nyud
from fake_training import overrides
from mtmamba import build
from mtmamba.training.schedules import PolynomialDecay
from mtmamba.training.train import train


def configured(**nodes):
    cfg = mtmamba.load_config(["tasks=[depth]", "trainer.max_steps=10"])
    for key, value in nodes.items():
        cfg[key] = OmegaConf.create(value)
    return cfg


def parameters():
    return [torch.nn.Parameter(torch.ones(3, 3))]


def test_the_papers_optimiser():
    cfg = mtmamba.load_config(["optimizer=paper", "optimizer.weight_decay=0.5", "optimizer.betas=[0.5,0.6]"])
    optimizer = build.build_optimizer(cfg)(parameters())
    assert type(optimizer) is torch.optim.AdamW
    (group,) = optimizer.param_groups
    assert (group["lr"], group["weight_decay"], tuple(group["betas"])) == (1e-4, 0.5, (0.5, 0.6))
    assert type(build.build_schedule(cfg)(optimizer)) is PolynomialDecay


@pytest.mark.parametrize(
    ("node", "kind"),
    [
        ({"_target_": "torch.optim.SGD", "lr": 0.1, "momentum": 0.9}, "SGD"),
        ({"_target_": "timm.optim.create_optimizer_v2", "opt": "lion", "lr": 0.1}, "Lion"),
    ],
)
def test_any_optimiser_of_pytorch_or_timm(node, kind):
    optimizer = build.build_optimizer(configured(optimizer=node))(parameters())
    assert type(optimizer).__name__ == kind
    assert optimizer.param_groups[0]["lr"] == 0.1
    assert build.build_schedule(configured(optimizer=node)) is None


def rates(dataset, folder, schedule):
    """The rate of each of 4 steps of a run, from a rate of 1e-3."""
    options = ["encoder=toy", "decoder=toy", "tasks=[depth]", "pictures=0", "trainer.max_steps=4"]
    cfg = mtmamba.load_config(overrides(dataset, folder, *options))
    cfg.optimizer = OmegaConf.create({"_target_": "torch.optim.SGD", "lr": 1e-3, "schedule": schedule})
    folder.mkdir()
    Rates.seen = []
    cfg.callbacks = {"checkpoint_every": 10, "rates": {"_target_": f"{__name__}.Rates"}}
    train(cfg, folder)
    return Rates.seen


class Rates(Timer):
    """Somebody's callback."""

    seen: list[float]

    def on_train_batch_start(self, trainer, *_):
        self.seen.append(trainer.optimizers[0].param_groups[0]["lr"])


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_nyud(tmp_path_factory.mktemp("data") / "NYUDv2", train=10, val=3, size=(32, 48))


def test_a_schedule_of_pytorch(dataset, tmp_path):
    schedule = {"_target_": "torch.optim.lr_scheduler.StepLR", "step_size": 2, "gamma": 0.1}
    assert rates(dataset, tmp_path / "run", schedule) == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4])


def test_a_schedule_of_timm(dataset, tmp_path):
    schedule = {
        "_target_": "timm.scheduler.StepLRScheduler", "decay_t": 2, "decay_rate": 0.1, "t_in_epochs": False,
    }  # fmt: skip
    assert rates(dataset, tmp_path / "run", schedule) == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4])


def test_a_schedule_that_waits_for_a_score_is_refused(dataset, tmp_path):
    with pytest.raises(ValueError, match="Expected a schedule by optimiser step, got ReduceLROnPlateau"):
        rates(dataset, tmp_path / "run", {"_target_": "torch.optim.lr_scheduler.ReduceLROnPlateau"})


def test_the_decays_length_is_a_number_of_steps():
    with pytest.raises(ValueError, match=r"trainer\.max_steps of at least 1.*got -1"):
        PolynomialDecay(torch.optim.SGD(parameters(), lr=1), max_steps=-1, power=0.9)


def test_a_restored_decay_has_its_own_length():
    optimizer = torch.optim.SGD(parameters(), lr=2.0)
    short = PolynomialDecay(optimizer, max_steps=4, power=0.5)
    for _ in range(4):
        optimizer.step()
        short.step()
    assert optimizer.param_groups[0]["lr"] == 0
    other = torch.optim.SGD(parameters(), lr=2.0)
    longer = PolynomialDecay(other, max_steps=16, power=0.5)
    other.load_state_dict(optimizer.state_dict())
    longer.load_state_dict(short.state_dict())
    assert other.param_groups[0]["lr"] == longer.get_last_lr()[0] == pytest.approx(2 * (12 / 16) ** 0.5)
    other.step()
    longer.step()
    assert other.param_groups[0]["lr"] == pytest.approx(2 * (11 / 16) ** 0.5)


def test_a_logger_of_lightnings_is_given_the_runs_folder(tmp_path):
    cfg = configured(logger={"theirs": {"_target_": "lightning.pytorch.loggers.CSVLogger", "name": "theirs"}})
    (logger,) = build.build_loggers(cfg, tmp_path)
    assert isinstance(logger, LightningCSVLogger)
    assert logger.save_dir == str(tmp_path) or logger.save_dir == tmp_path
