"""What every script does around its work: compose the configuration, answer errors in a sentence, keep quiet.

Nothing heavy is imported here: a wrong override is answered before PyTorch is.
"""

import difflib
import gc
import itertools
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from contextlib import contextmanager, suppress
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mtmamba.files import full_disk, is_full_disk
from mtmamba.settings import check_given, check_settings
from mtmamba.trainer_arguments import refusal

DEBUG = "HYDRA_FULL_ERROR"
"""The environment variable that asks for tracebacks: Hydra's own."""

QUIET = {"PYTHONWARNINGS": "ignore", "NO_ALBUMENTATIONS_UPDATE": "1", "WANDB_SILENT": "true"}
"""So that loading processes and those of other devices say nothing either that a user can do nothing about."""

RECORDS = {".hydra", "config.yaml", "environment.json", "run.log"}
"""What is written down of every run when it begins, and not kept of one that an error of the user's ends at once."""

FLAGS_WITH_VALUE = {"--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd"}


MAIN_KEYS = {
    "eval": "ckpt",
    "predict": "source",
    "eval_predictions": "pred",
    "import_checkpoint": "source",
    "export": "ckpt",
    "report": "runs",
}
"""What a script is called with first, where there is such a thing."""


DEMO = "demo"
"""The experiment where none is chosen, which is one of synthetic scenes."""
EXTRAS = {"joblib": "mtmamba[joblib]", "submitit_local": "mtmamba[slurm]", "submitit_slurm": "mtmamba[slurm]"}
"""What brings a launcher of sweeps, where it is missing."""


class JobError(RuntimeError):
    """A job of a sweep failed and has said why; the others go on."""


def config_dir() -> Path:
    """Return the folder of the YAML files: inside an installed package, beside ``src`` in a checkout."""
    package = Path(__file__).parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parents[1] / "configs"


def run_group(*, _root_: DictConfig) -> str:
    """Return the folder in ``log_dir`` for a script's runs: the experiment's name, or the script's where it has none.

    Runs on another dataset than the demo's scenes, with no experiment chosen, lie in one of the dataset's name.
    """
    choices = _root_.hydra.runtime.choices
    experiment = choices.get("experiment") or _root_.hydra.job.name
    return str(choices.data if experiment == DEMO and not OmegaConf.select(_root_, "data.scenes") else experiment)


OmegaConf.register_new_resolver("run_group", run_group, replace=True)


def command(name: str, work: Callable[[DictConfig, Path], None]) -> None:
    """Compose a script's configuration from the command line and work with it, run by run of a sweep.

    An error that is the user's is printed as one sentence, with exit status 1; with ``HYDRA_FULL_ERROR=1`` every error
    has its traceback. A call that fails leaves no empty folder behind.

    Args:
        name: the script's, and its configuration's.
        work: is given the configuration and the run's folder; it imports what it needs.
    """
    debug = os.environ.get(DEBUG, "0") not in ("", "0")
    if not debug:
        hush()

    def job(cfg: DictConfig) -> None:
        swept = HydraConfig.get().mode == RunMode.MULTIRUN
        folder = Path(HydraConfig.get().runtime.output_dir)
        try:
            with without_environment(DEBUG, not debug):
                check_given(cfg)
                check_settings(cfg)
                if swept and "resume" in cfg:
                    work_on_row(cfg, folder, work)
                elif swept and takes_several_devices(cfg):
                    run_alone(folder)
                else:
                    work(cfg, folder)
        except Exception as error:
            if is_full_disk(error) and not str(error).startswith("Expected "):
                error = OSError(full_disk(folder))
            answer = is_answer(error)
            remove_unused(folder, RECORDS if answer else {".hydra"})
            if debug or not answer:
                raise
            tell(error, name)
        else:
            return
        gc.collect()  # a failed run's memory and loading processes, which its error held, are not the next one's burden
        if swept:
            raise JobError
        sys.exit(1)

    job.__module__ = name  # after which Hydra names the job
    main = hydra.main(version_base="1.3", config_path=str(config_dir().resolve()), config_name=name)(job)
    with without_environment(DEBUG, debug is False, "1"):  # Hydra hands its errors on
        try:
            main()
        except JobError:
            sys.exit(1)
        except KeyboardInterrupt:
            if debug:
                raise
            print("Stopped by Ctrl-C.", file=sys.stderr, flush=True)  # noqa: T201 - this is what people read
            sys.exit(130)
        except BrokenPipeError:  # whoever read the output has gone
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        except (HydraException, OmegaConfBaseException) as error:
            if debug:
                raise
            tell(error, name)
            sys.exit(1)
        except OSError as error:  # the job has answered its own
            if debug:
                raise
            tell(OSError(f"Expected a folder for runs, got {error}: set log_dir=FOLDER."), name)
            sys.exit(1)


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


def hush() -> None:
    """Silence what other libraries say that a user can do nothing about, here and in processes to come."""
    for key, value in QUIET.items():
        os.environ.setdefault(key, value)
    logging.raiseExceptions = False  # such as tracebacks of a log on a full disk
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    package = str(Path(__file__).parent)
    for part in ("fabric", "pytorch"):  # Lightning's tips and summaries; what this package says by its means stays
        library = logging.getLogger(f"lightning.{part}.utilities.rank_zero")
        library.addFilter(lambda record: record.pathname.startswith(package))
    for name in ("torch.distributed", "timm"):
        logging.getLogger(name).setLevel(logging.ERROR)


@contextmanager
def without_environment(key: str, applies: bool, value: str | None = None) -> Iterator[None]:
    """Give an environment variable another value for a while, or none."""
    before = os.environ.get(key)
    _set(key, value if applies else before)
    try:
        yield
    finally:
        _set(key, before)


def _set(key: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(key, None)
    else:
        os.environ[key] = value


def is_answer(error: BaseException) -> bool:
    """Return whether an error's message is meant for people: ours, Hydra's, or the operating system's."""
    ours = type(error).__module__.partition(".")[0] in ("mtmamba", "hydra", "omegaconf")
    return ours or isinstance(error, OSError) or str(error).startswith("Expected ") or _is_full(error)


def _is_full(error: BaseException) -> bool:
    """Whether a GPU's memory did not suffice: an error of PyTorch's, which is not imported for this."""
    return any(base.__name__ == "OutOfMemoryError" for base in type(error).__mro__)


def tell(error: BaseException, name: str) -> None:
    """Print an error as one sentence."""
    print(f"Error: {sentence(error, name)}", file=sys.stderr, flush=True)  # noqa: T201 - this is what people read


def sentence(error: BaseException, name: str) -> str:
    """Return an error's message on one line, Hydra's in our words.

    Args:
        error: whatever was raised.
        name: the script's.
    """
    text, cause = " ".join(str(error).split()), error.__cause__
    if _is_full(error):
        return (
            f"Expected the GPU's memory to suffice, got: {text.partition(' If reserved')[0]} Lower "
            "data.device_batch_size (data.val_batch_size in evaluation), or set model.checkpointing=blocks."
        )
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        there = f"{', '.join(error.options)}, or one of yours in --config-dir DIR"
        if choice in EXTRAS:
            return f"Expected {EXTRAS[choice]} for {group}={choice}, got none: pip install '{EXTRAS[choice]}'."
        return f"Expected {group} to be one of {there}, got {choice}{_meant(choice, error.options)}"
    if isinstance(error, OverrideParseException):
        key = MAIN_KEYS.get(name)
        if "=" in error.override:
            return f"Expected KEY=VALUE, got {error.override}: put quotes around such a value, 'KEY=\"VALUE\"'."
        return f"Expected KEY=VALUE, got {error.override}{f': did you mean {key}={error.override}?' if key else '.'}"
    if found := re.match("Error locating target '(.*?)'", text):
        return (
            f"Expected {found[1]} to be importable, got no such name: give its file with extensions=[FILE.py], or put "
            "its folder on PYTHONPATH."
        )
    if found := re.match("Could not override '(.*?)'. No match in the defaults list", text):
        if (config_dir() / found[1]).is_dir():
            return f"Expected a setting of src/{name}.py, got {found[1]}, which it leaves no choice of."
        return f"Expected no folder named after a setting in --config-dir, got {found[1]}, which would be its choices."
    if found := re.match("Multiple values for (.*?)\\.", text):
        return f"Expected one choice of {found[1]}, got two: leave out the plus before {found[1]}=…"
    if found := re.match("Error in call to target '(.*?)'", text):
        key = text.partition("full_key: ")[2]
        return f"Expected settings of {key} that {found[1]} takes, got {str(cause).rstrip('.')}: correct {key}."
    if found := re.match("Ambiguous value for argument '(.*?)'", text):
        return f"Expected one value, got {found[1]}: add -m for a run of each, or write a list as KEY=[A,B]."
    if isinstance(cause, OmegaConfBaseException) and "is not in struct" in str(cause):
        parent, _, key = str(cause.full_key).rpartition(".")
        if parent == "trainer" and (reason := refusal(key, True, evaluation=name == "eval")):
            return reason
        known = map(str, cause.parent_node) if isinstance(cause.parent_node, DictConfig) else ()
        near = _meant(key, known, f"{parent}." if parent else "")
        near = near if near != "." else f": a new one is added with +{cause.full_key}=…"
        return f"Expected a setting of src/{name}.py, got {cause.full_key}{near}"
    return text or type(error).__name__


def _meant(text: str, known: Iterable[str], before: str = "") -> str:
    """Return the end of a sentence: what a text that is not among the known ones may have meant."""
    found = difflib.get_close_matches(text, list(known), 1)
    return f": did you mean {before}{found[0]}?" if found else "."


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


def remove_unused(folder: Path, records: Set[str]) -> None:
    """Remove a run's folder that holds nothing but records of the call, and parents that are then empty.

    Args:
        folder: the run's.
        records: names of what counts as such.
    """
    if folder.resolve() == Path.cwd() or not folder.is_dir() or {p.name for p in folder.iterdir()} - records:
        return
    shutil.rmtree(folder, ignore_errors=True)  # another device's process may be at it
    for parent in list(folder.parents)[:2]:
        if parent.resolve() == Path.cwd() or not parent.is_dir() or any(parent.iterdir()):
            break
        with suppress(OSError):
            parent.rmdir()
