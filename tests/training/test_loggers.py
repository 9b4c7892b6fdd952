"""Loggers of Lightning's, chosen by YAML, get the numbers that metrics.csv has."""

import pytest

from fake_data import write_nyud
from fake_training import rows, run


def test_tensorboard_has_the_numbers_of_the_csv(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(write_nyud(tmp_path / "data"), tmp_path / "run", "logger=tensorboard", "trainer.max_steps=2", "pictures=0")
    events = EventAccumulator(str(tmp_path / "run/tensorboard")).Reload()
    wanted = {int(row["step"]): float(row["train/loss"]) for row in rows(tmp_path / "run") if row["train/loss"]}
    assert {event.step: event.value for event in events.Scalars("train/loss")} == pytest.approx(wanted, rel=1e-5)
