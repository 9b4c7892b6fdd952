"""Cityscapes: its files read by hand-made ones, the official zips, and targets larger than the network's image."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import mtmamba
import toy_network  # noqa: F401 - registers encoder=toy
from mtmamba import build
from mtmamba.config import compose
from mtmamba.data.datasets import Source, get_dataset
from mtmamba.data.datasets.cityscapes import CLASSES, PALETTE
from mtmamba.data.layouts import DatasetError
from mtmamba.data.synthetic import generate
from mtmamba.data.validation import validate
from mtmamba.evaluation.checkpoint import evaluate
from mtmamba.evaluation.folder import evaluate_predictions
from mtmamba.evaluation.views import Views
from mtmamba.inference.predictor import Predictor
from mtmamba.metrics.depth import DisparityError
from mtmamba.models.skeleton import skeleton
from mtmamba.preparation import prepare
from mtmamba.report.workflow import report
from mtmamba.tasks import get_task, select_tasks
from mtmamba.training.train import train
from mtmamba.types import IGNORE, IMAGENET_MEAN, IMAGENET_STD

RECORD = get_dataset("cityscapes")
NAME = "train/aachen/aachen_000000_000019"
TRAIN_IDS = {7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12, 26: 13}
TRAIN_IDS |= {27: 14, 28: 15, 31: 16, 32: 17, 33: 18}  # the dataset's own list of labels
SIZE = (48, 96)


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), pixels)


def read(root: Path, task: str, invalid: str = "ignored") -> np.ndarray:
    return RECORD.readers[task](Source(root, RECORD.layout, root, invalid), task, NAME, (1, 6))


@pytest.fixture
def by_hand(tmp_path):
    write(tmp_path / f"leftImg8bit/{NAME}_leftImg8bit.png", np.zeros((1, 6, 3), np.uint8))
    write(tmp_path / f"gtFine/{NAME}_gtFine_labelIds.png", np.array([[7, 10, 23, 10, 0, 33]], np.uint8))
    write(tmp_path / f"disparity/{NAME}_disparity.png", np.array([[0, 0, 1, 513, 2, 32257]], np.uint16))
    return tmp_path


@pytest.fixture(scope="module")
def streets(tmp_path_factory):
    root = tmp_path_factory.mktemp("streets") / "made"
    return generate(root, layout="cityscapes", train=3, val=2, size=SIZE, workers=1)


def config(root: Path, *overrides: str):
    small = ["data=cityscapes", f"data.root={root}", "data.crop_size=[24,48]", "data.num_workers=0"]
    return mtmamba.load_config([*small, "data.batch_size=2", "data.val_batch_size=2", *overrides])


def test_disparity_of_hand_made_files(by_hand):
    assert read(by_hand, "depth").tolist() == [[255, 0, 255, 0, 1 / 256, 126]]
    assert read(by_hand, "depth", "as_released").tolist() == [[-1, 0, -1, 0, 1 / 256, 126]]
    assert read(by_hand, "depth").dtype == np.float32


def test_classes_of_hand_made_files(by_hand):
    assert read(by_hand, "semseg").tolist() == [[0, 255, 10, 255, 255, 18]]
    path = by_hand / f"gtFine/{NAME}_gtFine_labelIds.png"
    for label in range(34):
        write(path, np.full((1, 6), label, np.uint8))
        assert np.unique(read(by_hand, "semseg")).tolist() == [TRAIN_IDS.get(label, 255)]
    assert len(PALETTE) == len(CLASSES) == 19


def test_files_of_another_kind_are_named(by_hand):
    write(by_hand / f"disparity/{NAME}_disparity.png", np.zeros((1, 6), np.uint8))
    with pytest.raises(DatasetError, match=r"16-bit channel.*aachen_000000_000019_disparity.png, got uint8"):
        read(by_hand, "depth")
    write(by_hand / f"gtFine/{NAME}_gtFine_labelIds.png", np.full((1, 6), 34, np.uint8))
    with pytest.raises(DatasetError, match=r"labelIds 0\.\.33 .* got 34"):
        read(by_hand, "semseg")


def test_disparity_is_scored_between_0_and_80():
    target = torch.tensor([[[3.0, 0, -1, 255, 80, 79.5]]])
    prediction = torch.tensor([[[-2.0, 9, 9, 9, 9, 78.5]]])
    metric = DisparityError()
    metric.update(prediction, target)
    assert metric.compute()["RMSE"].item() == pytest.approx(((3**2 + 1**2) / 2) ** 0.5, rel=1e-8)
    depth = RECORD.adapt(get_task("depth"))
    assert isinstance(depth.metric(1), DisparityError)
    assert depth.unit("RMSE") == "px"
    words = [word for word, _ in depth.legend((), RECORD.pictures["depth"]).entries if word]
    assert words == ["4 px", "8 px", "16 px", "32 px", "64 px"]
    assert RECORD.adapt(get_task("semseg")) is get_task("semseg")
    assert get_task("depth").unit("RMSE") == "m"


def test_streets_are_in_the_official_layout(streets):
    report = validate(streets, RECORD, ["semseg", "depth"], cache_dir=streets)
    assert report.counts == {"train": 3, "val": 2}
    assert report.sizes == {SIZE}
    for name in RECORD.read_ids(streets, "train"):
        assert name.startswith("train/synthetic/")
        disparity = cv2.imread(str(streets / f"disparity/{name}_disparity.png"), cv2.IMREAD_UNCHANGED)
        labels = cv2.imread(str(streets / f"gtFine/{name}_gtFine_labelIds.png"), cv2.IMREAD_UNCHANGED)
        assert disparity.dtype == np.uint16
        assert {7, 11} <= set(labels.ravel().tolist())  # road and buildings
        assert not disparity[labels == 23].any()  # the sky is infinitely far
        road = [disparity[row][(labels[row] == 7) & (disparity[row] > 0)] for row in range(SIZE[0])]
        seen = [values.mean() for values in road if len(values)]
        assert seen == sorted(seen)  # the road comes nearer downwards


def test_image_is_resized_and_targets_keep_their_size(streets):
    data = build.build_datamodule(config(streets))
    data.prepare_data()
    data.setup()
    for split in ("train", "val"):  # neither is augmented
        sample = data.dataset_of(split)[1]
        name = data.dataset_of(split).ids[1]
        with Image.open(streets / f"leftImg8bit/{name}_leftImg8bit.png") as image:
            small = torch.from_numpy(np.array(image.resize((48, 24), Image.Resampling.BILINEAR))) / 255
        expected = (small - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD)
        assert torch.allclose(sample["image"], expected.movedim(-1, 0), atol=1e-5)
        raw = data.dataset_of(split).read(1)
        assert np.array_equal(sample["semseg"].numpy(), raw["semseg"])
        assert np.array_equal(sample["depth"].numpy(), raw["depth"])
        assert sample["size"].tolist() == list(SIZE)


def test_invalid_pixels_as_released(streets):
    ours, released = (build.build_datamodule(config(streets, f"data.invalid={x}")) for x in ("ignored", "as_released"))
    ours.setup()
    released.setup()
    mine, its = (data.dataset_of("train")[0]["depth"] for data in (ours, released))
    assert (mine == IGNORE).any()
    assert torch.equal(torch.where(mine == IGNORE, -1, mine), its)


def test_losses_and_predictions_are_at_the_targets_size(streets):
    cfg = config(streets)
    data = build.build_datamodule(cfg)
    data.setup()
    batch = next(iter(data.plain_dataloader("val")))
    module = build.build_module(cfg).eval()
    with torch.no_grad():
        logits = {task: x.detach() for task, x in module.outputs(batch["image"])[0].items()}
        assert logits["semseg"].shape == (2, 19, 24, 48)
        full = {task: F.interpolate(x, SIZE, mode="bilinear", align_corners=False) for task, x in logits.items()}
        losses = module.task_losses(module.on_targets(logits, batch), batch)
        found = Views(module.model, module.tasks)(batch["image"], SIZE)
    target, valid = batch["semseg"].long(), batch["semseg"] != IGNORE
    p = full["semseg"].log_softmax(1).gather(1, torch.where(valid, target, 0)[:, None])[:, 0]
    assert torch.allclose(losses["semseg"], -(p * valid).sum((1, 2)) / valid.sum((1, 2)), rtol=1e-4)
    errors, valid = (full["depth"][:, 0] - batch["depth"]).abs(), batch["depth"] != IGNORE
    assert torch.allclose(losses["depth"], (errors * valid).sum((1, 2)) / valid.sum((1, 2)), rtol=1e-4)
    assert torch.equal(found["semseg"], full["semseg"].argmax(1).to(torch.uint8))
    assert torch.allclose(found["depth"], full["depth"][:, 0].clamp(min=0))


def test_images_of_two_sizes_are_refused(streets, tmp_path):
    root = generate(tmp_path / "made", layout="cityscapes", train=1, val=1, size=SIZE, workers=1)
    (name,) = RECORD.read_ids(root, "val")
    for path in root.glob(f"*/{name}*"):
        pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        write(path, pixels[:-8])
    with pytest.raises(DatasetError, match="one size"):
        build.build_datamodule(config(root)).prepare_data()


@pytest.mark.parametrize("form", ["zips", "one zip", "folders"])
def test_official_files_are_prepared(streets, tmp_path, form):
    source = streets
    if form != "folders":
        source = tmp_path / "downloads"
        source.mkdir()
        for name in ("leftImg8bit", "gtFine", "disparity"):
            with zipfile.ZipFile(source / f"{name}_trainvaltest.zip", "w") as packed:
                packed.writestr("license.txt", "terms")
                packed.writestr(f"{name}/test/berlin/berlin_000000_000019_{name}.png", b"not needed")
                packed.writestr(f"{name}/train/synthetic/a_gtFine_polygons.json", b"not needed")
                for path in streets.glob(f"{name}/*/*/*"):
                    packed.write(path, path.relative_to(streets))
    given = source / "gtFine_trainvaltest.zip" if form == "one zip" else source
    root = tmp_path / "Cityscapes"
    settings = ["data=cityscapes", f"data.root={root}", f"source={given}", f"cache_dir={tmp_path}"]
    prepare(compose.compose(settings, "prepare_data"), tmp_path)
    files = {path.relative_to(root) for path in root.rglob("*") if path.is_file()}
    assert {path.name for path in files if len(path.parts) == 1} == {"SHA256SUMS"}
    kept = {path for path in files if len(path.parts) > 1}
    assert kept == {path.relative_to(streets) for path in streets.glob("*/*/*/*")}
    assert all((root / path).read_bytes() == (streets / path).read_bytes() for path in kept)


def test_a_run_is_evaluated_predicted_scored_and_reported(streets, tmp_path):
    """As a user does it, one command after the other; the RMSE is computed from files alone, too."""
    small = [
        "encoder=toy", "decoder=toy", "optimizer=paper", "trainer.max_steps=2", "trainer.val_check_interval=2",
        "trainer.accelerator=cpu", "logger=csv", "pictures=1", "baseline=false", f"cache_dir={tmp_path}/cache",
    ]  # fmt: skip
    trained = train(config(streets, *small), tmp_path / "run")
    options = [f"ckpt={tmp_path}/run", "save_predictions=true", "bootstrap.resamples=5", f"cache_dir={tmp_path}/cache"]
    evaluated = evaluate(compose.compose([*options, "trainer.accelerator=cpu"], "eval"), tmp_path / "eval")
    files = tmp_path / "eval/predictions"
    options = [f"pred={files}", "data=cityscapes", f"data.root={streets}", "data.crop_size=[24,48]"]
    options += ["data.num_workers=0", "bootstrap.resamples=5", f"cache_dir={tmp_path}/cache"]
    scored = evaluate_predictions(compose.compose(options, "eval_predictions"), tmp_path / "scored")
    squares = []
    for name in (names := RECORD.read_ids(streets, "val")):
        truth = (cv2.imread(str(streets / f"disparity/{name}_disparity.png"), cv2.IMREAD_UNCHANGED) - 1.0) / 256
        valid = (truth > 0) & (truth < 80)
        squares.append(((np.load(files / f"depth/{name}.npy") - truth) ** 2)[valid])
    expected = np.concatenate(squares).mean() ** 0.5
    for record in (trained, evaluated, scored):
        assert record["tasks"]["depth"]["RMSE"] == pytest.approx(expected, rel=1e-5)
        assert record["tasks"]["semseg"]["mIoU"] == trained["tasks"]["semseg"]["mIoU"]

    photograph = streets / f"leftImg8bit/{names[0]}_leftImg8bit.png"
    result = Predictor.from_pretrained(tmp_path / "run")(photograph)
    assert result["semseg"].shape == result["depth"].shape == SIZE
    report(compose.compose([f"runs=[{tmp_path}/run,{tmp_path}/eval]", f"out={tmp_path}/report"], "report"))
    assert f"{expected:.4f}" in (tmp_path / "report/report.md").read_text()


EVALUATED = """
import resource, sys
from pathlib import Path
import toy_network
from mtmamba.config import compose
from mtmamba.evaluation.checkpoint import evaluate
run, cache, *roots = sys.argv[1:]
for root in roots:
    options = [f"ckpt={run}", f"data.root={root}", "data.val_batch_size=1", "data.num_workers=0", "pictures=0"]
    options += ["worst=0", "trainer.accelerator=cpu", f"cache_dir={cache}", "bootstrap.resamples=5"]
    record = evaluate(compose.compose(options, "eval"), Path(root) / "eval")
    print("peak", record["images"], 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_an_evaluation_at_full_size_needs_no_more_memory_for_more_images(streets, tmp_path):
    small = ["encoder=toy", "decoder=toy", "trainer.max_steps=1", "trainer.val_check_interval=1", "logger=csv"]
    small += ["trainer.accelerator=cpu", "pictures=0", "baseline=false", f"cache_dir={tmp_path}"]
    train(config(streets, *small, "data.crop_size=[512,1024]"), tmp_path / "run")
    roots = [tmp_path / name for name in ("few", "more", "many")]
    for root, images in zip(roots, (2, 8, 14), strict=True):
        for path in streets.glob("*/*/*/*.png"):
            pixels = cv2.resize(
                cv2.imread(str(path), cv2.IMREAD_UNCHANGED), (2048, 1024), interpolation=cv2.INTER_NEAREST
            )
            for i in range(images // 2 if path.parts[-3] == "val" else 1):
                write(root / path.relative_to(streets).with_name(f"{i}{path.name}"), pixels)
    done = subprocess.run(
        [sys.executable, "-c", EVALUATED, *map(str, [tmp_path / "run", tmp_path, *roots])],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    peaks = [[*map(int, line.split()[1:])] for line in done.stdout.splitlines() if line.startswith("peak")]
    assert [images for images, _ in peaks] == [2, 8, 14]
    assert peaks[2][1] - peaks[1][1] < 19 * 1024 * 2048 * 4, peaks  # one image's logits
    assert peaks[2][1] < 3 * 2**30, peaks


@pytest.mark.parametrize(("decoder", "hidden", "count"), [("mtmamba", 192, 252271688), ("mtmamba_plus", 96, 258595976)])
def test_parameters_of_the_experiments(decoder, hidden, count):
    """Counted, and by the NYUDv2 model of the same tasks, from which the classes of one projection differ."""

    def parameters(*choices: str) -> int:
        cfg = mtmamba.load_config(choices)
        assert [task.name for task in select_tasks(cfg.tasks)] == ["semseg", "depth"]
        with skeleton():
            return sum(p.numel() for p in build.build_model(cfg).parameters())

    other = parameters("experiment=nyud_mtmamba", f"decoder={decoder}", "tasks=[semseg,depth]")
    assert parameters(f"experiment=cityscapes_{decoder}") == other - (40 - 19) * (hidden + 1) == count
