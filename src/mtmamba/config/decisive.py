"""Which settings decide what training's updates are, and which the scores of a run."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mtmamba.config.settings import ConfigError

UPDATES = ("data", "encoder", "decoder", "ablation", "loss", "optimizer", "balancing")
"""The groups that decide what training's updates are; a checkpoint's choices of them are restored."""

ALONE = ("tasks", "seed", "init", "ema_decay")
"""The settings outside of groups that do."""

_NEITHER = {
    "data.root", "data.cache_dir", "data.check", "data.num_workers", "data.val_batch_size", "data.delta_m_base",
    "data.dataset", "data.tasks", "data.seed", "decoder.backend",
}  # fmt: skip
INDIFFERENT = {*_NEITHER, "encoder.pretrained", "encoder.weights", "encoder.name"}
"""What is another's choice (a machine's, a validation's), or says again what another key says."""

LENGTH = "optimizer.schedule.max_steps"
"""The number of updates, which a run that is gone on with may change."""

TRAINED = (
    "loss", "optimizer", "ema_decay", "monitor", "trainer.max_steps", "trainer.precision", "trainer.val_check_interval",
)  # fmt: skip
"""The settings of a training on which scores depend; the others say where and how fast it went."""


def check_resumed(mine: Mapping[str, Any], its: Mapping[str, Any]) -> None:
    """Refuse to go on with a run whose updates would be others, but for their number.

    Args:
        mine: what this call's configuration says, from `mtmamba.config.compose.describe`.
        its: the same of the checkpoint.

    Raises:
        ConfigError: dataset, network, tasks, loss, optimiser, seed or the averaging of weights differ.
    """
    found = [text for key, text in differences(mine, its).items() if key != LENGTH]
    if found:
        raise ConfigError(
            f"Expected the settings of the run to resume, got {', '.join(found)}: repeat that run's command with "
            "resume added, or begin a new run without it."
        )


def differences(mine: Mapping[str, Any], its: Mapping[str, Any]) -> dict[str, str]:
    """Return what would make other updates: ``{key: "key=mine instead of its"}``.

    Settings that only one of the two knows, as of another version of this program, are not compared.
    """
    mine, its = (_of_updates(description) for description in (mine, its))
    keys = [key for key in mine if key in its and mine[key] != its[key]]
    others = [key for key in keys if key.split(".")[0] not in set(keys) - {key}]  # what follows from another choice
    return {key: f"{key}={mine[key]} instead of {its[key]}" for key in others}


def _of_updates(description: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that training's updates depend on, by dotted key."""
    choices, values = description["choices"], description["values"]
    found = {group: choices[group] for group in UPDATES if group in choices}
    settings = flat({group: values[group] for group in (*ALONE, *UPDATES) if group in values})
    return found | {key: value for key, value in settings if key not in INDIFFERENT}


def decisive(config: Any, *, trained: bool = True) -> dict[str, Any]:
    """Return the settings on which scores depend, by dotted key.

    Args:
        config: a run's whole configuration.
        trained: with those of the training, which the configuration of an evaluation does not tell.
    """
    untold = () if trained else (*TRAINED, "encoder.pretrained", "encoder.weights")
    ignored = (*_NEITHER, "data.device_batch_size", LENGTH, *untold)
    kept = ("data", "encoder", "decoder", *TRAINED)
    return {key: value for key, value in flat(config) if _is_below(key, kept) and not _is_below(key, ignored)}


def flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted keys and leaves; what Hydra acts on (``_target_`` and the like) follows from the choices."""
    if not isinstance(value, Mapping):
        yield prefix, value
        return
    for key, item in value.items():
        if not str(key).startswith("_"):
            yield from flat(item, f"{prefix}.{key}" if prefix else str(key))


def _is_below(key: str, parents: Iterable[str]) -> bool:
    return any(key == parent or key.startswith(f"{parent}.") for parent in parents)
