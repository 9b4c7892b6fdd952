"""What every script does around its work: compose the configuration, answer errors, keep quiet, leave nothing behind.

Nothing heavy is imported here: a wrong override is answered before PyTorch is.
"""

import logging
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from pathlib import Path

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mtmamba.answers import is_answer, is_null_choice, tell
from mtmamba.config.kinds import check_kinds
from mtmamba.config.overrides import check_choices, check_left_out, check_overrides
from mtmamba.config.settings import ConfigError, check_given, check_settings
from mtmamba.files import full_disk, is_full_disk, remove_folder
from mtmamba.jobs import (
    STOPPED,
    JobError,
    check_launched,
    check_place,
    free_memory,
    keep_gpus,
    overrides_of,
    run_alone,
    takes_several_devices,
    work_on_row,
)
from mtmamba.places import check_places
from mtmamba.runs.names import ENVIRONMENT, LOG, SETTINGS
from mtmamba.shipped import config_dir
from mtmamba.stops import listen

DEBUG = "HYDRA_FULL_ERROR"
"""The environment variable that asks for tracebacks: Hydra's own."""

QUIET = {"PYTHONWARNINGS": "ignore", "NO_ALBUMENTATIONS_UPDATE": "1", "WANDB_SILENT": "true"}
"""Silences, in loading processes and in those of other devices too, what a user can do nothing about."""

RECORDS = {".hydra", SETTINGS, ENVIRONMENT, LOG}
"""Files that every run begins with. They are removed again where an error of the user's ends it at once."""

DEMO = "demo"
"""The experiment where none is chosen, which is one of synthetic scenes."""


def run_group(*, _root_: DictConfig) -> str:
    """Return the folder in ``log_dir`` for a script's runs: the experiment's name, or the script's where it has none.

    Runs on another dataset than the demo's scenes, with no experiment chosen, lie in one of the dataset's name.
    """
    choices = _root_.hydra.runtime.choices
    experiment = choices.get("experiment") or _root_.hydra.job.name
    return str(choices.data if experiment == DEMO and not OmegaConf.select(_root_, "data.scenes") else experiment)


OmegaConf.register_new_resolver("run_group", run_group, replace=True)


def script_help(*, _root_: DictConfig) -> str:
    """Return the template of a script's ``--help``: its own YAML, explained, and the files of its own groups."""
    called, loader = _root_.hydra, GlobalHydra.instance().config_loader()
    yaml = (config_dir() / f"{called.job.name}.yaml").read_text(encoding="utf-8").replace("$", "$$")
    purpose, _, rest = yaml.partition("defaults:\n")
    parts = [re.sub("^# ", "", purpose, flags=re.M), "== Settings: KEY=VALUE ==", rest.partition("\n\n")[2]]
    lines = []
    for group, choice in reversed(called.runtime.choices.items()):
        if group.startswith("hydra") or (choice is None and group in _root_):  # of a checkpoint: not to be chosen
            continue
        files = loader.get_group_options(group)
        for inner in loader.get_group_options(group, ObjectType.GROUP):
            files = files + [f"{inner}/{file}" for file in loader.get_group_options(f"{group}/{inner}")]
        lines.append(f"{group}: {', '.join(files)}")
    if lines:
        parts += [
            "== Groups: GROUP=FILE ==",
            *lines,
            "",
            "== All settings, with those of the files chosen ==",
            "$CONFIG",
        ]
    return "\n".join([*parts, "Hydra's own options: --hydra-help"])


OmegaConf.register_new_resolver("script_help", script_help, replace=True)


def command(name: str, work: Callable[[DictConfig, Path], None]) -> None:
    """Compose a script's configuration from the command line and work with it, run by run of a sweep.

    An error that is the user's is printed as one sentence, with exit status 1; with ``HYDRA_FULL_ERROR=1`` every error
    has its traceback. A call that fails leaves no empty folder behind.

    Args:
        name: the script's, and its configuration's.
        work: is given the configuration and the run's folder; it imports what it needs.
    """
    asked = os.environ.get(DEBUG, "0")
    debug = asked not in ("", "0")
    if not debug:
        hush()
    listen(signal.default_int_handler, signal.SIGTERM, signal.SIGHUP)
    called = [os.path.abspath(sys.argv[0]), *sys.argv[1:]]  # what a launcher's processes are called with is another
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")

    def attempt(cfg: DictConfig, folder: Path) -> None:
        check_places(cfg)
        work(cfg, folder)

    def job(cfg: DictConfig) -> None:
        swept = HydraConfig.get().mode == RunMode.MULTIRUN
        folder = Path(HydraConfig.get().runtime.output_dir)
        if not debug:
            hush()  # launchers run jobs in other processes
        try:
            with environment(DEBUG, asked if debug else None):
                if swept:
                    keep_gpus(visible)
                check_given(cfg)
                check_overrides(told_apart(overrides_of("task")), cfg, HydraConfig.get().runtime.choices)
                check_settings(cfg)
                check_kinds(cfg, name)
                check_launched(cfg)
                check_place(cfg, folder)
                if swept and "resume" in cfg:
                    work_on_row(cfg, folder, attempt, called)
                elif swept and takes_several_devices(cfg):
                    run_alone(folder, called)
                else:
                    attempt(cfg, folder)
        except (KeyboardInterrupt, SystemExit) as error:
            remove_unused(folder, {".hydra"})
            if isinstance(error.__context__, KeyboardInterrupt):  # which Lightning turns into status 1
                sys.exit(STOPPED)
            raise
        except Exception as error:
            if is_full_disk(error) and not str(error).startswith("Expected "):
                error = OSError(full_disk(folder))
            cache = OmegaConf.select(cfg, "cache_dir")
            if (
                cache
                and isinstance(error, OSError)
                and Path(str(error.filename)).is_relative_to(Path(cache).expanduser())
            ):
                error = OSError(
                    f"Expected a cache folder that can be used, got {cache} ({error}): set cache_dir=FOLDER."
                )
            answer = is_answer(error)
            remove_unused(folder, RECORDS if answer else {".hydra"})
            if debug or not answer:
                raise
            tell(error, name)
        else:
            return
        free_memory()  # the error held it, and loading processes, which the next one need not bear
        if swept:
            raise JobError
        sys.exit(1)

    job.__module__ = name  # after which Hydra names the job
    main = hydra.main(version_base="1.3", config_path=str(config_dir().resolve()), config_name=name)(job)
    with environment(DEBUG, asked if debug else "1"):  # Hydra hands its errors on
        try:
            check_left_out(sys.argv[1:])
            check_choices(sys.argv[1:])
            main()
        except JobError:
            sys.exit(1)
        except BrokenPipeError:  # whoever read the output has gone
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        except (KeyboardInterrupt, HydraException, OmegaConfBaseException, OSError, ValueError) as error:
            told = isinstance(error, ConfigError | HydraException | OmegaConfBaseException) or is_null_choice(error)
            if debug or (isinstance(error, ValueError) and not told):
                raise
            if isinstance(error, KeyboardInterrupt):
                print("Stopped by Ctrl-C, SIGTERM or SIGHUP.", file=sys.stderr, flush=True)  # noqa: T201 - this is what people read
                sys.exit(STOPPED)
            folder = f"Expected a folder for runs, got {error}: set log_dir=FOLDER."  # the job has answered its own
            tell(error if told else OSError(folder), name)
            sys.exit(1)


def told_apart(overrides: list[str]) -> list[str]:
    """Return overrides with ``++`` as what it comes to: ``+`` where nothing else sets it, or nothing."""
    forced = {o: o.partition("=")[0].lstrip("+") for o in overrides if o.startswith("++")}
    if not forced:
        return overrides
    others = [o for o in overrides if o not in forced]
    loader, name = GlobalHydra.instance().config_loader(), HydraConfig.get().job.config_name
    before = loader.load_configuration(name, others, RunMode.RUN)
    told = []
    for override, key in forced.items():
        parent, _, last = key.rpartition(".")
        node = OmegaConf.select(before, parent) if parent else before
        there = last in list(node) if isinstance(node, DictConfig) else node is not None
        told.append(override.removeprefix("++" if there else "+"))
    return others + told


def hush() -> None:
    """Silence what other libraries say that a user can do nothing about, here and in processes to come."""
    for key, value in QUIET.items():
        os.environ.setdefault(key, value)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # who called has closed it
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - until the end
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # as stderr: names are any letters
    logging.raiseExceptions = False  # such as tracebacks of a log on a full disk
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    for part in ("fabric", "pytorch"):  # Lightning's tips and summaries; what this package says by its means stays
        library = logging.getLogger(f"lightning.{part}.utilities.rank_zero")
        library.addFilter(is_ours)
    for name in ("torch.distributed", "timm"):
        logging.getLogger(name).setLevel(logging.ERROR)


def is_ours(record: logging.LogRecord) -> bool:
    """Return whether this package has written a record."""
    return record.pathname.startswith(str(Path(__file__).parent))


@contextmanager
def environment(key: str, value: str | None) -> Iterator[None]:
    """Give an environment variable another value for a while, or none."""
    before = os.environ.get(key)
    _set(key, value)
    try:
        yield
    finally:
        _set(key, before)


def _set(key: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(key, None)
    else:
        os.environ[key] = value


def remove_unused(folder: Path, records: Set[str]) -> None:
    """Remove a run's folder that holds nothing but records of the call, and parents that are then empty.

    Args:
        folder: the run's.
        records: names of what counts as such.
    """
    if folder.resolve() != Path.cwd() and not (folder.is_dir() and {p.name for p in folder.iterdir()} - records):
        remove_folder(folder)
