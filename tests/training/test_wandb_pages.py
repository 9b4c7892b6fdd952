"""A run's page on Weights & Biases, from the folder that an offline run leaves."""

import json

import numpy as np
import pytest
import wandb
import yaml
from PIL import Image

from fake_data import write_nyud
from fake_training import run
from mtmamba.data.datasets import get_dataset
from mtmamba.places import find_checkpoint
from mtmamba.training.loggers import decisive_settings
from wandb_files import history, items, records


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The folder of a run that was called with a learning rate and a seed, and its records."""
    folder = tmp_path_factory.mktemp("wandb")
    run_dir = folder / "2026-01-01_sweep" / "1"
    (run_dir / ".hydra").mkdir(parents=True)
    called = ["data=nyud", "data.root=/somewhere", "optimizer.lr=0.001", "trainer.max_steps=3", "seed=7"]
    (run_dir / ".hydra/overrides.yaml").write_text(yaml.safe_dump(called))
    settings = ["logger=wandb", "logger.keep_checkpoint=true", "optimizer.lr=0.001", "seed=7", "pictures=2"]
    run(write_nyud(folder / "data"), run_dir, *settings, "trainer.max_steps=3")
    wandb.teardown()  # waits until everything is written
    return run_dir, records(run_dir)


def test_a_run_is_named_and_grouped_by_what_differs(page):
    (begun,) = [record.run for record in page[1] if record.WhichOneof("record_type") == "run"]
    assert begun.display_name == "nyud-swin_micro-mtmamba optimizer.lr=0.001 seed=7"
    assert begun.run_group == "demo/nyud-swin_micro-mtmamba/optimizer.lr=0.001"
    assert list(begun.tags) == ["nyud", "swin_micro", "mtmamba", "2026-01-01_sweep"]
    assert (begun.project, begun.job_type) == ("mtmamba", "train")


def test_settings_that_only_a_machine_has_are_no_part_of_a_name(tmp_path):
    (tmp_path / ".hydra").mkdir()
    called = ["+decoder.depth=3", "tasks=[depth]", "data.root=/x", "logger=csv", "data.num_workers=3", "encoder=timm"]
    (tmp_path / ".hydra/overrides.yaml").write_text(yaml.safe_dump(called))
    assert decisive_settings(tmp_path) == ["decoder.depth=3", "tasks=[depth]"]
    assert decisive_settings(tmp_path / "nowhere") == []


def test_scores_are_sorted_by_task_and_have_a_direction(page):
    metrics = {record.metric.name: record.metric for record in page[1] if record.HasField("metric")}
    assert metrics["semseg/val/mIoU"].summary.max
    assert not metrics["semseg/val/mIoU"].summary.min
    for name in ("depth/val/RMSE", "normals/val/mErr", "semseg/val/loss", "val/loss"):
        assert metrics[name].summary.min
        assert not metrics[name].summary.max
    assert metrics[r"normals/val/within_22\.5"].summary.max  # a point would be a level of nesting
    assert {metrics[name].step_metric for name in ("semseg/val/mIoU", "val/loss")} == {"trainer/global_step"}

    logged = {name for record in page[1] for name in items(record.history.item)}
    for task in ("semseg", "depth", "normals", "edge"):
        assert {f"{task}/train/loss", f"{task}/val/loss"} <= logged
    assert not [name for name in logged if name.startswith(("train/", "val/")) and name.count("/") > 1]


def test_masks_hold_the_classes_of_the_data_and_their_names(page):
    run_dir, found = page
    shown = history(found, "pictures/classes")
    assert shown[-1]["count"] == 2
    files = next(run_dir.rglob("wandb/offline-run-*")) / "files"
    for image, masks in zip(shown[-1]["filenames"], shown[-1]["all_masks"], strict=True):
        assert masks.keys() == {"semseg prediction", "semseg truth"}
        size = Image.open(files / image).size
        for mask in masks.values():
            classes = np.asarray(Image.open(files / mask["path"]))
            assert classes.shape[1::-1] == size
            assert set(np.unique(classes)) <= {*range(40), 255}
    library = [json.loads(i.value_json) for r in found for i in r.config.update if "class_labels" in i.value_json][-1]
    (labels,) = {json.dumps(list(layer["value"].values())) for layer in library["mask/class_labels"].values()}
    assert json.loads(labels) == [*get_dataset("nyud").classes["semseg"], "ignored"]


def test_a_table_holds_each_classs_score(page):
    run_dir, found = page
    table = history(found, "semseg/classes")[-1]
    files = next(run_dir.rglob("wandb/offline-run-*")) / "files"
    content = json.loads((files / table["path"]).read_text())
    assert content["columns"] == ["class", "IoU, %", "pixels", "predicted pixels"]
    assert [row[0] for row in content["data"]] == list(get_dataset("nyud").classes["semseg"])
    record = json.loads((run_dir / "metrics.json").read_text())
    assert np.mean([row[1] for row in content["data"]]) == pytest.approx(record["tasks"]["semseg"]["mIoU"])
    assert sum(row[2] for row in content["data"]) == sum(row[3] for row in content["data"]) > 0


def test_the_row_of_the_table_is_the_runs_summary(page):
    run_dir, found = page
    summary = {name: value for r in found for name, value in items(r.summary.update).items()}
    record = json.loads((run_dir / "metrics.json").read_text())
    for task, values in record["tasks"].items():
        for metric, value in values.items():
            if metric != "protocol":
                assert summary[f"row/{task}/{metric}"] == pytest.approx(value)
    assert record["delta_m"] is None  # training does not measure odsF, which the base has
    assert "row/delta_m" not in summary
    assert (summary["row/parameters"], summary["row/step"]) == (record["parameters"], record["step"])


def test_the_checkpoint_is_an_artifact_where_that_is_asked_for(page):
    run_dir, found = page
    (artifact,) = [r.artifact for r in found if r.artifact.type == "model"]
    sizes = {entry.path: entry.size for entry in artifact.manifest.contents}
    checkpoint = find_checkpoint(run_dir)
    assert sizes == {path.name: path.stat().st_size for path in (checkpoint, run_dir / "config.yaml")}
    assert set(artifact.aliases) == {"best", "latest"}
