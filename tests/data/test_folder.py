"""A folder of one's own with a dataset.yaml: what is read from it, what is refused, and a whole run of it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import fake_data
import mtmamba
from mtmamba.build import build_datamodule, build_model
from mtmamba.config.compose import dataset_record, describe, num_outputs
from mtmamba.config.decisive import check_resumed
from mtmamba.config.settings import ConfigError
from mtmamba.data.datasets import folder
from mtmamba.data.dense import DenseDataset
from mtmamba.data.layouts import DatasetError
from mtmamba.data.validation import validate
from mtmamba.evaluation.boundaries import choose_protocol
from mtmamba.inference.predictor import Predictor
from mtmamba.metrics.boundary import boundary_truth
from mtmamba.restore import config_of
from mtmamba.tasks import Task, all_tasks, picture_row, select_tasks
from mtmamba.tasks.pictures import depth_colours

ROOT = Path(__file__).parents[2]


@pytest.fixture
def rooms(tmp_path):
    return fake_data.write_folder(tmp_path / "rooms")


def config(root, *overrides):
    return mtmamba.load_config(["data=folder", f"data.root={root}", "data.num_workers=0", *overrides])


def edit(root, old, new):
    text = (root / "dataset.yaml").read_text()
    assert text.count(old) == 1
    (root / "dataset.yaml").write_text(text.replace(old, new))


def read(root, split="train", index=0):
    record = dataset_record(config(root))
    dataset = DenseDataset(record, root, split, list(record.readers), lambda s, _: s, cache_dir=root.parent / "cache")
    return dataset.read(index)


def pixels(path):
    return np.array(Image.open(path))


def test_everything_follows_from_the_file(rooms):
    cfg = config(rooms)
    assert num_outputs(cfg) == {"semseg": 3, "depth": 1, "normals": 3, "edge": 1}
    assert list(cfg.data.crop_size) == [32, 64]
    assert config(rooms, "data.crop_size=[64,64]").data.crop_size == [64, 64]
    assert num_outputs(config(rooms, "tasks=[depth]")) == {"depth": 1}
    data = build_datamodule(cfg)
    data.prepare_data()
    data.setup()
    assert data.dataset_of("train").ids == ["attic/0", "attic/1", "attic/2", "hall/0"]
    assert data.dataset_of("val").ids == ["hall/1", "hall/2"]
    batch = next(iter(data.val_dataloader()))
    assert batch["image"].shape == (2, 3, 32, 64)
    assert batch["id"] == ["hall/1", "hall/2"]


def test_targets_are_what_the_files_hold(rooms):
    sample = read(rooms, "train", 3)
    assert (sample["image"] == pixels(rooms / "images/hall/0.png")).all()  # the second of the alternatives
    labels = pixels(rooms / "labels/hall/0.png").astype(int)
    assert (sample["semseg"] == np.where(labels == 0, 255, labels - 1)).all()
    millimetres = pixels(rooms / "depth/hall/0.png").astype(float)
    np.testing.assert_allclose(sample["depth"], np.where(millimetres == 0, 255, millimetres / 1000), rtol=1e-6)
    theirs = pixels(rooms / "normals/hall/0.png") / 127.5 - 1
    theirs /= np.linalg.norm(theirs, axis=-1, keepdims=True)
    np.testing.assert_allclose(sample["normals"], theirs * [1, -1, -1], atol=1e-5)
    assert {0, 1} <= set(np.unique(sample["edge"])) <= {0, 1, 255}


def test_axes_may_be_exchanged(rooms):
    before = read(rooms)["normals"]
    edit(rooms, "[x, -y, -z]", "[-z, x, y]")
    x, y, z = np.moveaxis(before, -1, 0)  # x, -y, -z of the file
    np.testing.assert_allclose(read(rooms)["normals"], np.stack([z, x, -y], -1), atol=1e-6)


def test_borders_lie_between_classes(rooms):
    labels = np.ones((32, 48), np.uint8)
    labels[:, 20:] = 2
    labels[:8, 18:22] = 0  # a strip between regions: both sides have half of it
    labels[20:, 26:] = 0  # unlabelled: nobody knows what lies there
    fake_data.write_png(rooms / "labels/attic/0.png", labels)
    expected = np.zeros((32, 48))
    expected[:, 19] = 1
    rows, columns = np.mgrid[:32, :48]
    far = (rows - 19) ** 2 > 64  # of the rectangle, the nearest class is straight above or to the left
    expected[(labels == 0) & (rows >= 20) & far & (columns - 25 > 8)] = 255
    assert (read(rooms)["edge"] == expected).all()
    fake_data.write_png(rooms / "labels/attic/0.png", np.zeros((32, 48), np.uint8))
    assert (read(rooms)["edge"] == 255).all()


def test_other_formats(rooms):
    """Depth in .npy and .tif, marks, a palette and 16-bit classes."""
    metres = np.random.default_rng(1).uniform(1, 9, (32, 48)).astype(np.float32)
    metres[0] = np.nan
    metres[1] = -1
    for i in range(3):
        for room in ("attic", "hall"):
            np.save(rooms / f"depth/{room}/{i}.npy", metres)
            Image.fromarray(metres).save(rooms / f"depth/{room}/{i}.tif")
            labels = Image.fromarray(np.full((32, 48), 2, np.uint8), mode="P")
            labels.putpalette(range(48))
            labels.save(rooms / f"labels/{room}/{i}.png")
            fake_data.write_png(rooms / f"sal/{room}/{i}.png", np.tile(np.uint8([0, 127, 128, 7]), (32, 12)))
    edit(rooms, "edge: {from: semseg}", "sal: {file: sal/{id}.png, ignore: [7]}")
    for suffix in ("npy", "tif"):
        text = (rooms / "dataset.yaml").read_text()
        start = text.index("  depth:")
        line = f"  depth: {{file: depth/{{id}}.{suffix}, invalid: [nan, -1]}}\n"
        (rooms / "dataset.yaml").write_text(text[:start] + line + text[text.index("\n", start) + 1 :])
        sample = read(rooms)
        assert (sample["depth"][:2] == 255).all()
        assert (sample["depth"][2:] == metres[2:]).all()
    assert (sample["semseg"] == 1).all()
    assert sample["sal"][0, :4].tolist() == [0, 0, 1, 255]
    assert num_outputs(config(rooms))["sal"] == 2


def test_a_hash_divides_the_images_and_new_ones_move_none(rooms):
    edit(rooms, "{train: train.txt, val: lists/val.txt}", "{train: 0.7, val: 0.2, seed: 4}")
    for i in range(3, 200):
        (rooms / f"images/hall/{i}.jpg").write_bytes((rooms / "images/hall/1.jpg").read_bytes())
    record = dataset_record(config(rooms))
    before = {split: record.read_ids(rooms, split) for split in ("train", "val")}
    assert not set(before["train"]) & set(before["val"])
    assert 0.6 < len(before["train"]) / 203 < 0.8
    assert 0.1 < len(before["val"]) / 203 < 0.3
    for i in range(300):
        (rooms / f"images/attic/new {i}.jpg").touch()
    for split, names in before.items():
        assert [name for name in record.read_ids(rooms, split) if "new" not in name] == names
        assert len(record.read_ids(rooms, split)) > len(names)
    edit(rooms, "seed: 4", "seed: 5")
    assert dataset_record(config(rooms)).read_ids(rooms, "train") != record.read_ids(rooms, "train")


def test_ids_may_stand_anywhere_in_the_path(tmp_path):
    for name in ("a/rgb.png", "b/c/rgb.png", "b/.c/rgb.png", "b/depth.png"):
        (tmp_path / "scenes" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "scenes" / name).touch()
    assert folder.find_images(tmp_path, ("scenes/{id}/rgb.png",)) == ["a", "b/c"]
    (tmp_path / "b_b.jpg").touch()
    (tmp_path / "b_c.jpg").touch()
    assert folder.find_images(tmp_path, ("{id}_{id}.jpg",)) == ["b"]


WRONG = {
    "an unknown key": (
        lambda root: edit(root, "crop_size:", "crop_sise:"),
        "crop_sise: did you mean crop_size",
    ),
    "an unknown option": (lambda root: edit(root, "scale:", "factor:"), "tasks.depth of .*factor"),
    "an unknown task": (lambda root: edit(root, "  depth:", "  dept:"), "dept: did you mean depth"),
    "a class beyond the list": (lambda root: edit(root, ", chair]", "]"), "palette .* 2 classes, got 3"),
    "a class in the file beyond the list": (
        lambda root: fake_data.write_png(root / "labels/attic/0.png", np.full((32, 48), 7, np.uint8)),
        r"classes 1\.\.3 or those to ignore in .*attic/0.png, got 7",
    ),
    "splits that overlap": (
        lambda root: fake_data.write_list(root / "lists/val.txt", ["hall/1", "attic/0"]),
        "both training and validation .* 1 such as attic/0",
    ),
    "a missing file": (lambda root: (root / "depth/hall/2.png").unlink(), r"depth/hall/2.png: missing \(val"),
    "a missing list": (lambda root: (root / "lists/val.txt").unlink(), "ids in .*lists/val.txt, got no such file"),
    "a wrong scale": (lambda root: edit(root, "scale: 1e-3, ", ""), r"within 0\.\.20 metres"),
    "no scale": (lambda root: edit(root, "1e-3", "0"), "tasks.depth.scale .* a number above 0, got 0: write"),
    "other axes": (lambda root: edit(root, "[x, -y, -z]", "[x, x, z]"), "x, y and z in some order"),
    "another size": (
        lambda root: fake_data.write_png(root / "depth/hall/1.png", np.ones((9, 9), np.uint16)),
        r"depth/hall/1.png: expected the image's size \(32, 48\), got \(9, 9\)",
    ),
    "a crop smaller than an image": (lambda root: edit(root, "[32, 64]", "[16, 64]"), "crop_size of at least"),
    "classes that are no text": (lambda root: edit(root, "chair]", "no]"), "different names in text"),
    "shares beyond 1": (
        lambda root: edit(root, "{train: train.txt, val: lists/val.txt}", "{train: 0.9, val: 0.2}"),
        "shares of 1 in all at most",
    ),
    "one split": (lambda root: edit(root, ", val: lists/val.txt", ""), "got no val"),
    "a path out of the folder": (lambda root: edit(root, "depth/{id}", "../depth/{id}"), "a path below the folder"),
    "labels that lose values": (lambda root: edit(root, "labels/{id}.png", "labels/{id}.jpg"), "ending in .png"),
    "edges of no classes": (lambda root: edit(root, "from: semseg", "from: depth"), "a task of classes"),
    "an interpolation": (lambda root: edit(root, "my_rooms", "${seed}"), "plain values"),
    "an endless alias": (lambda root: (root / "dataset.yaml").write_text("a: &a [*a]"), "it holds an alias"),
    "depth without end": (
        lambda root: (root / "dataset.yaml").write_text("[" * 9999),
        "it is nested more than 64 deep",
    ),
    "no YAML": (lambda root: (root / "dataset.yaml").write_text("a: [1"), "YAML in"),
    "no mapping": (lambda root: (root / "dataset.yaml").write_text("- a\n"), "to map name, images"),
    "no dataset.yaml": (lambda root: (root / "dataset.yaml").unlink(), r"prepare_data.py data=folder .* a first one"),
    "vectors of no length": (
        lambda root: fake_data.write_png(root / "normals/attic/0.png", np.full((32, 48, 3), 140, np.uint8)),
        "unit vectors",
    ),
    "a range of one depth": (lambda root: edit(root, "max: 20.0", "shown: [2, 2]"), r"tasks.depth.shown .* twice the"),
    "a lossy depth": (
        lambda root: fake_data.write_png(root / "depth/attic/0.png", np.ones((32, 48, 3), np.uint8)),
        r"numbers \(h, w\)",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_folder_is_a_sentence(rooms, wrong):
    damage, message = WRONG[wrong]
    damage(rooms)
    with pytest.raises(ValueError, match=message) as error:
        build_datamodule(config(rooms)).prepare_data()
    assert str(error.value).startswith("Expected ")


def test_a_root_is_needed(tmp_path):
    with pytest.raises(DatasetError, match=r"data\.root=FOLDER with data=folder, got none"):
        mtmamba.load_config(["data=folder"])
    with pytest.raises(DatasetError, match="no such folder"):
        config(tmp_path / "nothing")


def test_a_task_of_ones_own_needs_no_more_than_its_line(rooms, monkeypatch):
    task = Task("albedo", "Albedo", lambda *_: None, lambda x: x, lambda _: None, "RMSE", {"RMSE": ""}, channels=3)
    monkeypatch.setattr("mtmamba.tasks.record._registered", {**all_tasks(), "albedo": task})
    values = np.random.default_rng(0).integers(1, 255, (32, 48, 3), dtype=np.uint8)
    for name in [*(rooms / "train.txt").read_text().split(), *(rooms / "lists/val.txt").read_text().split()]:
        fake_data.write_png(rooms / f"albedo/{name}.png", values)
    edit(rooms, "  edge:", "  albedo: {file: albedo/{id}.png, scale: 0.01}\n  edge:")
    np.testing.assert_allclose(read(rooms)["albedo"], values / 100, rtol=1e-6)
    assert num_outputs(config(rooms))["albedo"] == 3


def test_names_colours_and_protocol_travel_with_a_checkpoint(rooms):
    description = describe(config(rooms))
    (rooms / "dataset.yaml").unlink()
    cfg = config_of(description)
    assert num_outputs(cfg) == {"semseg": 3, "depth": 1, "normals": 3, "edge": 1}
    record = dataset_record(cfg)
    assert list(record.classes["semseg"]) == ["wall", "floor", "chair"]
    shown = record.pictures["semseg"](torch.tensor([[0, 1, 2, 255]]))
    assert shown[0].tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255], [80, 80, 80]]
    near, far = (record.pictures["depth"](torch.tensor([[metres]]))[0, 0].tolist() for metres in (10.0, 20.0))
    assert near != far  # which the task's own colours do not tell apart
    protocol = choose_protocol("auto", record)
    assert (protocol.name, protocol.max_dist, protocol.suppress) == ("my_rooms", 0.02, False)
    assert protocol.thresholds == pytest.approx([k / 10 for k in range(1, 10)])
    assert protocol.describe(7).endswith("7 images")
    dataset = DenseDataset(record, rooms, "val", ["edge"], lambda s, _: s, cache_dir=rooms.parent / "cache")
    (truth,) = boundary_truth(record.boundary_labels(dataset.source, "hall/1"), protocol)
    assert (truth == (dataset.read(0)["edge"] == 1)).all()
    assert validate(rooms, record, ["edge"], cache_dir=rooms.parent / "cache").counts == {"train": 4, "val": 2}


def test_depth_is_drawn_in_the_range_that_the_file_says(rooms):
    """By both who draw for people: panels of training, by the record, and sheets of a prediction, by the checkpoint."""
    edit(rooms, "max: 20.0", "max: 20.0, shown: [0.125, 2]")
    cfg = config(rooms, "tasks=[depth]", "encoder.pretrained=false")
    words = ["0.125 m", "0.25 m", "0.5 m", "1 m", "2 m"]
    (task,), own = select_tasks(["depth"]), dataset_record(cfg).pictures
    depth = torch.tensor([[[0.125, 0.5, 2.0]]])
    batch = {"image": torch.zeros(1, 3, 1, 3), "depth": depth, "size": torch.tensor([[1, 3]])}
    row = picture_row([task], batch, {"depth": depth}, 0, own)
    for title in (f"{task.title}\nprediction", f"{task.title}\ntruth"):
        assert np.array_equal(row[title], depth_colours(depth[0], (0.125, 2)))
    assert [word for word, _ in task.legend((), own["depth"]).entries if word] == words
    result = Predictor(build_model(cfg), device="cpu")(np.zeros((32, 48, 3), np.uint8))
    assert [word for word, _ in result.legend("depth").entries if word] == words
    assert np.array_equal(result.picture("depth"), depth_colours(torch.from_numpy(result["depth"]), (0.125, 2)))


@pytest.mark.parametrize("scale", ["3e-5", "1e-2"])  # up to 0.27 m, up to 90 m
def test_depths_beyond_the_pictures_colours_are_remarked_on(rooms, scale):
    def warnings():
        return validate(rooms, dataset_record(config(rooms)), ["depth"], cache_dir=rooms.parent / "cache").warnings

    edit(rooms, "scale: 1e-3, max: 20.0", "scale: 1e-3")
    assert not any("colours" in text for text in warnings())
    edit(rooms, "scale: 1e-3", f"scale: {scale}")
    found = next(text for text in warnings() if "colours" in text)
    assert f"{rooms}/depth/attic/0.png: half of the depths or more lie beyond the 0.5..10 m" in found
    edit(rooms, f"scale: {scale}", f"scale: {scale}, {found[found.index('shown:') : found.index(' for depth')]}")
    assert not any("colours" in text for text in warnings())


def test_another_file_is_another_run(rooms):
    first = describe(config(rooms))
    check_resumed(describe(config(rooms)), first)
    edit(rooms, "1e-3", "2e-3")
    with pytest.raises(ConfigError, match=r"data.description.tasks.depth.scale=0.002 instead of 0.001"):
        check_resumed(describe(config(rooms)), first)


def run(script, *overrides):
    command = [sys.executable, ROOT / "src" / script, *overrides]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_a_folder_is_trained_resumed_evaluated_and_its_predictions_are_scored(rooms, tmp_path):
    common = ["trainer.accelerator=cpu", f"cache_dir={tmp_path}/cache", f"log_dir={tmp_path}/logs"]
    mine = [*common, "data=folder", f"data.root={rooms}", "data.num_workers=0", "data.batch_size=2", "logger=csv"]
    out, scores, again = tmp_path / "run", tmp_path / "scores", tmp_path / "again"
    run("train.py", *mine, "trainer.max_steps=2", "trainer.val_check_interval=1", f"hydra.run.dir={out}")
    run("train.py", *mine, "trainer.max_steps=3", "trainer.val_check_interval=1", f"resume={out}")
    (rooms / "dataset.yaml").rename(rooms / "kept.yaml")  # the checkpoint knows what it says
    moved = rooms.rename(tmp_path / "moved")
    run("eval.py", *common, f"ckpt={out}", f"data.root={moved}", "save_predictions=true", f"hydra.run.dir={scores}")
    (moved / "kept.yaml").rename(moved / "dataset.yaml")
    files = [f"pred={scores}/predictions", "data=folder", f"data.root={moved}", "data.num_workers=0"]
    run("eval_predictions.py", *files, f"cache_dir={tmp_path}/cache", f"hydra.run.dir={again}")
    records = [json.loads((path / "metrics.json").read_text()) for path in (out, scores, again)]
    assert records[0]["step"] in (1, 2, 3)
    assert records[1]["classes"]["semseg"].keys() == {"wall", "floor", "chair"}
    assert records[1]["protocols"]["edge"]["boundaries"]["name"] == "my_rooms"
    for task, metric in (("semseg", "mIoU"), ("depth", "RMSE"), ("edge", "odsF")):
        assert records[2]["tasks"][task][metric] == pytest.approx(records[1]["tasks"][task][metric], rel=1e-5)
    assert (scores / "predictions/semseg/hall/1.png").is_file()
