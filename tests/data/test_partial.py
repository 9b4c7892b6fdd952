"""Images that lack labels: which labels there are, how they are read, and what is refused."""

import numpy as np
import pytest
import torch

import fake_data
from mtmamba.data.datamodule import DenseDataModule
from mtmamba.data.datasets import get_dataset
from mtmamba.data.layouts import DatasetError
from mtmamba.data.partial import find_labels, loss_weights
from mtmamba.data.sampler import GlobalBatchSampler
from mtmamba.data.validation import validate

TASKS = ("semseg", "depth", "normals", "edge")
LAYOUT = get_dataset("nyud").layout


@pytest.fixture
def nyud(tmp_path):
    return fake_data.write_nyud(tmp_path / "NYUDv2", train=6, val=2)


def open_nyud(root, partial, **options):
    options = {"batch_size": 4, "device_batch_size": 2, "num_workers": 0, "val_batch_size": 2} | options
    return DenseDataModule(
        dataset="nyud", root=root, tasks=TASKS, crop_size=(24, 32), cache_dir=root.parent, partial=partial, **options
    )


def draw(partial, ids, split="train", tasks=TASKS):
    return find_labels(partial, LAYOUT, None, ids, tasks, split)


def test_missing_files_are_labels_that_are_not_there(nyud):
    (nyud / "depth/0002.npy").unlink()
    (nyud / "normals/0002.png").unlink()
    (nyud / "depth/0008.npy").unlink()
    with pytest.raises(DatasetError, match=r"depth/0002\.npy: missing"):
        open_nyud(nyud, False).prepare_data()
    data = open_nyud(nyud, True)
    data.prepare_data()
    data.setup()
    sample = data.dataset_of("train")[0, 1]
    assert {task: bool((sample[task] == 255).all()) for task in TASKS} == {
        "semseg": False, "depth": True, "normals": True, "edge": False,
    }  # fmt: skip
    assert sample["depth"].dtype == torch.float32
    assert sample["normals"].shape == (3, 24, 32)
    assert data.dataset_of("val").ids_with("depth") == ["0007"]
    (batch,) = data.val_dataloader()
    assert {task: weights.tolist() for task, weights in batch["labels"].items()} == {
        "semseg": [1, 1], "depth": [2, 0], "normals": [1, 1], "edge": [1, 1],
    }  # fmt: skip
    data.choose_test("val", ["0008"])
    assert data.dataset_of("test").ids_with("depth") == []


def test_how_many_labels_there_are_is_said_where_some_lack(nyud, caplog):
    """Which is information: whoever lacks labels has asked for it."""

    def said(partial):
        caplog.clear()
        with caplog.at_level("INFO", "mtmamba"):
            validate(nyud, "nyud", TASKS, cache_dir=nyud.parent, counts={"train": 6, "val": 2}, partial=partial)
        assert {record.levelname for record in caplog.records} <= {"INFO"}
        return [message.removeprefix("NYUDv2: ") for message in caplog.messages]

    assert said(True) == []
    drawn = said("random:0.5")
    assert [line.partition(" of ")[2] for line in drawn] == [f"6 train images have a label of {task}" for task in TASKS]
    for path in ("depth/0002.npy", "depth/0008.npy", "normals/0002.png", "normals/0003.png"):
        (nyud / path).unlink()
    assert said(True) == [
        "5 of 6 train images have a label of depth",
        "4 of 6 train images have a label of normals",
        "1 of 2 val images have a label of depth",
    ]


def test_weights_are_those_of_the_whole_batch_however_it_is_shared(nyud):
    """Every task's losses have the mean over the labelled images: weights of a global batch sum up to its size."""
    labelled = np.array([[1, 1], [1, 0], [0, 0], [1, 1], [1, 0], [0, 1], [0, 0], [1, 1]], bool)
    for processes, micro in ((1, 4), (1, 2), (2, 2), (2, 1), (4, 1)):
        samplers = [
            GlobalBatchSampler(8, 4, micro, rank=rank, world_size=processes, labelled=labelled)
            for rank in range(processes)
        ]
        keys = [key for sampler in samplers for batch in sampler for key in batch]
        found = {index: tuple(weights.tolist()) for _, index, weights in keys}
        order = np.random.default_rng([0, 0]).permutation(8)
        for batch in (order[:4], order[4:]):
            for task in range(2):
                there = [index for index in batch if labelled[index, task]]
                expected = [4 / len(there) if index in there else 0 for index in batch]
                assert [found[index][task] for index in batch] == pytest.approx(expected, rel=1e-6)


def test_weights_of_complete_labels_change_no_bit():
    assert (loss_weights(np.ones((7, 3), bool)) == 1).all()
    assert (loss_weights(np.zeros((7, 1), bool)) == 0).all()


def test_one_label_draws_one_task_for_each_image():
    ids = [f"{i:05d}" for i in range(2000)]
    labelled = draw("one_label", ids)
    assert (labelled.sum(1) == 1).all()
    assert np.abs(labelled.mean(0) - 0.25).max() < 4 * (0.25 * 0.75 / 2000) ** 0.5
    assert (draw("one_label", ids[::-3]) == labelled[::-3]).all()
    fewer = draw("one_label", ids, tasks=TASKS[1:])
    same = ~labelled[:, 0]
    assert (fewer[same] == labelled[same, 1:]).all()
    assert draw("one_label", ids, "val") is None


def test_random_draws_a_share_of_all_labels():
    ids = [f"{i:05d}" for i in range(2000)]
    labelled = draw("random:0.3", ids)
    assert abs(labelled.mean() - 0.3) < 4 * (0.3 * 0.7 / 8000) ** 0.5
    assert np.abs(np.corrcoef(labelled.T) - np.eye(4)).max() < 0.1
    assert (draw("random:0.6", ids) >= labelled).all()
    assert draw("random:1", ids).all()


@pytest.mark.parametrize("partial", ["random:0", "random:1.5", "random", "two_labels", "random:x"])
def test_other_choices_are_refused(partial):
    with pytest.raises(ValueError, match=r"Expected data\.partial=false\|true\|one_label\|random:SHARE.* got"):
        draw(partial, ["0001"])


def test_a_task_without_any_training_label_is_refused(nyud):
    for number in range(1, 7):
        (nyud / f"depth/{number:04d}.npy").unlink()
    with pytest.raises(DatasetError, match="depth: expected a label of some training image, got none: leave it out"):
        open_nyud(nyud, True).prepare_data()


def test_drawn_labels_need_every_file(nyud):
    (nyud / "edge/0003.png").unlink()
    with pytest.raises(DatasetError, match=r"edge/0003\.png: missing"):
        open_nyud(nyud, "one_label").prepare_data()
