"""Which validation is best, by which score, and what is kept of them."""

import math
from pathlib import Path

import pytest

from mtmamba.checkpoints import CheckpointError
from mtmamba.config.checks import ConfigError
from mtmamba.tasks import select_tasks
from mtmamba.training.resume import Resumed, restore_record
from mtmamba.training.validations import Validations, choose_monitor


@pytest.mark.parametrize("mode", ["min", "max"])
def test_the_best_validation_is_the_first_with_the_best_score(mode):
    validations = Validations("score", mode)
    sign = 1 if mode == "max" else -1
    assert [validations.add(step, sign * score) for step, score in enumerate([1, 3, 3, 2, 4])] == [True] * 2 + [
        False
    ] * 2 + [True]
    assert validations.best == (4, sign * 4)
    again = Validations("score", mode)
    again.load_state_dict(validations.state_dict())
    assert (again.best, again.scores) == (validations.best, validations.scores)


def test_a_score_that_is_not_a_number_is_never_best_for_longer_than_nothing_else_comes(caplog):
    validations = Validations("val/delta_m", "max")
    assert [validations.add(step, score) for step, score in enumerate([math.nan, math.nan, -9.0, math.nan, -8.0])] == [
        True, True, True, False, True,
    ]  # fmt: skip
    assert "val/delta_m cannot be computed after step 3" in caplog.text


def test_a_record_goes_on_and_not_by_another_score():
    validations = Validations("val/loss", "min")
    assert validations.state_dict() == {"monitor": "val/loss", "mode": "min", "scores": {}, "best": None}
    validations.load_state_dict(validations.state_dict())
    assert (validations.scores, validations.best) == ({}, None)
    validations.add(4, 0.5)
    assert validations.state_dict() == {"monitor": "val/loss", "mode": "min", "scores": {4: 0.5}, "best": [4, 0.5]}
    other = Validations("val/delta_m", "max")
    with pytest.raises(ConfigError, match=r"Expected monitor=val/loss of the run to resume, got val/delta_m"):
        other.load_state_dict(validations.state_dict())
    assert other.scores == {}


@pytest.mark.parametrize(
    ("name", "base", "chosen"),
    [
        ("auto", {"depth": {"RMSE": 0.5}}, ("val/delta_m", "max")),
        ("auto", {"edge": {"odsF": 77.3}}, ("val/loss", "min")),
        ("auto", {"depth": {"other": 0.5}, "semseg": {"mIoU": 50.0}}, ("val/loss", "min")),
        ("val/loss", {"depth": {"RMSE": 0.5}}, ("val/loss", "min")),
        ("val/depth/RMSE", {}, ("val/depth/RMSE", "min")),
        ("val/depth/loss", {}, ("val/depth/loss", "min")),
        ("val/sal/maxF", {}, ("val/sal/maxF", "max")),
    ],
)
def test_the_score_that_best_goes_by(name, base, chosen):
    assert choose_monitor(name, select_tasks(["depth", "sal"]), base) == chosen


def test_a_score_that_there_is_not_is_named():
    with pytest.raises(ConfigError, match=r"auto or one of .*val/depth/RMSE.*, got val/sal/maxF: choose"):
        choose_monitor("val/sal/maxF", select_tasks(["depth"]), {})


@pytest.mark.parametrize(
    "record",
    [3, {}, {"monitor": "val/loss"}, {"monitor": "val/loss", "scores": [1, 2], "best": None}]
    + [{"monitor": "val/loss", "scores": {}, "best": best} for best in (3, ["one", "two"])],
)
def test_a_record_of_another_kind_is_refused_with_its_file(record):
    resumed = Resumed(Path("run/checkpoints/last.ckpt"), {"callbacks": {"Checkpointing": record}})
    with pytest.raises(CheckpointError, match=r"^Expected a record of validations in run/checkpoints/last\.ckpt"):
        restore_record(Validations("val/loss", "min"), resumed)
