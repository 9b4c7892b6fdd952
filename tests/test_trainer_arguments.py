"""Lightning's arguments: every one of its signature is known, works or is refused, and docs/training.md says so."""

import inspect
from pathlib import Path

import lightning
import pytest

import mtmamba
from mtmamba.settings import ConfigError
from mtmamba.trainer_arguments import ARGUMENTS, refusal, table

PAGE = Path(__file__).parents[1] / "docs/training.md"
SIGNATURE = inspect.signature(lightning.Trainer).parameters
MARKS = ("<!-- arguments of Trainer: written by tests/test_trainer_arguments.py -->\n", "<!-- end -->\n")


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
