"""Evaluation: views, files, the boundary benchmark, and whole runs in one process."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from test_statistics import IDS, METRICS, collect, maps, score_directly
from torch import Tensor, nn

import mtmamba
from fake_data import write_nyud, write_pascal
from mtmamba import build
from mtmamba.config import compose
from mtmamba.config.checks import ConfigError
from mtmamba.data.datasets import get_dataset
from mtmamba.data.dense import DenseDataset
from mtmamba.data.layouts import DatasetError
from mtmamba.evaluation.boundaries import boundary_score, boundary_statistics, choose_protocol, read_id_list
from mtmamba.evaluation.checkpoint import evaluate
from mtmamba.evaluation.folder import evaluate_predictions
from mtmamba.evaluation.formats import (
    PredictionsError,
    check_predictions,
    prediction_path,
    read_prediction,
    save_prediction,
)
from mtmamba.evaluation.sheets import worst_images
from mtmamba.evaluation.statistics import assess
from mtmamba.evaluation.views import Views
from mtmamba.metrics.boundary import pool
from mtmamba.models.multitask import MultiTaskModel
from mtmamba.padding import crop
from mtmamba.tasks import all_tasks, select_tasks


class Equivariant(nn.Module):
    """Logits that move with the image: mirrored normals mirror, and an enlarged image is nearer."""

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        across = torch.gradient(images[:, :1], dim=-1)[0]  # changes its sign in the mirror
        normals = torch.cat((across, images[:, 1:2] - 5, images[:, :1] + 1), 1)
        depth = images[:, :1].abs() * 60 / images.shape[-1]
        return {"semseg": images, "depth": depth, "sal": images[:, :2], "normals": normals, "edge": images[:, :1]}


VIEWED = select_tasks(["semseg", "depth", "sal", "normals", "edge"])


def test_mirror_images_of_an_equivariant_model_change_nothing():
    images = torch.randn(2, 3, 20, 30, generator=torch.Generator().manual_seed(0))
    plain, mirrored = (Views(Equivariant(), VIEWED, flip=flip)(images) for flip in (False, True))
    logits = Equivariant()(images)
    for task in VIEWED:
        assert torch.equal(plain[task.name], task.predict(logits[task.name]))
        torch.testing.assert_close(mirrored[task.name], plain[task.name])


def test_scales_of_a_smooth_image_change_little():
    y, x = torch.meshgrid(torch.linspace(0, 1, 40), torch.linspace(0, 1, 60), indexing="ij")
    images = torch.stack((2 + y + x, 1 + x * y, 2 - y))[None]
    plain, scaled = (Views(Equivariant(), select_tasks(names), scales=scales)(images) for names, scales in (
        (["depth", "sal", "edge"], [1]), (["depth", "sal", "edge"], [0.75, 1, 1.25])))  # fmt: skip
    for task, values in plain.items():
        torch.testing.assert_close(scaled[task], values, rtol=0.02, atol=0)


class ByWidth(nn.Module):
    """Logits that tell the views apart: 30 pixels wide or enlarged to 60."""

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        wide = images.shape[-1] == 60
        values = {
            "semseg": (0.0, 6.0, 0.0) if wide else (1.5, 0.0, 1.4),
            "depth": (1.0,) if wide else (4.0,),
            "normals": (0.0, 5.0, 0.0) if wide else (2.0, 0.0, 0.0),
            "edge": (np.log(3),) if wide else (-np.log(3),),
        }
        return {
            t: torch.tensor(v).float().view(1, -1, 1, 1).expand(1, -1, *images.shape[2:]) for t, v in values.items()
        }


def test_views_are_averaged_as_is_right_for_the_task():
    tasks = select_tasks(["semseg", "depth", "normals", "edge"])
    found = Views(ByWidth(), tasks, scales=[1, 2])(torch.zeros(1, 3, 10, 30))
    assert found["depth"].unique().tolist() == [3]  # (4 + 2 x 1) / 2 metres
    assert found["edge"].unique().tolist() == pytest.approx([0.5])
    assert found["normals"][0, :, 0, 0].tolist() == pytest.approx([0.5**0.5, 0.5**0.5, 0])
    assert found["semseg"].unique().tolist() == [1]


@pytest.mark.parametrize("scales", [[], [0], [1, 1], [float("nan")]])
def test_wrong_scales(scales):
    with pytest.raises(ValueError, match=r"positive tta\.scales"):
        Views(Equivariant(), VIEWED, scales=scales)


def test_files_keep_predictions(tmp_path):
    predictions, _ = maps()
    predictions["edge"] = predictions["sal"]
    for task, values in predictions.items():
        outputs = {"semseg": 4, "human_parts": 4}.get(task, 1)
        save_prediction(tmp_path, task, "0001", values[0])
        read = read_prediction(tmp_path, task, "0001", outputs)
        assert prediction_path(tmp_path, task, "0001").is_file()
        if task in ("semseg", "human_parts", "depth"):
            assert torch.equal(read, values[0])
        elif task == "normals":
            # An error of half a step in each component of a unit vector.
            assert (read - values[0]).norm(dim=0).max() < 3**0.5 / 255
            assert read.norm(dim=0) == pytest.approx(torch.ones(8, 9), abs=1e-6)
        else:
            assert torch.equal((read * 255).round(), (values[0] * 255).floor())
    assert {path.name for path in (tmp_path / "depth").iterdir()} == {"0001.npy"}


def test_files_have_the_literatures_formats(tmp_path):
    """Read by another library."""
    from PIL import Image

    normals = torch.tensor([1.0, 0.0, -1.0]).view(3, 1, 1).expand(3, 2, 2)
    save_prediction(tmp_path, "normals", "a", normals)
    assert np.asarray(Image.open(tmp_path / "normals/a.png"))[0, 0].tolist() == [255, 128, 0]
    save_prediction(tmp_path, "edge", "a", torch.tensor([[0.999, 1.0], [0.5, 0.0]]))
    assert np.asarray(Image.open(tmp_path / "edge/a.png")).tolist() == [[254, 255], [127, 0]]
    save_prediction(tmp_path, "normals", "b", torch.zeros(3, 2, 2))
    assert not read_prediction(tmp_path, "normals", "b", 3).any()


@pytest.mark.parametrize(
    ("task", "array", "message"),
    [
        ("semseg", np.full((2, 2), 4, np.uint8), r"classes 0\.\.3 .* got 4"),
        ("depth", np.full((2, 2), np.nan, np.float32), "finite metres"),
    ],
)
def test_values_that_a_task_does_not_have(tmp_path, task, array, message):
    save_prediction(tmp_path, task, "a", torch.from_numpy(array))
    with pytest.raises(PredictionsError, match=message):
        read_prediction(tmp_path, task, "a", 4)


def test_wrong_files_are_listed_before_anything_is_computed(tmp_path):
    names = [f"{i:04d}" for i in range(30)]
    classes = torch.zeros(4, 5, dtype=torch.uint8)
    for name in names[13:]:
        save_prediction(tmp_path, "semseg", name, classes)
    save_prediction(tmp_path, "semseg", "0020", torch.zeros(5, 4, dtype=torch.uint8))
    save_prediction(tmp_path, "semseg", "0099", classes)
    save_prediction(tmp_path, "semseg", "0021", classes + 4)
    cut = (tmp_path / "semseg/0022.png").read_bytes()[:-25]
    (tmp_path / "semseg/0022.png").write_bytes(cut)
    np.save(tmp_path / "depth.npy", np.zeros((4, 5), np.int64))
    for name in names:
        save_prediction(tmp_path, "depth", name, torch.zeros(4, 5))
    save_prediction(tmp_path, "depth", "0006", torch.full((4, 5), torch.nan))
    (tmp_path / "depth.npy").rename(tmp_path / "depth/0007.npy")
    (tmp_path / "depth/0008.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(PredictionsError) as error:
        check_predictions(tmp_path, {"semseg": 4, "depth": 1}, dict.fromkeys(names, (4, 5)), names)
    text = str(error.value)
    assert "13 missing:\n    - semseg/0000.png\n" in text
    assert "semseg/0009.png\n    … and 3 more" in text
    assert "semseg/0010.png" not in text
    assert "1 extra:\n    - semseg/0099.png: no such image" in text
    assert "semseg/0020.png: expected the image's (4, 5), got (5, 4)" in text
    assert "depth/0007.npy: expected float32 array or float64 array, got int64 array" in text
    assert "depth/0008.npy: expected float32 array or float64 array, got no readable file" in text
    assert "3 of wrong content:\n" in text
    assert f"Expected classes 0..3 in {tmp_path}/semseg/0021.png, got 4" in text
    assert f"complete file {tmp_path}/semseg/0022.png" in text
    assert f"finite metres in {tmp_path}/depth/0006.npy" in text
    assert "ids=FILE" in text
    check_predictions(tmp_path, {"semseg": 4}, dict.fromkeys(names[23:], (4, 5)), [*names, "0099"])


def test_boundary_scores_are_the_benchmarks():
    rng = np.random.default_rng(0)
    predicted, truths = rng.integers(5, 40, (5, 3)), np.repeat(rng.integers(5, 40, (5, 1)), 3, 1)
    hits = (np.minimum(predicted, truths) * rng.uniform(0.3, 1, (5, 3))).astype(np.int64)
    counts = np.stack((hits, truths, hits, predicted), -1)
    scores = pool(counts, [0.25, 0.5, 0.75])
    names = list("abcdefg")
    statistics = boundary_statistics(scores, list("bcefg"), names)
    found = boundary_score({name: values.sum(0) for name, values in statistics.items()}, 0.0)
    expected = {"odsF": 100 * scores.ods, "oisF": 100 * scores.ois, "AP": 100 * scores.ap}
    assert {name: value.item() for name, value in found.items()} == pytest.approx(expected, rel=1e-12)
    each = boundary_score(statistics, 0.0)["odsF"]
    assert each.isnan().tolist() == [name in "ad" for name in names]
    assert each[1].item() == pytest.approx(100 * pool(counts[:1], [0.25, 0.5, 0.75]).ods)


def test_the_boundary_protocol_is_the_datasets():
    assert choose_protocol("auto", get_dataset("nyud")).name == "nyud"
    assert choose_protocol("pascal", get_dataset("PASCALContext")).max_dist == 0.0075
    assert choose_protocol(None, get_dataset("nyud")) is None
    with pytest.raises(ValueError, match="boundaries=auto, nyud or null for NYUDv2, got pascal"):
        choose_protocol("pascal", get_dataset("nyud"))


def test_lists_of_ids(tmp_path):
    assert read_id_list(None, IDS) == IDS
    (tmp_path / "ids.txt").write_text("0004\n0001\n")
    assert read_id_list(str(tmp_path / "ids.txt"), IDS) == ["0001", "0004"]
    (tmp_path / "others.txt").write_text("0004\n0009\n")
    with pytest.raises(DatasetError, match="1 others, such as 0009"):
        read_id_list(str(tmp_path / "others.txt"), IDS)
    for name, text in (("empty.txt", ""), ("none.txt", None)):
        if text is not None:
            (tmp_path / name).write_text(text)
        with pytest.raises(DatasetError, match=f"Expected .*{name}"):
            read_id_list(str(tmp_path / name), IDS)


def test_worst_images_come_first():
    scores = {task: metric.score for task, metric in METRICS.items()}
    assessment = assess(collect().gather(IDS), scores, resamples=0, seed=0)
    tasks = select_tasks(["semseg", "depth", "human_parts"])
    worst = worst_images(assessment, tasks, {task.name: task.headline for task in tasks}, IDS, 6)
    depth = [row["score"] for row in worst["depth"]]
    assert depth == sorted(depth, reverse=True)
    miou = [row["score"] for row in worst["semseg"]]
    assert miou == sorted(miou)
    assert score_directly("semseg", [IDS.index(worst["semseg"][0]["id"])])["mIoU"] == pytest.approx(miou[0])
    assert sorted(row["id"] for row in worst["human_parts"]) == [name for name in IDS if name != "0002"]


def test_the_padding_is_cut_as_it_was_added():
    assert crop(torch.arange(20).view(4, 5), (1, 2)).tolist() == [[6, 7]]


# Whole runs: an untrained checkpoint of a micro model on images of 32x48, padded to 32x64.


def settings(root: Path, cache: Path) -> list[str]:
    return [f"data.root={root}", "data.num_workers=0", "boundary_workers=1", f"cache_dir={cache}"]


@pytest.fixture(scope="module", params=["nyud", "pascal_context"])
def evaluated(request, tmp_path_factory):
    """The dataset's name, root, checkpoint, and an evaluation's folder with saved predictions."""
    folder = tmp_path_factory.mktemp(request.param)
    write = write_nyud if request.param == "nyud" else write_pascal
    root = write(folder / "data", train=4, val=6, size=(32, 48))
    grid = "data.crop_size=[32,64]"
    cfg = mtmamba.load_config([f"data={request.param}", grid, "data.val_batch_size=4", "encoder=swin_micro"])
    torch.manual_seed(0)
    module = build.build_module(cfg)
    checkpoint = {"mtmamba": compose.describe(cfg), "state_dict": module.state_dict(), "global_step": 7}
    torch.save(checkpoint, folder / "tiny.ckpt")
    out = folder / "eval"
    options = [f"ckpt={folder}/tiny.ckpt", "trainer.accelerator=cpu", *settings(root, folder / "cache")]
    record = evaluate(mtmamba.load_config([*options, "save_predictions=true", "worst=2", "pictures=3"], "eval"), out)
    return request.param, root, folder, out, record, options


def test_an_evaluation_leaves_its_folder(evaluated):
    data, _, _, out, record, _ = evaluated
    tasks = set(record["tasks"])
    assert {path.name for path in (out / "pictures").iterdir()} == {
        "best.png",
        "boundaries.png",
        *(f"worst_{task}.png" for task in tasks),
    }
    assert {path.name for path in (out / "predictions").iterdir()} == tasks
    stored = json.loads((out / "metrics.json").read_text())
    assert stored["images"] == 6
    assert stored["step"] == 7
    assert len(stored["checkpoint_sha256"]) == 64
    assert stored["protocols"]["edge"]["boundaries"]["name"] == data.split("_")[0]
    assert "2498" in stored["tasks"]["edge"]["protocol"] or data == "nyud"
    assert list(stored["classes"]["semseg"])[:2] == (
        ["wall", "floor"] if data == "nyud" else ["background", "aeroplane"]
    )
    for task, values in stored["intervals"].items():
        for name, (low, high) in values.items():
            assert low <= high, (task, name)
    mean = np.mean([row["IoU"] for row in stored["classes"]["semseg"].values()])
    assert mean == pytest.approx(stored["tasks"]["semseg"]["mIoU"])
    assert all(len(rows) == 2 for rows in stored["worst"].values())
    if data == "nyud":
        low, high = stored["delta_m_interval"]
        assert low < stored["delta_m"] < high


def test_saved_predictions_score_the_same(evaluated, tmp_path):
    data, root, folder, out, record, _ = evaluated
    options = [f"data={data}", "data.crop_size=[32,64]", f"pred={out}/predictions", *settings(root, folder / "cache")]
    again = evaluate_predictions(mtmamba.load_config(options, "eval_predictions"), tmp_path)
    exact = {"semseg": ["mIoU"], "depth": ["RMSE"], "human_parts": ["mIoU"], "edge": ["odsF", "oisF", "AP"]}
    for task, names in exact.items():
        for name in names if task in record["tasks"] else []:
            assert again["tasks"][task][name] == pytest.approx(record["tasks"][task][name], rel=1e-12)
            assert again["intervals"][task][name] == pytest.approx(record["intervals"][task][name], rel=1e-12)
    assert again["classes"] == record["classes"]
    assert "loss" not in again["tasks"]["edge"]
    assert again["protocols"]["edge"].keys() == {"boundaries"}
    near = {"mErr": 0.05, "median": 0.3, "within_11.25": 0.3, "within_22.5": 0.3, "within_30": 0.3}  # of degrees and %
    for name, margin in near.items():
        assert again["tasks"]["normals"][name] == pytest.approx(record["tasks"]["normals"][name], abs=margin)
    for name in ("maxF", "maxF_published") if "sal" in record["tasks"] else ():
        assert again["tasks"]["sal"][name] == pytest.approx(record["tasks"]["sal"][name], abs=1)
    assert (tmp_path / "pictures/worst_edge.png").is_file()


def test_a_quick_look_saves_nothing_and_takes_a_list_of_ids(evaluated, tmp_path):
    _, _, _, out, record, options = evaluated
    chosen = sorted(path.stem for path in (out / "predictions/edge").iterdir())[1:3]
    (tmp_path / "ids.txt").write_text("\n".join(chosen))
    more = [f"ids={tmp_path}/ids.txt", "boundaries=null", "bootstrap.resamples=0", "worst=0", "pictures=0"]
    found = evaluate(mtmamba.load_config([*options, *more], "eval"), tmp_path / "quick")
    assert found["images"] == 2
    assert "odsF" not in found["tasks"]["edge"]
    assert found["intervals"] == {}
    assert not (tmp_path / "quick/predictions").exists()
    assert found["tasks"]["semseg"] != record["tasks"]["semseg"]


def test_bfloat16_rounds_weights_beforehand_and_scores_the_same(evaluated, tmp_path, monkeypatch):
    options = [*evaluated[-1], "trainer.precision=bf16-mixed", "bootstrap.resamples=0", "worst=1", "pictures=0"]
    round_weights, rounded = MultiTaskModel.weights_to_bfloat16, []
    monkeypatch.setattr(MultiTaskModel, "weights_to_bfloat16", lambda model: rounded.append(round_weights(model)))
    found = evaluate(mtmamba.load_config(options, "eval"), tmp_path / "rounded")
    (model,) = rounded
    assert torch.bfloat16 in {p.dtype for p in model.parameters()}
    monkeypatch.setattr(MultiTaskModel, "weights_to_bfloat16", lambda model: None)
    expected = evaluate(mtmamba.load_config(options, "eval"), tmp_path / "plain")
    assert {key: found[key] for key in ("tasks", "worst", "parameters")} == {
        key: expected[key] for key in ("tasks", "worst", "parameters")
    }
    evaluate(mtmamba.load_config([*evaluated[-1], "bootstrap.resamples=0", "worst=0", "pictures=0"], "eval"), tmp_path)
    assert len(rounded) == 1  # in float32 there is nothing to round


def test_the_dataset_and_the_split_are_the_checkpoints(evaluated, tmp_path):
    _, _, _, _, _, options = evaluated
    with pytest.raises(ConfigError, match=r"checkpoint's own dataset, got data=synthetic: .*data\.root"):
        evaluate(mtmamba.load_config([*options, "data=synthetic"], "eval"), tmp_path)
    with pytest.raises(ConfigError, match="Expected split to be train or val, got test"):
        evaluate(mtmamba.load_config([*options, "split=test"], "eval"), tmp_path)


def test_boundaries_take_a_list_of_their_own_on_the_training_split(evaluated, tmp_path):
    data, root, _, _, _, options = evaluated
    names = (root / ("gt_sets/train.txt" if data == "nyud" else "ImageSets/Context/train.txt")).read_text().split()
    (tmp_path / "ids.txt").write_text("\n".join(names[:3]))
    more = ["split=train", f"boundary_ids={tmp_path}/ids.txt", "bootstrap.resamples=10", "worst=4", "tta.flip=true"]
    found = evaluate(mtmamba.load_config([*options, *more], "eval"), tmp_path / "train")
    assert found["split"] == "train"
    assert found["images"] == 4
    assert found["protocols"]["edge"]["boundaries"]["images"] == 3
    assert {row["id"] for row in found["worst"]["edge"]} == set(names[:3])
    assert found["tta"] == {"flip": True, "scales": [1.0]}
    assert not (tmp_path / "train/predictions").exists()


def test_a_folder_without_what_is_asked_for_is_refused(evaluated, tmp_path):
    data, root, folder, out, _, _ = evaluated
    options = [f"data={data}", *settings(root, folder / "cache")]

    def score(*more: str) -> None:
        evaluate_predictions(mtmamba.load_config([*options, *more], "eval_predictions"), tmp_path / "run")

    with pytest.raises(FileNotFoundError, match=r"got no .*nowhere"):
        score(f"pred={tmp_path}/nowhere")
    with pytest.raises(PredictionsError, match=r"some of \['semseg'"):
        score(f"pred={tmp_path}")
    with pytest.raises(PredictionsError, match="boundaries=null"):
        score(f"pred={out}/predictions", "tasks=[edge]", "boundaries=null")
    (tmp_path / "empty/semseg").mkdir(parents=True)
    with pytest.raises(PredictionsError, match="6 missing"):
        score(f"pred={tmp_path}/empty")


def test_test_images_are_those_chosen(tmp_path):
    root = write_nyud(tmp_path / "data", train=3, val=2)
    data = mtmamba.build_datamodule(mtmamba.load_config(["data=nyud", f"data.root={root}", "data.num_workers=0"]))
    data.setup()
    assert data.dataset_of("test").ids == DenseDataset("nyud", root, "val", ["depth"], dict, cache_dir=tmp_path).ids
    data.choose_test("train", ["0003", "0001"])
    assert [batch["id"] for batch in data.test_dataloader()] == [["0001", "0003"]]
    assert not torch.equal(data.dataset_of("test")[0]["image"], data.dataset_of("train")[0]["image"])
    data.choose_test("train", ["0009"])
    with pytest.raises(DatasetError, match="such as 0009"):
        data.dataset_of("test")


def test_every_task_says_how_its_views_are_averaged():
    for task in all_tasks().values():
        logits = torch.randn(1, 40 if task.name == "semseg" else 3 if task.name == "normals" else 2, 4, 4)
        assert task.activate(logits).dtype == torch.float32
        assert max(task.mirrored, default=0) < task.activate(logits).shape[1]
