"""Score a folder of predictions that any program wrote."""

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, open_dict
from PIL import Image
from torch import Tensor, from_numpy
from torch.utils.data import DataLoader, Dataset

from mtmamba import build
from mtmamba.config import compose
from mtmamba.data.dense import DenseDataset
from mtmamba.evaluation.boundaries import choose_protocol, read_id_list
from mtmamba.evaluation.formats import check_predictions, read_prediction
from mtmamba.evaluation.outcome import Evaluated, conclude, require_bootstrap
from mtmamba.evaluation.statistics import ImageStatistics, image_statistics
from mtmamba.metrics.pooled import PooledMetric
from mtmamba.padding import pad
from mtmamba.places import require_predictions
from mtmamba.runs.folder import begin
from mtmamba.tasks import get_task, select_tasks
from mtmamba.tasks.files import PredictionsError

log = logging.getLogger(__name__)


class PredictedImages(Dataset[tuple[str, dict[str, dict[str, Tensor]]]]):
    """Each image's id and statistics, computed where it is read: in a loader's workers, all cores share the work.

    Args:
        dataset: of the images and targets.
        folder: of the predictions.
        num_outputs: by task.
        metrics: by task; those of the other tasks are not computed.
    """

    def __init__(
        self, dataset: DenseDataset, folder: Path, num_outputs: Mapping[str, int], metrics: Mapping[str, PooledMetric]
    ) -> None:
        self.dataset, self.folder, self.num_outputs, self.metrics = dataset, folder, num_outputs, metrics

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[str, dict[str, dict[str, Tensor]]]:
        name = self.dataset.ids[index]
        raw = self.dataset.read(index)
        targets = {task: from_numpy(raw[task])[None] for task in self.metrics}  # (1, h, w) or (1, h, w, channels)
        targets = {task: x.movedim(-1, 1) if get_task(task).channels else x for task, x in targets.items()}
        predictions = {task: x[None] for task, x in self.predictions(name).items()}
        return name, image_statistics(self.metrics, predictions, targets)

    def predictions(self, name: str) -> dict[str, Tensor]:
        """Read an image's predictions."""
        return {task: read_prediction(self.folder, task, name, n) for task, n in self.num_outputs.items()}


def evaluate_predictions(cfg: DictConfig, run_dir: Path) -> dict[str, Any]:
    """Score a folder of predictions as `mtmamba.evaluation.checkpoint.evaluate` scores a checkpoint.

    Boundaries are scored by the benchmark alone: the training loss of probabilities means nothing in 8 bits.

    Args:
        cfg: from the script's configuration.
        run_dir: where to leave ``metrics.json`` and ``pictures``.

    Returns:
        What ``metrics.json`` holds.

    Raises:
        FileNotFoundError: there is no such folder.
        PredictionsError: files are missing, superfluous, damaged, or of another kind, size or content; nothing was
            computed.
        DatasetError: the dataset is not what it should be, or the list of ids names other images.
    """
    start = time.perf_counter()
    folder = Path(cfg.pred).expanduser()
    require_bootstrap(cfg)
    tasks = _tasks(cfg, folder)
    with open_dict(cfg):
        cfg.tasks = [task.name for task in tasks]
    begin(cfg, run_dir)
    data = build.build_datamodule(cfg)
    data.prepare_data()
    known = data.record.read_ids(data.root, cfg.split)
    ids = read_id_list(cfg.ids, known)
    data.choose_test(cfg.split, ids)
    data.setup()
    dataset = data.dataset_of("test")
    outputs = compose.num_outputs(cfg)
    log.info("Reading the predictions of %s in %s.", ", ".join(outputs), folder)
    check_predictions(folder, outputs, _sizes(dataset), known)

    metrics = {task.name: task.metric(outputs[task.name]) for task in tasks if not task.boundaries}
    collected = ImageStatistics(metrics)
    images = PredictedImages(dataset, folder, outputs, metrics)
    for name, found in DataLoader(images, batch_size=None, **data.loading()):
        collected.add([name], found)
    statistics = collected.gather(ids)
    assert statistics is not None, "this script is one process"

    def predict(sample: Mapping[str, Any]) -> dict[str, Tensor]:
        return {task: pad(x, sample[task].shape[-2:]) for task, x in images.predictions(sample["id"]).items()}

    base = compose.plain(cfg.data.delta_m_base)
    evaluated = Evaluated(tasks, dataset, metrics, statistics, folder, predict, base)
    return conclude(cfg, cfg, run_dir, evaluated, {"predictions": str(folder)}, start)


def _tasks(cfg: DictConfig, folder: Path) -> list[Any]:
    """Return the tasks to score: those named, or those of the dataset that have a folder."""
    require_predictions(folder)
    known = list(cfg.data.num_outputs)
    present = [task for task in known if (folder / task).is_dir()]
    named = present if cfg.tasks is None else list(cfg.tasks)
    if not named or not set(named) <= set(present):
        raise PredictionsError(
            f"Expected predictions in {folder}/TASK/ID.png for {named or f'some of {known}'}, got folders for "
            f"{present}: write them, or name the tasks that you have (tasks=[...])."
        )
    record = compose.dataset_record(cfg)
    tasks = [record.adapt(task) for task in select_tasks(named)]
    if choose_protocol(cfg.boundaries, record) is not None:
        return tasks
    scored = [task for task in tasks if not task.boundaries]
    if benchmarked := [task.name for task in tasks if task.boundaries]:
        if not scored or cfg.tasks is not None:
            raise PredictionsError(
                f"Expected a protocol for the {benchmarked[0]} task, got boundaries=null: set boundaries=auto, or "
                f"leave {benchmarked[0]} out (tasks=[...])."
            )
        log.info("boundaries=null: %s is not scored.", benchmarked[0])
    return scored


def _sizes(dataset: DenseDataset) -> dict[str, tuple[int, int]]:
    """Return each image's height and width, from its header."""
    sizes = {}
    for name in dataset.ids:
        with Image.open(dataset.image_path(name)) as image:
            sizes[name] = (image.height, image.width)
    return sizes
