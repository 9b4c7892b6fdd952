"""The jobs of a sweep: which rows it has, a row that is trained once, a job as a command of its own."""

import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

FLAGS_WITH_VALUE = {"--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd"}


class JobError(RuntimeError):
    """A job of a sweep failed and has said why; the others go on."""


def work_on_row(cfg: DictConfig, folder: Path, work: Callable[[DictConfig, Path], None]) -> None:
    """Train a row of a sweep unless it is finished, from its last checkpoint where there is one, and show all rows.

    Args:
        cfg: the row's configuration.
        folder: the row's.
        work: trains.
    """
    from mtmamba.runs.sweep import is_there, show_rows

    sweep_dir = Path(HydraConfig.get().sweep.dir)
    overrides = rows_of(sweep_dir)
    if is_there(cfg, folder):
        return
    show_rows(sweep_dir, overrides, folder)
    again = folder / "checkpoints" / "last.ckpt"
    if cfg.resume is None and again.is_file():
        cfg.resume = str(folder)
    try:
        if takes_several_devices(cfg):
            run_alone(folder, [] if cfg.resume is None else [f"resume='{cfg.resume}'"])
        else:
            work(cfg, folder)
    finally:
        show_rows(sweep_dir, overrides)


def rows_of(sweep_dir: Path) -> list[list[str]]:
    """Return the overrides of a sweep's rows, in the order of their numbers, from Hydra's record of the call."""
    called = OmegaConf.load(sweep_dir / "multirun.yaml").hydra
    params = [f"{key}={value}" for key, value in (called.sweeper.params or {}).items()]
    overrides = OverridesParser.create().parse_overrides([*params, *called.overrides.task])
    values = {
        override.get_key_element(): list(override.sweep_string_iterator())
        if override.is_sweep_override()
        else [override.get_value_element_as_str()]
        for override in overrides  # of the same key the last one counts
    }
    return [[f"{k}={v}" for k, v in zip(values, row, strict=True)] for row in itertools.product(*values.values())]


def takes_several_devices(cfg: DictConfig) -> bool:
    """Return whether a run may start processes for other devices."""
    trainer = cfg.get("trainer") or {}
    return trainer.get("devices", 1) not in (1, "1") or trainer.get("num_nodes", 1) != 1


def run_alone(folder: Path, more: Sequence[str] = ()) -> None:
    """Run the present job of a sweep as a command of its own, in the folder that the sweep gave it.

    Lightning starts other devices' processes by calling the command line again, which for a sweep would be the sweep.

    Raises:
        JobError: the command failed; it has said why.
    """
    flags, values = [], iter(sys.argv[1:])
    for argument in values:
        if argument in FLAGS_WITH_VALUE:
            flags += [argument, next(values)]
        elif argument.startswith("--config-"):
            flags.append(argument)
    overrides = HydraConfig.get().overrides
    ours = [*overrides.task, *(o for o in overrides.hydra if not o.startswith(("hydra.mode=", "hydra.sweep")))]
    call = [
        sys.executable,
        os.path.abspath(sys.argv[0]),
        *flags,
        *ours,
        *more,
        "hydra.mode=RUN",
        f"hydra.run.dir='{folder}'",
    ]
    with subprocess.Popen(call) as child:
        before = {s: signal.signal(s, lambda *_: None) for s in (signal.SIGINT, signal.SIGTERM)}
        signal.signal(signal.SIGTERM, lambda *_: child.terminate())  # a terminal's Ctrl-C reaches the child by itself
        try:
            status = child.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    if status != 0:
        raise JobError(f"Expected the run in {folder} to end well, got exit status {status}: see above.")
