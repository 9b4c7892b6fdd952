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


def test_mlflow_has_the_numbers_of_the_csv_and_the_choices(tmp_path):
    pytest.importorskip("sqlalchemy")
    client = pytest.importorskip("mlflow").MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    dataset = write_nyud(tmp_path / "data")
    for seed in (0, 1):
        run(dataset, tmp_path / str(seed), "logger=mlflow", f"seed={seed}", "trainer.max_steps=2", "pictures=0")
    found = client.search_runs([client.get_experiment_by_name("mtmamba").experiment_id], order_by=["start_time"])
    assert [page.info.run_name for page in found] == [f"nyud-swin_micro-mtmamba seed={seed}" for seed in (0, 1)]
    for seed, page in enumerate(found):
        assert (page.info.status, page.data.tags["optimizer"]) == ("FINISHED", "paper")
        written = rows(tmp_path / str(seed))
        for key in ("train/loss", "val/depth/RMSE"):
            wanted = {int(row["step"]): float(row[key]) for row in written if row[key]}
            history = {value.step: value.value for value in client.get_metric_history(page.info.run_id, key)}
            assert history == pytest.approx(wanted, rel=1e-5)
            assert wanted
