"""Lightning's arguments: every one of its signature is known, works or is refused, and docs/training.md says so."""

import ast
import inspect
from pathlib import Path

import lightning
import pytest
import torch
from lightning.pytorch.accelerators import AcceleratorRegistry
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.profilers import SimpleProfiler
from lightning.pytorch.strategies import StrategyRegistry

import mtmamba
from mtmamba.build import build_trainer
from mtmamba.config.checks import settle_auto
from mtmamba.config.settings import ConfigError, check_settings
from mtmamba.config.trainer_arguments import ARGUMENTS, CHOICES, refusal, table

PAGE = Path(__file__).parents[2] / "docs/training.md"
SIGNATURE = inspect.signature(lightning.Trainer).parameters
MARKS = ("<!-- arguments of Trainer: written by tests/config/test_trainer_arguments.py -->\n", "<!-- end -->\n")


def test_every_argument_of_lightnings_is_known_and_no_other():
    assert list(ARGUMENTS) == list(SIGNATURE)


def test_the_page_holds_the_table():
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(MARKS[0])
    found, _, after = rest.partition(MARKS[1])
    expected = f"\n{table()}\n"
    if found != expected:
        PAGE.write_text(f"{before}{MARKS[0]}{expected}{MARKS[1]}{after}", encoding="utf-8")
    assert found == expected, "docs/training.md was written anew: commit it"


@pytest.mark.parametrize("name", [name for name, argument in ARGUMENTS.items() if not argument.training])
def test_what_would_not_be_carried_out_is_refused_with_what_to_use(name):
    expected = f"Expected no trainer.{name}, which would not be carried out here: {ARGUMENTS[name].text}."
    assert refusal(name, 1) == expected
    assert refusal(name, 1, evaluation=True) == (None if ARGUMENTS[name].evaluation else expected)


def test_what_needs_steps_is_refused_in_an_evaluation():
    steps = [name for name, argument in ARGUMENTS.items() if argument.training and not argument.evaluation]
    assert all("in an evaluation" in refusal(name, 1, evaluation=True) for name in steps)
    with pytest.raises(ConfigError, match=r"trainer\.max_steps in a training"):
        mtmamba.load_config(["ckpt=x", "+trainer.max_steps=1"], "eval")


def test_an_unknown_argument_is_refused():
    with pytest.raises(ConfigError, match=r"got trainer\.max_stepz: see docs/training\.md"):
        mtmamba.load_config(["+trainer.max_stepz=1"])


def test_the_names_that_lightning_takes_are_known_and_no_others():
    with pytest.raises(ValueError, match="Allowed precision values: ") as refused:
        lightning.Trainer(precision="8")
    known = {
        "accelerator": [*AcceleratorRegistry.available_accelerators(), "gpu"],
        "strategy": StrategyRegistry.available_strategies(),
        "precision": map(str, ast.literal_eval(str(refused.value).partition("values: ")[2])),
    }
    assert {name: set(choices) for name, choices in CHOICES.items()} == {
        name: {"auto", *names} for name, names in known.items()
    }


def test_an_extension_may_bring_a_strategy_of_its_own():
    cfg = mtmamba.load_config()
    cfg.trainer.strategy = "mine"
    with pytest.raises(ConfigError, match=r"trainer\.strategy to be one of auto, ddp, .* got mine"):
        check_settings(cfg)
    cfg.extensions = ["mine.py"]
    check_settings(cfg)


def test_what_works_reaches_lightnings_trainer():
    given = {
        "precision": "bf16-mixed", "max_steps": 7, "max_time": "'00:00:01:00'", "num_sanity_val_steps": 1,
        "log_every_n_steps": 3, "gradient_clip_val": 0.5, "gradient_clip_algorithm": "value", "profiler": "simple",
        "detect_anomaly": True, "inference_mode": False, "benchmark": False, "deterministic": "warn",
    }  # fmt: skip
    cfg = mtmamba.load_config([f"++trainer.{name}={value}" for name, value in given.items()])
    try:
        trainer = build_trainer(cfg)
    finally:
        torch.use_deterministic_algorithms(False)
    (timer,) = (callback for callback in trainer.callbacks if isinstance(callback, Timer))
    assert timer.time_remaining() == 60
    assert (trainer.precision, trainer.max_steps, trainer.num_sanity_val_steps) == ("bf16-mixed", 7, 1)
    assert (trainer.gradient_clip_val, trainer.gradient_clip_algorithm, trainer.log_every_n_steps) == (0.5, "value", 3)
    assert isinstance(trainer.profiler, SimpleProfiler)


@pytest.mark.parametrize("graphs", ["auto", "true"])
def test_anomalies_are_looked_for_without_cuda_graphs(graphs, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    cfg = mtmamba.load_config(["+trainer.detect_anomaly=true", f"cuda_graph={graphs}", "trainer.precision=32-true"])
    if graphs == "auto":
        settle_auto(cfg)
        assert cfg.cuda_graph is False
    else:
        with pytest.raises(ConfigError, match=r"trainer\.detect_anomaly=false with cuda_graph=true"):
            settle_auto(cfg)
