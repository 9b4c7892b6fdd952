"""The jobs of a sweep: which rows it has, a row that is trained once, a job as a command of its own."""

import gc
import itertools
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from mtmamba.answers import is_answer
from mtmamba.config.settings import ConfigError
from mtmamba.stops import STOPS

log = logging.getLogger(__name__)

FLAGS_WITH_VALUE = {"--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd"}


class JobError(RuntimeError):
    """A job of a sweep failed and has said why; the others go on."""


STOPPED = 130
"""The exit status of a run that was stopped (`mtmamba.stops`)."""

SHARING = {"joblib", "submitit_local"}
"""The launchers whose jobs are processes of one machine that all see its GPUs."""


def work_on_row(cfg: DictConfig, folder: Path, work: Callable[[DictConfig, Path], None], called: Sequence[str]) -> None:
    """Train a row of a sweep unless it is finished, from its last checkpoint where there is one, and show all rows.

    What fails without an answer to the user is tried again, ``cfg.retries`` times, each in a process of its own.

    Args:
        cfg: the row's configuration.
        folder: the row's.
        work: trains.
        called: the script and its arguments.
    """
    from mtmamba.runs.sweep import SHOWN, failure, is_there, show_rows, take_gpu

    hydra_cfg = HydraConfig.get()
    sweep_dir, alone = Path(hydra_cfg.sweep.dir), takes_several_devices(cfg)
    if hydra_cfg.runtime.choices["hydra/launcher"] in SHARING and not alone and cfg.trainer.accelerator != "cpu":
        take_gpu(sweep_dir)
    overrides = rows_of(sweep_dir)
    if is_there(cfg, folder):
        if folder.name == str(len(overrides) - 1) and sweep_dir not in SHOWN:
            show_rows(sweep_dir, overrides)
        return
    failure(folder).unlink(missing_ok=True)
    if sweep_dir not in SHOWN:  # afterwards the end of one row is the beginning of the next
        show_rows(sweep_dir, overrides, folder)
    try:
        for left in reversed(range(cfg.retries + 1)):
            if cfg.resume is None and (folder / "checkpoints" / "last.ckpt").is_file():
                cfg.resume = str(folder)
            try:
                if alone:
                    run_alone(folder, called, [] if cfg.resume is None else [f"resume='{cfg.resume}'"])
                else:
                    work(cfg, folder)
                return
            except Exception as error:
                if left == 0 or not may_pass(error):
                    failure(folder).touch()
                    raise
                log.warning("Expected %s to be trained, got an error; it is tried again.", folder, exc_info=True)
            free_memory()
            alone = True
    finally:
        show_rows(sweep_dir, overrides)


def keep_gpus(visible: str | None) -> None:
    """Let a job that submitit has started on this machine see the GPUs that the sweep was called with.

    submitit shows it the machine's first ``hydra.launcher.gpus_per_node``, whoever has those, and none where that is
    not set.

    Args:
        visible: the caller's ``CUDA_VISIBLE_DEVICES``, of which the first ``gpus_per_node`` are kept; None: all.
    """
    called = HydraConfig.get()
    if called.runtime.choices["hydra/launcher"] != "submitit_local":
        return
    number = called.launcher.get("gpus_per_node")
    if visible is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(visible.split(",")[:number])
    elif number is None:
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)


def may_pass(error: Exception) -> bool:
    """Return whether an error may not come again: the machine's or a process's, and no answer to settings."""
    passing = isinstance(error, JobError) or (isinstance(error, OSError) and not str(error).startswith("Expected "))
    return passing or not is_answer(error)


def free_memory() -> None:
    """Give back what a failed run has held."""
    gc.collect()
    if torch := sys.modules.get("torch"):
        with suppress(RuntimeError):  # of a GPU that the failure has left unusable
            torch.cuda.empty_cache()


def overrides_of(kind: str) -> list[str]:
    """Return what the present job is called with, ``task`` or ``hydra``, as it is written: nothing is interpolated."""
    return cast(list[str], OmegaConf.to_container(getattr(HydraConfig.get().overrides, kind)))


def rows_of(sweep_dir: Path) -> list[list[str]]:
    """Return the overrides of a sweep's rows, in the order of their numbers, from Hydra's record of the call."""
    called: Any = OmegaConf.to_container(OmegaConf.load(sweep_dir / "multirun.yaml").hydra)  # nothing is interpolated
    params = [f"{key}={value}" for key, value in (called["sweeper"]["params"] or {}).items()]
    overrides = OverridesParser.create().parse_overrides([*params, *called["overrides"]["task"]])
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


def check_launched(cfg: DictConfig) -> None:
    """Refuse, where something else has started the processes of a run, what each of them would decide by itself.

    Raises:
        ConfigError: a sweep, no folder, or ``resume=auto``.
    """
    called, trainer = HydraConfig.get(), cfg.get("trainer") or {}
    if "TORCHELASTIC_RUN_ID" in os.environ:
        launcher = "torchrun"
    elif int(os.environ.get("SLURM_NTASKS", 1)) > 1 and os.environ.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        launcher = "srun"
    elif trainer.get("num_nodes", 1) != 1:
        launcher = "trainer.num_nodes"
    else:
        return
    if called.mode == RunMode.MULTIRUN:
        raise ConfigError(f"Expected one run with {launcher}, got a sweep: leave out -m, and call it for each row.")
    if trainer and not any(override.startswith("hydra.run.dir=") for override in overrides_of("hydra")):
        raise ConfigError(
            f"Expected hydra.run.dir=FOLDER with {launcher}, whose processes would each make one of their own, got "
            "none: name one that all of them reach."
        )
    if cfg.get("resume") == "auto":
        raise ConfigError(
            f"Expected resume=RUN with {launcher}, whose processes might not find the same run, got auto: name it."
        )


def check_place(cfg: DictConfig, folder: Path) -> None:
    """Refuse to put a run where its dataset lies, and take back what Hydra has written there.

    Raises:
        ConfigError: the run's folder, or the sweep's, is the dataset's or contains it.
    """
    called = HydraConfig.get()
    if called.output_subdir is None or (root := OmegaConf.select(cfg, "data.root")) is None:  # no folder of its own
        return
    place = Path(called.sweep.dir) if called.mode == RunMode.MULTIRUN else folder
    if Path(os.path.realpath(Path(root).expanduser())).is_relative_to(os.path.realpath(place)):
        shutil.rmtree(folder / called.output_subdir, ignore_errors=True)
        (place / "multirun.yaml").unlink(missing_ok=True)
        raise ConfigError(
            f"Expected a folder of the run's own, got {place}, where the dataset {root} lies: choose another with "
            "hydra.run.dir=FOLDER, or hydra.sweep.dir=FOLDER for a sweep."
        )


def run_alone(folder: Path, called: Sequence[str], more: Sequence[str] = ()) -> None:
    """Run the present job of a sweep as a command of its own, in the folder that the sweep gave it.

    Lightning starts other devices' processes by calling the command line again, which for a sweep would be the sweep.

    Args:
        folder: the job's.
        called: the sweep's script and its arguments.
        more: overrides.

    Raises:
        JobError: the command failed; it has said why.
        KeyboardInterrupt: it was stopped.
    """
    script, *arguments = called
    flags, values = [], iter(arguments)
    for argument in values:
        if argument in FLAGS_WITH_VALUE:
            flags += [argument, next(values)]
        elif argument.startswith("--config-"):
            flags.append(argument)
    hydras = [o for o in overrides_of("hydra") if not o.startswith(("hydra.mode=", "hydra.sweep"))]
    ours = [*overrides_of("task"), *hydras]
    call = [sys.executable, script, *flags, *ours, *more, "hydra.mode=RUN", f"hydra.run.dir='{folder}'"]
    with subprocess.Popen(call) as child:
        before = {s: signal.signal(s, lambda *_: None) for s in STOPS}
        signal.signal(signal.SIGTERM, lambda *_: child.terminate())  # the terminal's reach the child by themselves
        try:
            status = child.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    if status == STOPPED:
        raise KeyboardInterrupt
    if status != 0:
        raise JobError(f"Expected the run in {folder} to end well, got exit status {status}: see above.")
