"""Prediction at any size, in any batch and order; files that evaluation scores; videos."""

import json
import os
import signal
import threading

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from PIL import Image

import mtmamba
from fake_data import write_nyud
from fake_training import overrides
from mtmamba import build, restore
from mtmamba.checkpoints import save_checkpoint
from mtmamba.config import compose
from mtmamba.config.settings import ConfigError, check_settings
from mtmamba.data.transforms import ResizeTransform
from mtmamba.evaluation.checkpoint import evaluate
from mtmamba.evaluation.folder import evaluate_predictions
from mtmamba.files import claimed
from mtmamba.inference import network as networks
from mtmamba.inference import own_size, plans
from mtmamba.inference import predict as predict_module
from mtmamba.inference import predictor as predictors
from mtmamba.inference.images import read_photo
from mtmamba.inference.network import Network
from mtmamba.inference.plans import plan
from mtmamba.inference.predict import predict, side_by_side
from mtmamba.inference.predictor import Predictor
from mtmamba.inference.request import read_request
from mtmamba.inference.sources import SourceError
from mtmamba.inference.video import frames
from mtmamba.shipped import config_dir
from mtmamba.tasks import select_tasks
from mtmamba.types import IMAGENET_MEAN, IMAGENET_STD

TRAINED = (64, 96)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    root = write_nyud(tmp_path_factory.mktemp("nyud"), train=2, val=3, size=(50, 70))
    return mtmamba.load_config(overrides(root, root.parent / "logs", "data.crop_size=[64,96]"))


@pytest.fixture(scope="module")
def model(config):
    torch.manual_seed(0)
    model = mtmamba.build_model(config)
    with torch.no_grad():
        for parameter in model.decoder.parameters():  # an untrained head predicts one class everywhere
            parameter += 0.05 * torch.randn_like(parameter)
    return model.eval()


@pytest.fixture(scope="module")
def predictor(model):
    return Predictor(model, device="cpu")


def photo(size, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC))


class Pointwise(torch.nn.Module):
    """Depth is the mean of a pixel's normalised channels."""

    def forward(self, images):
        return {"depth": images.mean(1, keepdim=True)}


def pointwise():
    return Network(Pointwise(), select_tasks(["depth"]), "cpu", "32", flip=False)


@pytest.mark.parametrize(
    ("size", "choice", "expected", "grid"),
    [
        ((50, 70), "auto", (50, 70), TRAINED),
        ((64, 96), "native", (64, 96), TRAINED),
        ((640, 960), "auto", (64, 96), TRAINED),
        ((960, 640), "auto", (96, 64), (96, 64)),
        ((200, 100), "native", (200, 100), (224, 128)),
        ((200, 100), "max:150", (150, 75), (160, 96)),
        ((200, 100), [40, 80], (40, 80), TRAINED),
        ((1, 1), "auto", (1, 1), TRAINED),
        ((1, 40000), "auto", (1, 15677), (32, 15680)),
    ],
)
def test_plans(size, choice, expected, grid):
    found = plan(size, choice, TRAINED)
    assert (found.size, found.grid, found.tiled) == (expected, grid, False)
    assert (found.done == ()) == (found.size == size)


@pytest.mark.parametrize("size", ["big", "max:x", "max:8", [0, 5], [3], "max:", 5, None])
def test_sizes_that_are_none(size, model):
    with pytest.raises(SourceError, match="size to be auto, native"):
        Predictor(model, device="cpu", size=size)


def test_an_image_within_the_grid_is_predicted_as_in_evaluation(model, predictor):
    image = photo((50, 70))
    values = (torch.from_numpy(image).movedim(-1, 0) / 255 - torch.tensor(IMAGENET_MEAN)[:, None, None]) / (
        torch.tensor(IMAGENET_STD)[:, None, None]
    )
    with torch.no_grad():
        logits = model(F.pad(values, (13, 13, 7, 7))[None])  # 64 - 50 = 14, 96 - 70 = 26, half on each side
    result = predictor(image)
    for task in predictor.tasks:
        wanted = task.predict(logits[task.name])[0][..., 7:57, 13:83]
        assert result[task.name].shape == tuple(wanted.shape)
        if task.dtype == "uint8" and task.channels is None and result[task.name].dtype == np.uint8:
            assert (torch.from_numpy(result[task.name]) == wanted).float().mean() > 0.999
        else:
            torch.testing.assert_close(torch.from_numpy(result[task.name]), wanted.float(), atol=1e-4, rtol=1e-4)


def test_results_have_the_image_s_size_and_types(predictor):
    result = predictor(photo((150, 333)))
    assert {name: (x.shape, x.dtype.name) for name, x in result.values.items()} == {
        "semseg": ((150, 333), "uint8"),
        "depth": ((150, 333), "float32"),
        "normals": ((3, 150, 333), "float32"),
        "edge": ((150, 333), "float32"),
    }
    assert np.allclose(np.linalg.norm(result["normals"], axis=0), 1, atol=1e-5)
    assert result.photo.done == ("scaled to 117x53",)
    assert repr(result) == "<Result of image, 333x150: semseg, depth, normals, edge>"
    chances = result.probabilities("semseg")
    assert chances.shape == (40, 150, 333)
    assert np.allclose(chances.sum(0), 1, atol=1e-4)
    assert (chances.argmax(0) == result["semseg"]).mean() > 0.999


def test_bands_are_the_whole(monkeypatch, predictor):
    image = photo((150, 333))
    whole = predictor(image)
    monkeypatch.setattr(own_size, "VALUES_AT_ONCE", 40 * 333 * 7)
    banded = predictor(image)
    for name, values in whole.values.items():
        if values.dtype == np.float32:
            np.testing.assert_allclose(values, banded[name], atol=1e-4)
        else:
            assert (values == banded[name]).mean() > 0.999


def test_images_of_one_size_are_finished_together():
    a, b = ((448, 576), (10, 20)), ((448, 576), (40, 10))
    assert list(own_size.runs_of_one_size([a, a, a, b, a], 2 * 200)) == [(0, 2), (2, 3), (3, 4), (4, 5)]
    assert list(own_size.runs_of_one_size([a, a], 0)) == [(0, 1), (1, 2)]
    assert list(own_size.runs_of_one_size([], 0)) == []


def test_of_a_large_image_one_task_is_held_at_a_time(monkeypatch, predictor, tmp_path):
    image = photo((70, 90))
    predictor(image).save(tmp_path / "whole")
    monkeypatch.setattr(own_size, "LARGE", 70 * 90 - 1)
    result = predictor(image)
    assert isinstance(result.values, own_size.Large)
    assert result["depth"] is not result["depth"]
    for path in result.save(tmp_path / "one"):
        assert path.read_bytes() == (tmp_path / "whole" / path.relative_to(tmp_path / "one")).read_bytes()


def test_maps_are_resized_as_by_pytorch():
    image = photo((200, 310))
    one = plan(image.shape[:2], [50, 70], TRAINED)
    maps = pointwise().maps_of(image, one, "depth")
    small = plans.normalised(np.asarray(cv2.resize(image, (70, 50), interpolation=cv2.INTER_AREA)))
    wanted = F.interpolate(small.mean(0)[None, None].clamp(min=0), (200, 310), mode="bilinear")[0]
    np.testing.assert_allclose(maps, wanted, atol=1e-5)


@pytest.mark.parametrize("size", [(130, 300), (64, 64), (65, 200), (300, 40)])
def test_tiles_of_a_pointwise_network_are_the_whole(monkeypatch, size):
    """Whatever the weights of overlapping tiles, they must add up to one."""
    monkeypatch.setattr(plans, "TILE", 64)
    monkeypatch.setattr(plans, "OVERLAP", 16)
    image = photo(size)
    tiled = plans.Plan(size, size, True)
    (found,) = pointwise().predict([image], [tiled])
    wanted = plans.normalised(image).mean(0).clamp(min=0).numpy()
    np.testing.assert_allclose(found["depth"], wanted, atol=1e-5)


def test_large_images_are_tiled():
    assert plan((1300, 1300), "native", TRAINED).done == ("predicted in 2x2 tiles",)
    assert plan((9000, 12000), "native", TRAINED).tiled
    assert not plan((9000, 12000), "auto", TRAINED).tiled


def test_batch_and_order_change_nothing(predictor):
    images = [photo(size, i) for i, size in enumerate([(50, 70), (64, 96), (200, 100), (30, 31), (50, 70)])]
    alone = [predictor(image) for image in images]
    for batch_size in (1, 2, 8):
        for one, other in zip(alone, predictor(images, batch_size=batch_size, stream=True), strict=True):
            for name, values in one.values.items():
                assert np.mean(np.abs(values.astype(np.float64) - other[name]) < 1e-3) > 0.999


def test_freed_memory_is_given_back_now_and_then(predictor, monkeypatch):
    """Over 240 photographs of mixed sizes a process had grown by 100 MB."""
    given = []
    monkeypatch.setattr(predictors, "give_back_memory", lambda: given.append(None))
    every = predictors.GIVEN_BACK_EVERY
    images = [photo((50, 70), i) for i in range(every + 1)]
    for number, _ in enumerate(predictor(images, batch_size=1, stream=True)):
        assert len(given) == number // every + 1


def test_two_threads(predictor):
    images = [photo((50, 70), i) for i in range(2)]
    alone = [predictor(image)["depth"] for image in images]
    found = {}

    def work(i):
        found[i] = [predictor(images[i])["depth"] for _ in range(3)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(2):
        assert all(np.allclose(depth, alone[i], atol=1e-5) for depth in found[i])


def test_some_tasks(model):
    result = Predictor(model, device="cpu", tasks=["edge"])(photo((20, 20)))
    assert list(result) == ["edge"]
    with pytest.raises(KeyError, match="among edge, got depth"):
        result["depth"]
    with pytest.raises(SourceError, match="among semseg, depth, normals, edge"):
        Predictor(model, device="cpu", tasks=["sal"])


def test_settings_that_cannot_be(model):
    with pytest.raises(SourceError, match="precision to be auto, bf16 or 32, got 64"):
        Predictor(model, device="cpu", precision="64")
    with pytest.raises(SourceError, match="device to be auto"):
        Predictor(model, device="abacus")
    with pytest.raises(SourceError, match="device to be auto"):
        Predictor(model, device=None)


def test_a_stream_of_one_image_is_a_stream(predictor, tmp_path):
    Image.fromarray(photo((20, 30))).save(tmp_path / "one.png")
    for source in (tmp_path / "one.png", photo((20, 30)), str(tmp_path / "*.png"), [photo((20, 30))]):
        assert [result.image.shape for result in predictor(source, stream=True)] == [(20, 30, 3)]
    assert predictor(tmp_path / "one.png").name == "one"
    assert [result.name for result in predictor(str(tmp_path / "o*.png"))] == ["one"]  # a pattern means many
    assert [result.name for result in predictor(tmp_path.glob("*.png"))] == ["one"]


def test_images_without_an_end(predictor):
    given = []

    def camera():
        while True:
            given.append(photo((20, 30)))
            yield given[-1]

    results = predictor(camera(), batch_size=2, stream=True)
    assert [next(results).name for _ in range(3)] == ["image_0", "image_1", "image_2"]
    assert len(given) == 4


@pytest.mark.parametrize("size", [0, -1, "8", 2.0])
def test_batches_of_nothing_are_refused(predictor, size):
    with pytest.raises(SourceError, match="batch_size to be a whole number of at least 1, got"):
        predictor([photo((20, 30))], batch_size=size)


@pytest.mark.parametrize(
    ("limit", "value"), [("PIXELS_AHEAD", 4 * 3 * 64 * 96), ("PIXELS_AT_ONCE", {"cpu": 3 * 64 * 96, "cuda": 1})]
)
def test_tiny_images_fill_no_endless_batch(monkeypatch, predictor, limit, value):
    """Each takes the network a whole grid, 64x96 here, however small it is."""
    monkeypatch.setattr(predictors, limit, value)
    batches, predict_batch = [], predictor.network.predict

    def counted(images, plans):
        batches.append(len(images))
        return predict_batch(images, plans)

    monkeypatch.setattr(predictor.network, "predict", counted)
    assert len(predictor([np.zeros((1, 1, 3), np.uint8)] * 9, batch_size=1000)) == 9
    assert batches == [4, 4, 1]


@pytest.mark.parametrize("size", [(1, 1), (900, 2), (3, 5000), (400, 1300)])
def test_images_of_odd_proportions_have_sheets(predictor, tmp_path, size):
    result = predictor(np.full((*size, 3), 99, np.uint8))
    assert result["normals"].shape == (3, *size)
    assert all(path.stat().st_size for path in result.save(tmp_path))
    assert max(result.sheet().shape) < 6000


def test_legends_and_sheets(predictor):
    result = predictor(photo((50, 70)))
    shown = {word for word, _ in result.legend("semseg").entries}
    classes = predictor.classes["semseg"]
    assert shown == {classes[c].replace("_", " ") for c in np.unique(result["semseg"])}
    colours = {tuple(colour) for colour in result.picture("semseg").reshape(-1, 3).tolist()}
    assert colours == {colour for _, colour in result.legend("semseg").entries}
    words = [word for word, _ in result.legend("depth").entries if word]
    assert words == ["0.5 m", "1 m", "2 m", "4 m", "8 m"]
    assert result.sheet().shape[1] > 3 * 480
    assert side_by_side(result).shape == (50, 105, 3)


@pytest.fixture(scope="module")
def checkpoint(config, model, tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "checkpoints/last.ckpt"
    path.parent.mkdir()
    state = {f"model.{k}": v for k, v in model.state_dict().items()}
    save_checkpoint({"state_dict": state, "mtmamba": compose.describe(config), "global_step": 3}, path)
    return path


def settings(name, **values):
    cfg = OmegaConf.load(config_dir() / f"{name}.yaml")
    del cfg["defaults"]
    return OmegaConf.merge(cfg, values)


def test_predicted_files_have_evaluation_s_scores(config, checkpoint, tmp_path):
    """eval_predictions.py on what predict.py wrote, and eval.py on the checkpoint: equal to the files' rounding."""
    root = config.data.root
    ids = (mtmamba.build_datamodule(config)).record.read_ids(build.Path(root), "val")
    sources = [f"{root}/images/{name}.png" for name in ids]
    folder = tmp_path / "out"
    cfg = settings("predict", source=sources, ckpt=str(checkpoint), save_dir=str(folder), device="cpu")
    assert predict(cfg, read_request(cfg))
    evaluation = mtmamba.load_config(
        [f"ckpt={checkpoint}", f"data.root={root}", "data.num_workers=0", "worst=0"], "eval"
    )
    wanted = evaluate(evaluation, tmp_path / "eval")
    scored = mtmamba.load_config(
        [f"pred={folder}/raw", f"data.root={root}", "data.num_workers=0", "worst=0"], "eval_predictions"
    )
    found = evaluate_predictions(scored, tmp_path / "scored")
    for task, metric, precision in (
        ("semseg", "mIoU", 1e-4),
        ("depth", "RMSE", 1e-4),
        ("normals", "mErr", 0.05),
        ("edge", "odsF", 0.1),
    ):
        assert found["tasks"][task][metric] == pytest.approx(wanted["tasks"][task][metric], abs=precision, rel=1e-3), (
            task
        )


def test_bad_files_are_listed_and_the_rest_goes_on(checkpoint, tmp_path):
    source = tmp_path / "in"
    (source / "deep er").mkdir(parents=True)
    Image.fromarray(photo((20, 30))).save(source / "deep er/good=1.png")
    Image.fromarray(photo((20, 30))).save(source / "good.png")
    (source / "text.jpg").write_text("no image")
    cfg = settings("predict", source=str(source), ckpt=str(checkpoint), save_dir=str(tmp_path / "out"), device="cpu")
    assert not predict(cfg, read_request(cfg))
    record = json.loads((tmp_path / "out/predictions.json").read_text())
    by_name = {entry["name"]: entry for entry in record["predictions"]}
    assert list(by_name) == ["deep er/good=1", "good", "text"]
    assert "whole image" in by_name["text"]["error"]
    for name in ("deep er/good=1", "good"):
        assert all((tmp_path / "out" / file).is_file() for file in by_name[name]["files"])
        assert len(by_name[name]["files"]) == 9
    with pytest.raises(FileExistsError, match="overwrite=true"):
        read_request(cfg)
    cfg.overwrite = True
    assert not predict(cfg, read_request(cfg))


def test_two_calls_do_not_share_a_folder(checkpoint, tmp_path, monkeypatch):
    Image.fromarray(photo((20, 30))).save(tmp_path / "in.png")
    out = tmp_path / "out"
    cfg = settings("predict", source=str(tmp_path / "in.png"), ckpt=str(checkpoint), save_dir=str(out), device="cpu")
    with claimed(out), pytest.raises(FileExistsError, match="that no other process writes to"):
        predict(cfg, read_request(cfg))
    original = predict_module.make_predictor

    def meanwhile(cfg):
        (out / "predictions.json").write_text("another's")
        return original(cfg)

    monkeypatch.setattr(predict_module, "make_predictor", meanwhile)
    with pytest.raises(FileExistsError, match="Expected a new or empty save_dir"):
        predict(cfg, read_request(cfg))
    assert [(path.name, path.read_text()) for path in out.iterdir()] == [("predictions.json", "another's")]


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_what_was_predicted_before_a_stop_is_written_and_listed(checkpoint, tmp_path, monkeypatch, stop):
    """Results on their way to files had been left out of predictions.json, all of it where SIGTERM came."""
    for index in range(4):
        Image.new("RGB", (40, 30), (index, 90, 90)).save(tmp_path / f"{index}.png")
    files = Predictor.files

    def stopped(self, *args):
        for number, result in enumerate(files(self, *args)):
            if number == 3:
                os.kill(os.getpid(), stop)
            yield result

    monkeypatch.setattr(Predictor, "files", stopped)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # as every script's beginning does
    places = {"source": str(tmp_path / "*.png"), "save_dir": str(tmp_path / "out"), "ckpt": str(checkpoint)}
    cfg = settings("predict", **places, device="cpu", save=["picture"], batch_size=1)
    try:
        with pytest.raises(KeyboardInterrupt):
            predict(cfg, read_request(cfg))
    finally:
        signal.signal(signal.SIGTERM, before)
    entries = json.loads((tmp_path / "out/predictions.json").read_text())["predictions"]
    assert [entry["name"] for entry in entries] == ["0", "1", "2"]
    assert all((tmp_path / "out" / file).is_file() for entry in entries for file in entry["files"])


def test_long_names_and_what_a_killed_run_left(checkpoint, tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    name = "長" * 83  # with .png 253 of the 255 bytes that file systems allow
    Image.fromarray(photo((20, 30))).save(source / f"{name}.png")
    (out / "raw/depth").mkdir(parents=True)
    (out / "raw/depth/.0123456789abcdef.partial.x.npy").write_bytes(b"")
    cfg = settings("predict", source=str(source), ckpt=str(checkpoint), save_dir=str(out), device="cpu", overwrite=True)
    assert predict(cfg, read_request(cfg))
    assert sorted(path.name for path in (out / "raw/depth").iterdir()) == [f"{name}.npy"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("source", []),
        ("source", ""),
        ("source", {"a": 1}),
        ("save", []),
        ("save", None),
        ("save", 5),
        ("save", ["raws"]),
        ("batch_size", None),
    ],
)
def test_nothing_to_read_or_write_is_refused(key, value):
    with pytest.raises(ConfigError, match=f"Expected {key} to be "):
        check_settings(settings("predict", **{"source": "a.png", key: value}))


def write_film(path):
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("h264", rate=12)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(25):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 10 * i, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return av


def test_a_film_in_and_out(checkpoint, tmp_path):
    av = write_film(tmp_path / "in.mp4")
    cfg = settings(
        "predict", source=str(tmp_path / "in.mp4"), ckpt=str(checkpoint), save_dir=str(tmp_path / "out"), device="cpu"
    )
    cfg.tasks, cfg.save = ["depth", "edge"], ["picture", "sheet"]
    assert predict(cfg, read_request(cfg))
    films = sorted((tmp_path / "out").rglob("*.mp4"))
    assert [film.relative_to(tmp_path / "out").as_posix() for film in films] == [
        "pictures/depth/in.mp4", "pictures/edge/in.mp4", "sheets/in.mp4",
    ]  # fmt: skip
    for film in films:
        with av.open(str(film)) as container:
            stream = container.streams.video[0]
            assert (sum(1 for _ in container.decode(video=0)), float(stream.average_rate)) == (25, 12)


def test_a_stop_ends_a_film_and_begins_no_other(checkpoint, tmp_path, monkeypatch):
    """Ctrl-C, or a cluster's SIGTERM, had ended one film after the other, with status 0."""
    write_film(tmp_path / "a.mp4")
    write_film(tmp_path / "b.mp4")

    def stopped(source):
        for number, frame in enumerate(frames(source)):
            if number == 9:
                raise KeyboardInterrupt
            yield frame

    monkeypatch.setattr(predict_module, "frames", stopped)
    places = {"source": str(tmp_path / "*.mp4"), "save_dir": str(tmp_path / "out"), "ckpt": str(checkpoint)}
    cfg = settings("predict", **places, device="cpu", save=["picture"], tasks=["depth"], batch_size=1)
    with pytest.raises(KeyboardInterrupt):
        predict(cfg, read_request(cfg))
    (entry,) = json.loads((tmp_path / "out/predictions.json").read_text())["predictions"]
    assert (entry["name"], entry["done"]) == ("a", ["stopped by Ctrl-C"])
    assert 0 < entry["frames"] <= 9
    assert [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()].count("a.mp4") == 1


def test_a_broken_film_leaves_nothing_half_made(checkpoint, tmp_path):
    pytest.importorskip("av")
    (tmp_path / "in.mp4").write_bytes(b"no film")
    cfg = settings(
        "predict", source=str(tmp_path / "in.mp4"), ckpt=str(checkpoint), save_dir=str(tmp_path / "out"), device="cpu"
    )
    assert not predict(cfg, read_request(cfg))
    assert [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()] == ["predictions.json"]


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_model_given_away_comes_back(checkpoint, tmp_path, dtype):
    folder = mtmamba.save_pretrained(checkpoint, tmp_path / "model", dtype=dtype)
    there, back = mtmamba.load_model(checkpoint).state_dict(), mtmamba.load_model(folder).state_dict()
    for name, x in there.items():
        assert torch.equal(back[name], x.to(dtype).float() if dtype and x.is_floating_point() else x)
    again = mtmamba.save_pretrained(mtmamba.load_model(folder), tmp_path / "again", dtype=dtype)
    assert (folder / "model.safetensors").read_bytes() == (again / "model.safetensors").read_bytes()
    assert str(checkpoint.parents[2].parent) not in (folder / "config.json").read_text()  # nobody's folders
    assert "decoder `mtmamba`" in (folder / "README.md").read_text().lower()
    with pytest.raises(FileExistsError, match="new or empty folder"):
        mtmamba.save_pretrained(checkpoint, folder)


def test_damaged_models(checkpoint, tmp_path):
    folder = mtmamba.save_pretrained(checkpoint, tmp_path / "model")
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(ValueError, match="damaged or another"):
        restore.load_model(folder)
    with pytest.raises(FileNotFoundError, match="hf://owner/name"):
        restore.load_model("hf://nonsense")
    with pytest.raises(FileNotFoundError, match="got no_such_model"):
        restore.load_model("no_such_model")
    with pytest.raises(FileNotFoundError, match=r"got elsewhere/\.\./nyud_lite, no such file"):
        restore.load_model("elsewhere/../nyud_lite")  # not ours, whose name it ends in


def rewritten(folder, change):
    """A folder of `save_pretrained` whose config.json is another."""
    content = json.loads((folder / "config.json").read_text())
    change(content)
    (folder / "config.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.update(global_step="x"), "no number of steps"),
        (lambda content: content["mtmamba"]["values"].pop("data"), "settings of the checkpoint by name, .* for data"),
        (lambda content: content["mtmamba"]["values"].pop("tasks"), "settings of the checkpoint by name, .* for tasks"),
    ],
)
def test_a_description_that_lacks_something_is_refused(checkpoint, tmp_path, change, message):
    folder = mtmamba.save_pretrained(checkpoint, tmp_path / "model")
    rewritten(folder, change)
    with pytest.raises(ValueError, match=message):
        restore.load_model(folder)
    (folder / "config.json").write_text("[" * 10**5)
    with pytest.raises(ValueError, match="damaged or another's"):
        restore.load_model(folder)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "3",
        '{"tasks": {"depth": 3}}',
        '{"images": 3}',
        '{"tasks": {"depth": {"RMSE": 1}}, "intervals": []}',
        "[" * 10**5,
    ],
)
def test_damaged_scores_are_named_before_a_model_is_given_away(checkpoint, tmp_path, text):
    folder = mtmamba.save_pretrained(checkpoint, tmp_path / "model")
    (folder / "metrics.json").write_text(text)
    with pytest.raises(ValueError, match=r"the scores of a run in .*metrics\.json, got a file that is damaged"):
        mtmamba.save_pretrained(folder, tmp_path / "again")
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_weights_are_stored_so_that_they_can_be_read(checkpoint, tmp_path, dtype):
    with pytest.raises(ValueError, match=r"Expected dtype to be one of None, torch\.float32"):
        mtmamba.save_pretrained(checkpoint, tmp_path / "model", dtype=dtype)


def test_a_batch_that_is_finished_together_is_as_image_by_image(monkeypatch, predictor):
    photos = [(f"{i}", read_photo(photo((60 + 10 * (i == 2), 80)))) for i in range(4)]
    apart = list(predictor.photos(photos, 4))
    monkeypatch.setattr(networks, "TOGETHER", {"cpu": 2**27})
    for one, other in zip(apart, predictor.photos(photos, 4), strict=True):
        for name, values in one.values.items():
            assert np.array_equal(values, other[name])


@pytest.mark.parametrize("size", [(100, 180), (40, 50)])
def test_a_network_of_resized_images_is_given_them_as_in_training(size):
    """Larger and smaller images alike, by Pillow as in training, and brought back to their own size."""
    cfg = compose.load_config(["data=synthetic_cityscapes", "data.crop_size=[64,96]", "encoder.pretrained=false"])
    model = build.build_model(cfg).eval()
    image = photo(size)
    given = ResizeTransform((64, 96))({"image": image}, np.random.default_rng(0))["image"]
    with torch.no_grad():
        logits = model(given[None])["depth"]
    wanted = F.interpolate(select_tasks(["depth"])[0].activate(logits), size, mode="bilinear")[0, 0]
    np.testing.assert_allclose(Predictor(model, precision="32")(image)["depth"], wanted, rtol=1e-5, atol=1e-6)
