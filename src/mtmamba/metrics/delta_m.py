"""The multi-task gain."""

from collections.abc import Collection, Mapping


def delta_m(
    values: Mapping[str, float], base: Mapping[str, float], lower_is_better: Collection[str] | Mapping[str, bool]
) -> float:
    """Mean relative gain over single-task models, in percent.

    The mean over tasks of ``(-1)^[lower is better] (M - M_base) / M_base``. A NaN value gives NaN: leave out, on both
    sides, a task whose metric could not be computed.
    Source: Maninis et al., Attentive Single-Tasking of Multiple Tasks, CVPR 2019.

    Args:
        values: each task's score.
        base: the single-task model's score of the same tasks.
        lower_is_better: the tasks where less is better, or for each task whether it is; other tasks may be named.

    Raises:
        ValueError: the tasks of values and base differ, there are none, or a base is 0.

    Example:
        >>> delta_m({"classes": 60.0, "metres": 0.25}, {"classes": 50.0, "metres": 0.5}, {"metres"})
        35.0
    """
    if not values or values.keys() != base.keys():
        raise ValueError(
            f"Expected scores and bases of the same tasks, got {sorted(values)} and {sorted(base)} "
            f"(on one side only: {sorted(values.keys() ^ base.keys())}): select the common tasks."
        )
    zero = [task for task, score in base.items() if score == 0]
    if zero:
        raise ValueError(f"Expected bases other than 0, got 0 for {zero}: correct the base.")
    if isinstance(lower_is_better, Mapping):
        lower_is_better = {task for task, lower in lower_is_better.items() if lower}
    gains = [(values[task] - base[task]) / base[task] * (-1 if task in lower_is_better else 1) for task in values]
    return 100 * sum(gains) / len(gains)
