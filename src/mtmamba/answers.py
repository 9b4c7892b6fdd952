"""Errors as one sentence for people: ours as they are, Hydra's and PyTorch's in our words."""

import difflib
import re
import sys
from collections.abc import Iterable

from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

from mtmamba.config.trainer_arguments import refusal
from mtmamba.files import printable
from mtmamba.shipped import config_dir

MAIN_KEYS = {
    "eval": "ckpt", "predict": "source", "eval_predictions": "pred", "import_checkpoint": "source", "export": "ckpt",
    "report": "runs",
}  # fmt: skip
"""What a script is called with first, where there is such a thing."""

EXTRAS = {
    "joblib": "mtmamba[joblib]",
    "submitit_local": "mtmamba[slurm]",
    "submitit_slurm": "mtmamba[slurm]",
    "ray": "mtmamba[ray]",
}
"""What brings a launcher of sweeps, where it is missing."""

PATHLIBS = {
    "Symlink loop from ": "Expected a path that leads somewhere, got a link that leads back to itself, {}: correct it.",
    "Could not determine home directory": "Expected a path whose ~ is somebody's home, got none{}: write it in full.",
}
"""What Python says of paths without an error of its own kind, and what we do."""

NO_MEMORY = ("Insufficient memory", "DefaultCPUAllocator: ")
"""What OpenCV and PyTorch say, by errors of no kind of their own, where the machine has not the memory."""

GONE = ("Connection reset by peer", "Connection closed by peer", "Broken pipe")
"""What gloo says where a process that it waits for has ended."""


def is_answer(error: BaseException) -> bool:
    """Return whether an error's message is meant for people: ours, Hydra's, or the operating system's."""
    ours = type(error).__module__.partition(".")[0] in ("mtmamba", "hydra", "omegaconf")
    theirs = str(error).startswith(("Expected ", *PATHLIBS))
    return ours or isinstance(error, OSError) or theirs or _is_full(error) or _is_short(error) or _is_lost(error)


def _is_lost(error: BaseException) -> bool:
    """Whether another process of the run has gone, by the words of gloo and NCCL."""
    kind = type(error).__name__ == "DistBackendError"
    return kind or ("gloo" in str(error) and any(words in str(error) for words in GONE))


def _is_short(error: BaseException) -> bool:
    """Whether the machine's memory did not suffice: NumPy's error, or OpenCV's or PyTorch's by its words."""
    if isinstance(error, MemoryError):
        return True
    return not str(error).startswith("Expected ") and any(words in str(error) for words in NO_MEMORY)


def _is_full(error: BaseException) -> bool:
    """Whether a GPU's memory did not suffice: an error of PyTorch's, which is not imported for this."""
    return any(base.__name__ == "OutOfMemoryError" for base in type(error).__mro__)


def tell(error: BaseException, name: str) -> None:
    """Print an error as one sentence."""
    print(printable(f"Error: {sentence(error, name)}"), file=sys.stderr, flush=True)  # noqa: T201 - this is what people read


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
    if _is_lost(error):
        return (
            f"Expected every process of the run to go on, got one that has ended ({text.partition('] ')[2] or text}): "
            "see above for its reason, and go on with resume=RUN."
        )
    if _is_short(error):
        return (
            f"Expected the machine's memory to suffice, got: {text.rstrip('.') or 'too little'}. Choose smaller images "
            "or batches, or fewer processes."
        )
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, choice = str(error.missing_cfg_file).rpartition("/")
        if not error.options:  # of one of several choices
            return f"Expected choices of {group} that there are, got {choice}: correct it, or give --config-dir DIR."
        there = f"{', '.join(error.options)}, or one of yours in --config-dir DIR"
        if choice in EXTRAS:
            return f"Expected {EXTRAS[choice]} for {group}={choice}, got none: pip install '{EXTRAS[choice]}'."
        return f"Expected {group} to be one of {there}, got {choice}{meant(choice, error.options)}"
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
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return (
            f"Expected a path that can be used so, got {error.filename}: {error.strerror}; choose another, or mend it."
        )
    for begin, ours in PATHLIBS.items():
        if text.startswith(begin):
            return ours.format(text.removeprefix(begin).strip("'."))
    if is_null_choice(error):
        nulls = [a for a in sys.argv[1:] if "=" in a and (config_dir() / a.partition("=")[0].lstrip("+")).is_dir()]
        return f"Expected the names of files as choices of groups, got {' '.join(nulls)}: correct what is none."
    if found := re.match("Could not override '(.*?)'. No match in the defaults list", text):
        if (config_dir() / found[1]).is_dir():
            return f"Expected a setting of src/{name}.py, got {found[1]}, which it leaves no choice of."
        return f"Expected no folder named after a setting in --config-dir, got {found[1]}, which would be its choices."
    if isinstance(error, InterpolationResolutionError):
        key = error.full_key
        if found := re.search("Environment variable '(.*?)' not found", text):
            return f"Expected the environment variable {found[1]}, which {key} refers to, got none: set it."
        if found := re.match("Interpolation key '(.*?)' not found", text):
            return f"Expected a setting {found[1]}, which {key} refers to, got none: correct {key}."
        return f"Expected {key} to refer to a value, got what leads to none: correct it."
    if found := re.match("Could not delete from config. '(.*?)' does not exist", text):
        return f"Expected a setting of src/{name}.py, got ~{found[1]}, which it has not: leave it out."
    if found := re.match("Could not append to config. An item is already at '(.*?)'", text):
        return f"Expected a new setting after the plus, got +{found[1]}, which there is: leave out the plus."
    if found := re.match("Multiple values for (.*?)\\.", text):
        return f"Expected one choice of {found[1]}, got two: leave out the plus before {found[1]}=…"
    if found := re.match("Error in call to target '(.*?)'", text):
        key = text.partition("full_key: ")[2]
        if isinstance(cause, ModuleNotFoundError):
            return f"Expected {cause.name} for {key}, got no such package: pip install {cause.name}."
        of, them = (f" of {key}", key) if key else ("", "them")
        return f"Expected settings{of} that {found[1]} takes, got {str(cause).rstrip('.')}: correct {them}."
    if found := re.match("Ambiguous value for argument '(.*?)'", text):
        return f"Expected one value, got {found[1]}: add -m for a run of each, or write a list as KEY=[A,B]."
    if isinstance(cause, OmegaConfBaseException) and "is not in struct" in str(cause):
        parent, _, key = str(cause.full_key).rpartition(".")
        if parent == "trainer":
            reason = refusal(key, True, evaluation=name == "eval")
            return (
                reason or f"Expected +trainer.{key}=…, got no plus before what configs/trainer does not list: add one."
            )
        known = map(str, cause.parent_node) if isinstance(cause.parent_node, DictConfig) else ()
        near = meant(key, known, f"{parent}." if parent else "")
        near = near if near != "." else f": a new one is added with +{cause.full_key}=…"
        return f"Expected a setting of src/{name}.py, got {cause.full_key}{near}"
    if found := re.match("Error merging override (.*?)(=|$)", text):
        return f"Expected a value that {found[1]} may have, got {text.partition('override ')[2]}: correct it."
    return text or type(error).__name__


def is_null_choice(error: BaseException) -> bool:
    """Return whether an error is Hydra's for a group that was given no file's name: it has no class of its own."""
    return str(error).startswith("Config group override must be a string or a list.")


def meant(text: str, known: Iterable[str], before: str = "") -> str:
    """Return the end of a sentence: what a text that is not among the known ones may have meant."""
    found = difflib.get_close_matches(text, list(known), 1)
    return f": did you mean {before}{found[0]}?" if found else "."
