"""Runs of one configuration, taken together over their seeds."""

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from mtmamba.paper import Network
from mtmamba.report.runs import LeftOut, Run
from mtmamba.runs.names import SCORES
from mtmamba.tasks import all_tasks


class Summary(NamedTuple):
    """Values over seeds: their mean, their sample standard deviation (None for a single one), and how many."""

    mean: float
    deviation: float | None
    n: int


@dataclass(frozen=True, eq=False)
class Group:
    """Finished runs that differ in their seeds alone.

    Attributes:
        name: dataset, encoder, decoder, what is ablated, which tasks if not all; numbered where several are alike.
        network: what they trained.
        settings: what decided their scores, by dotted key.
        differs_in: the settings in which groups of this network differ, with this one's values.
        runs: by seed; at least one.
    """

    name: str
    network: Network
    settings: Mapping[str, Any]
    differs_in: str
    runs: Sequence[Run]

    @property
    def is_evaluation(self) -> bool:
        """Whether these are evaluations of checkpoints whose training is not among the runs."""
        return self.runs[0].is_evaluation

    def summary(self, task: str, metric: str) -> Summary | None:
        """Return a metric over the seeds; None where no run has it."""
        values = [scores[metric] for run in self.runs if metric in (scores := run.scores.get(task, {}))]
        return summarise(values) if values else None

    def metrics(self) -> list[tuple[str, str]]:
        """Return every task and metric that a run has, tasks in the canonical order."""
        found = {(task, metric): None for run in self.runs for task in run.scores for metric in run.scores[task]}
        return sorted(found, key=lambda pair: list(all_tasks()).index(pair[0]))


def summarise(values: Sequence[float]) -> Summary:
    """Return mean, sample standard deviation and number of values.

    >>> summarise([1.0, 2.0, 3.0])
    Summary(mean=2.0, deviation=1.0, n=3)
    """
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return Summary(statistics.fmean(values), deviation, len(values))


def group_runs(runs: Iterable[Run]) -> tuple[list[Group], list[LeftOut]]:
    """Take together the runs of the same network and settings.

    Returns:
        The groups, in the order of their first runs; all but the last of the runs that repeat a seed.
    """
    groups: dict[str, dict[int, Run]] = {}
    left_out = []
    for run in sorted(runs, key=lambda run: (run.folder / SCORES).stat().st_mtime_ns):
        key = json.dumps([run.network, run.is_evaluation, run.settings], sort_keys=True, default=str)
        seeds = groups.setdefault(key, {})
        seed = run.record["seed"]
        if seed in seeds:
            left_out.append(LeftOut(seeds[seed].folder, f"repeated with the same seed, {seed}, by {run.folder}"))
        seeds[seed] = run
    found = [[run for _, run in sorted(seeds.items())] for seeds in groups.values()]
    return [_group(runs, found) for runs in sorted(found, key=lambda runs: runs[0].network)], left_out


def differences(settings: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that are not those of others, and as None those that only the others have."""
    return {
        key: settings.get(key)
        for key in dict.fromkeys((*settings, *others))
        if settings.get(key) != others.get(key)
    }  # fmt: skip


def as_text(settings: Mapping[str, Any]) -> str:
    """Write settings as on the command line."""
    return ", ".join(f"{key}={_plain(value)}" for key, value in settings.items())


def _group(runs: Sequence[Run], every: Sequence[Sequence[Run]]) -> Group:
    run, network = runs[0], runs[0].network
    alike = [others[0] for others in every if others[0].network == network]
    varying = {key for other in alike for key in _varying(run, other)}
    parts = [network.data, network.encoder, network.decoder]
    parts += [network.ablation] if network.ablation != "none" else []
    if len(network.tasks) < sum(key.startswith("data.num_outputs.") for key in run.settings):
        parts.append(f"[{', '.join(network.tasks)}]")
    if len(alike) > 1:
        parts[-1] += f" ({alike.index(run) + 1})"
    differs_in = ["evaluation of a checkpoint"] if run.is_evaluation else []
    differs_in += [as_text({key: run.settings.get(key) for key in sorted(varying)})] if varying else []
    return Group(" · ".join(parts), network, run.settings, ", ".join(differs_in), runs)


def _varying(run: Run, other: Run) -> set[str]:
    """Name the settings in which two runs differ; of a training and an evaluation, those that both tell."""
    found = set(differences(run.settings, other.settings))
    if run.is_evaluation == other.is_evaluation:
        return found
    return {key for key in found & run.settings.keys() if key in other.settings or key.startswith("tta.")}


def _plain(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value).replace("'", "") if isinstance(value, list) else str(value)
