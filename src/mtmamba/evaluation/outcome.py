"""From images' statistics to what an evaluation leaves behind: metrics.json, the table, the pictures."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from mtmamba.config.checks import ConfigError
from mtmamba.data.dense import DenseDataset
from mtmamba.evaluation.boundaries import (
    VERSION,
    boundary_score,
    boundary_statistics,
    choose_protocol,
    read_id_list,
    score_maps,
)
from mtmamba.evaluation.sheets import Predict, save_overview, save_worst, worst_images
from mtmamba.evaluation.statistics import (
    CONFIDENCE,
    Assessment,
    Score,
    Statistics,
    assess,
    bootstrap,
    interval,
    resample_weights,
)
from mtmamba.files import write_text
from mtmamba.metrics.boundary import plot_curve
from mtmamba.metrics.pooled import PooledMetric
from mtmamba.metrics.segmentation import MeanIoU, class_iou
from mtmamba.runs.names import RESAMPLES, SCORES
from mtmamba.runs.record import Scores, score_record, written
from mtmamba.runs.table import score_table, show
from mtmamba.tasks import Task, relative_gain

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluated:
    """What was predicted on which images.

    Attributes:
        tasks: with predictions.
        dataset: the images, in order.
        metrics: by task; edge may be missing, where the benchmark alone scores it.
        statistics: of the metrics, by task, a row per image.
        folder: predictions as files, where the boundary benchmark finds its maps.
        predict: predicts an image again, for pictures.
        base: single-task scores for Delta_m.
    """

    tasks: Sequence[Task]
    dataset: DenseDataset
    metrics: Mapping[str, PooledMetric]
    statistics: dict[str, dict[str, torch.Tensor]]
    folder: Path
    predict: Predict
    base: Mapping[str, Mapping[str, float]]


def require_bootstrap(options: DictConfig) -> None:
    """Refuse a bootstrap that would be found wrong only after all images.

    Raises:
        ConfigError: it has not both resamples and seed.
    """
    if not isinstance(options.bootstrap, DictConfig) or not {"resamples", "seed"} <= options.bootstrap.keys():
        raise ConfigError(
            f"Expected bootstrap with resamples and seed, got {options.bootstrap}: write bootstrap.resamples=0 for no "
            "intervals."
        )


def conclude(
    cfg: DictConfig,
    options: DictConfig,
    run_dir: Path,
    found: Evaluated,
    about: Mapping[str, Any],
    start: float,
    constant: Callable[[], Scores] | None = None,
) -> dict[str, Any]:
    """Score everything, write ``metrics.json`` and the pictures, print the table, and return the record.

    Args:
        cfg: the run's configuration, with choices.
        options: the settings of ``configs/evaluation``.
        run_dir: where to write.
        found: by the model, or in a folder.
        about: what the record says beside the scores.
        start: when the run began, ``time.perf_counter()``.
        constant: scores the best constant prediction, where that is wanted.
    """
    ids, statistics = found.dataset.ids, {task.name: dict(found.statistics.get(task.name, {})) for task in found.tasks}
    score: dict[str, Score] = {task: metric.score for task, metric in found.metrics.items()}
    edge = next((task.name for task in found.tasks if task.boundaries), "")
    edges = _score_boundaries(cfg, options, run_dir, found, edge) if edge else None
    if edges is not None:
        statistics[edge] |= edges[1]
        metric = found.metrics.get(edge)
        score[edge] = lambda sums: {**(metric.score(sums) if metric else {}), **boundary_score(sums, edges[2])}
    resamples, seed = options.bootstrap.resamples, options.bootstrap.seed
    assessment = assess(statistics, score, resamples=resamples, seed=seed)
    headlines = {t.name: "odsF" if "odsF" in assessment.scores[t.name] else t.headline for t in found.tasks}
    worst = worst_images(assessment, found.tasks, headlines, ids, options.worst)
    record = {
        **score_record(cfg, run_dir, found.tasks, assessment.scores, found.base),
        **about,
        "split": options.split,
        "images": len(ids),
        "intervals": assessment.intervals,
        "delta_m_interval": _gain_interval(found, assessment),
        "bootstrap": {"resamples": resamples, "seed": seed, "confidence": CONFIDENCE},
        "classes": _class_scores(found, statistics, resamples, seed),
        "worst": worst,
    }
    if edges is not None:
        texts = [record["tasks"][edge]["protocol"]] if edge in found.metrics else []
        record["tasks"][edge]["protocol"] = "; ".join([*texts, f"odsF, oisF, AP: {edges[0]['description']}"])
        loss = record["protocols"][edge] if edge in found.metrics else {}
        record["protocols"][edge] = {**loss, "boundaries": edges[0]}
    record["seconds"] = round(time.perf_counter() - start, 1)
    with written(record, run_dir / SCORES):
        if assessment.resamples:
            save_resamples(run_dir / RESAMPLES, assessment.resamples)
        save_worst(run_dir / "pictures", found.tasks, worst, headlines, found.dataset, found.predict)
        save_overview(run_dir / "pictures/best.png", found.tasks, found.dataset, found.predict, options.pictures)
        if constant is not None:
            log.info("Scoring the best constant prediction.")
            record["constant"] = constant()
    _show(record, found.tasks, run_dir)
    return record


def save_resamples(path: Path, resamples: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
    """Write every resample's scores, a row for each.

    Two evaluations of the same images with the same ``bootstrap`` draw the same resamples: row by row, the difference
    of their scores is a paired bootstrap.
    """
    columns = {f"{task}/{name}": v.tolist() for task, values in resamples.items() for name, v in values.items()}
    rows = [",".join(columns), *(",".join(f"{v:.7g}" for v in row) for row in zip(*columns.values(), strict=True))]
    write_text(path, "\n".join(rows) + "\n")


def _show(record: Mapping[str, Any], tasks: Sequence[Task], run_dir: Path) -> None:
    """Print the table of a record's scores with their intervals, and where everything is."""
    scores = {
        task: {name: value for name, value in values.items() if name != "protocol"}
        for task, values in record["tasks"].items()
    }
    columns = {"Best constant": record["constant"]} if "constant" in record else {}
    show(score_table(tasks, scores, columns, record["delta_m"], record["intervals"]))
    log.info("Scores: %s", run_dir / SCORES)
    log.info("Pictures: %s", run_dir / "pictures")


def _score_boundaries(
    cfg: DictConfig, options: DictConfig, run_dir: Path, found: Evaluated, edge: str
) -> tuple[dict[str, Any], dict[str, torch.Tensor], float] | None:
    """Return what the record says of the protocol, its statistics and its empty precision; None if not wanted."""
    protocol = choose_protocol(options.boundaries, found.dataset.record)
    if protocol is None:
        return None
    ids = read_id_list(options.boundary_ids, found.dataset.ids_with(edge))
    description = protocol.describe(len(ids))
    log.info("Matching boundaries, %s; boundaries=null leaves this out.", description)
    cache = Path(cfg.cache_dir).expanduser()
    scores = score_maps(found.folder, edge, found.dataset, ids, protocol, workers=options.boundary_workers, cache=cache)
    plot_curve(scores, run_dir / "pictures/boundaries.png", title=description)
    about = {
        "name": protocol.name,
        "version": VERSION,
        "description": description,
        "images": len(ids),
        "ids": options.boundary_ids,
        "threshold": scores.threshold,
        "precision": 100 * scores.precision,
        "recall": 100 * scores.recall,
    }
    return about, boundary_statistics(scores, ids, found.dataset.ids), protocol.empty_precision


def _gain_interval(found: Evaluated, assessment: Assessment) -> tuple[float, float] | None:
    """Return the interval of Delta_m: each resample scores all tasks on the same images."""
    if relative_gain(found.tasks, assessment.scores, found.base) is None or not assessment.resamples:
        return None
    columns = {task: {n: v.tolist() for n, v in values.items()} for task, values in assessment.resamples.items()}
    count = len(next(iter(next(iter(columns.values())).values())))
    rows = ({t: {n: v[i] for n, v in values.items()} for t, values in columns.items()} for i in range(count))
    gains = [relative_gain(found.tasks, row, found.base, partly=True) for row in rows]  # a resample may lack a task
    return interval(torch.tensor(gains, dtype=torch.float64))


def _class_scores(
    found: Evaluated, statistics: Mapping[str, Statistics], resamples: int, seed: int
) -> dict[str, dict[str, dict[str, Any]]]:
    """Return every class's IoU in percent with its interval: ``{task: {class: {IoU, interval}}}``."""
    scores: dict[str, dict[str, dict[str, Any]]] = {}
    counted = {task: metric for task, metric in found.metrics.items() if isinstance(metric, MeanIoU)}
    for task, metric in counted.items():
        names = found.dataset.record.classes.get(task) or [str(i) for i in range(metric.num_classes)]

        def score(sums: Statistics, names: Sequence[str] = names) -> dict[str, torch.Tensor]:
            return dict(zip(names, (100 * class_iou(sums["counts"])).unbind(-1), strict=True))

        whole = score({"counts": statistics[task]["counts"].sum(0)})
        scores[task] = {name: {"IoU": float(value)} for name, value in whole.items()}
        if resamples:
            weights = resample_weights(len(found.dataset.ids), resamples, seed)
            for name, values in bootstrap(statistics[task], score, weights).items():
                scores[task][name]["interval"] = interval(values)
    return scores
