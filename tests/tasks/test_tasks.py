import numpy as np
import pytest
import torch
from torch import Tensor

from mtmamba.tasks import Task, all_tasks, constant_prediction, picture_row, select_tasks
from mtmamba.types import IGNORE

OUTPUTS = {"semseg": 40, "depth": 1, "human_parts": 7, "sal": 2, "normals": 3, "edge": 1}
each_task = pytest.mark.parametrize("task", all_tasks().values(), ids=list(all_tasks()))


def sample(task: Task, batch: int = 3) -> tuple[Tensor, Tensor]:
    """Logits and a target whose first row of pixels is ignored; a quarter of the pixels is of class 1."""
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(batch, OUTPUTS[task.name], 8, 8, generator=random)
    if task.name == "depth":
        target = 10 * torch.rand(batch, 8, 8, generator=random)
    elif task.name == "normals":
        target = torch.nn.functional.normalize(torch.randn(batch, 3, 8, 8, generator=random) + 1, dim=1)
    else:
        target = (torch.rand(batch, 8, 8, generator=random) < 0.25).to(torch.uint8)
    target[..., 0, :] = IGNORE
    return logits, target


def score(task: Task, prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
    metric = task.metric(OUTPUTS[task.name])
    metric.update(prediction, target)
    return metric.compute()


def test_records_are_in_the_canonical_order():
    assert tuple(all_tasks()) == tuple(task.name for task in all_tasks().values()) == tuple(OUTPUTS)


@each_task
def test_record_describes_its_metric(task):
    logits, target = sample(task)
    results = score(task, task.predict(logits), target)
    assert results.keys() == task.units.keys()
    assert task.headline in task.units
    assert task.lower_is_better <= task.units.keys()


@each_task
def test_lower_is_better_agrees_with_a_perfect_prediction(task):
    logits, target = sample(task)
    perfect = target.float() if task.name in ("sal", "edge") else target
    best, other = score(task, perfect, target), score(task, task.predict(logits), target)
    for name in task.units:
        assert (best[name] < other[name]) == (name in task.lower_is_better)


@each_task
def test_loss_and_prediction_fit_the_target(task):
    logits, target = sample(task)
    prediction = task.predict(logits.bfloat16())
    assert task.loss(logits, target).shape == (3,)
    assert prediction.shape == target.shape
    assert prediction.dtype == target.dtype or (prediction.dtype == torch.float32 and task.name in ("sal", "edge"))


def test_predictions_by_hand():
    def predict(name: str, *logits: float) -> list[float]:
        return all_tasks()[name].predict(torch.tensor(logits).view(1, -1, 1, 1)).flatten().tolist()

    assert predict("semseg", 0.1, 3.0, -1.0) == [1]
    assert predict("depth", -2.0) == [0]
    assert predict("depth", 2.5) == [2.5]
    assert predict("sal", 1.0, 1.0 + np.log(3)) == pytest.approx([0.75])
    assert predict("normals", 3.0, 0.0, -4.0) == pytest.approx([0.6, 0.0, -0.8])
    assert predict("edge", np.log(3)) == pytest.approx([0.75])


@pytest.mark.parametrize("names", [["edge", "semseg", "depth"], ("depth", "edge", "semseg")])
def test_selection_is_in_the_canonical_order(names):
    assert [task.name for task in select_tasks(names)] == ["semseg", "depth", "edge"]


@pytest.mark.parametrize("names", [["semseg", "boundary"], ["depth", "depth"], [], "depth"])
def test_wrong_selection(names):
    with pytest.raises(ValueError, match="tasks among semseg, depth, human_parts, sal, normals, edge, got"):
        select_tasks(names)


@each_task
def test_statistics_add_up(task):
    _, target = sample(task)
    parts = torch.stack([task.statistics(image) for image in target.split(1)])
    assert parts.dtype == torch.float64
    torch.testing.assert_close(parts.sum(0), task.statistics(target))


def candidates(task: Task) -> Tensor:
    """Constant predictions to compare with: each broadcasts to the target."""
    if task.name == "normals":
        return torch.eye(3).view(3, 3, 1, 1)
    if task.name in ("semseg", "human_parts"):
        return torch.arange(OUTPUTS[task.name], dtype=torch.uint8)
    return torch.linspace(0, 10 if task.name == "depth" else 1, 101)


@each_task
def test_no_constant_prediction_is_better(task):
    _, target = sample(task)
    sign = 1 if task.headline in task.lower_is_better else -1
    best = score(task, constant_prediction(task, task.statistics(target), target), target)[task.headline]
    for constant in candidates(task):
        assert sign * best <= sign * score(task, constant.expand(target.shape), target)[task.headline]


def test_constants_by_hand():
    def constant(name: str, target: Tensor) -> list[float]:
        task = all_tasks()[name]
        return constant_prediction(task, task.statistics(target), target)[0].flatten().tolist()

    classes = torch.tensor([[[3, 3, 1, IGNORE, IGNORE, IGNORE]]], dtype=torch.uint8)
    assert constant("semseg", classes) == 6 * [3]
    assert constant("depth", torch.tensor([[[1.0, 4.0, IGNORE]]])) == 3 * [2.5]
    assert constant("sal", torch.tensor([[[0, 0, 1]]], dtype=torch.uint8)) == 3 * [1]
    # Weights 0.95 and 3 * 0.05.
    assert constant("edge", torch.tensor([[[0, 0, 0, 1]]], dtype=torch.uint8)) == pytest.approx(4 * [0.95 / 1.1])
    normals = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]).T.reshape(1, 3, 1, 2)
    assert constant("normals", normals) == pytest.approx([0.5**0.5] * 2 + [0.0] * 2 + [0.5**0.5] * 2)


@each_task
def test_constant_of_nothing(task):
    _, target = sample(task)
    nothing = task.statistics(torch.full_like(target, IGNORE))
    with pytest.raises(ValueError, match=f"Expected a valid {task.name} pixel"):
        constant_prediction(task, nothing, target)


@each_task
def test_pictures_of_prediction_and_target(task):
    logits, target = sample(task)
    for image in (task.predict(logits)[0], target[0]):
        picture = task.picture(image)
        assert picture.shape == (8, 8, 3)
        assert picture.dtype == np.uint8
    perfect = target.float() if task.name in ("sal", "edge") else target
    assert np.array_equal(task.picture(perfect[0]), task.picture(target[0]))


def test_picture_row_cuts_the_padding():
    tasks = select_tasks(["depth", "normals"])
    targets = {task.name: sample(task)[1] for task in tasks}
    predictions = {task.name: task.predict(sample(task)[0]) for task in tasks}
    batch = {"image": torch.zeros(3, 3, 8, 8), "size": torch.tensor([[8, 8], [8, 8], [5, 6]]), **targets}
    row = picture_row(tasks, batch, predictions, 2, {})
    assert list(row) == [
        "Image",
        "Depth\nprediction",
        "Depth\ntruth",
        "Surface normals\nprediction",
        "Surface normals\ntruth",
    ]
    for title, source in (("Depth\nprediction", predictions), ("Depth\ntruth", targets)):
        assert np.array_equal(row[title], tasks[0].picture(source["depth"][2])[1:6, 1:7])
    assert {picture.shape for picture in row.values()} == {(5, 6, 3)}
