"""Which of timm's model families can be encoders: the table of docs/training.md.

``python -m mtmamba.stats.families [MODELS]`` tries some models of each family, three by default, 0 for all, on the meta
device: nothing is allocated or fetched.
"""

import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import timm
import torch

from mtmamba.models.encoders import TimmEncoder
from mtmamba.models.encoders.encoder import STRIDES
from mtmamba.models.encoders.timm import UnfitError
from mtmamba.models.skeleton import skeleton

SIZES = ((64, 96), (224, 224))
"""Heights and widths of the images that an encoder must take, besides `TRIAL_SIZE`, which it tries itself."""
MODELS = 3
"""Models of each family that are tried, spread evenly over the names in their order."""


class Trial(NamedTuple):
    """What became of a model: how it is an encoder, and its stochastic depth; or why it is none."""

    name: str
    how: str = ""
    drop_path: float = 0.0
    reason: str = ""


def families(models: int = MODELS) -> dict[str, list[str]]:
    """Return the names of some models of each family, timm's module; all for 0."""
    found: dict[str, list[str]] = {}
    for name in timm.list_models():
        found.setdefault(timm.model_entrypoint(name).__module__.rpartition(".")[2], []).append(name)
    return {family: evenly(names, models) for family, names in sorted(found.items())}


def evenly(names: Sequence[str], number: int) -> list[str]:
    """Return some of the names, the first and the last among them; all for 0.

    >>> evenly("abcdefg", 3), evenly("ab", 3), evenly("ab", 0)
    (['a', 'd', 'g'], ['a', 'b'], ['a', 'b'])
    """
    if not 0 < number < len(names):
        return list(names)
    return [names[i * (len(names) - 1) // max(number - 1, 1)] for i in range(number)]


def attempt(name: str) -> Trial:
    """Build a model as an encoder and try it at `SIZES`, with stochastic depth where it has any."""
    for drop_path in (0.1, 0.0):
        try:
            with skeleton():
                encoder = TimmEncoder(name, drop_path=drop_path).eval()
                for height, width in SIZES:
                    require_maps(encoder, height, width)
        except UnfitError as error:
            trial = Trial(name, reason=error.reason)
            if error.__cause__ is None:
                return trial
            if not isinstance(error.__cause__, TypeError):  # it has stochastic depth
                break
        except (RuntimeError, ValueError, AssertionError) as error:  # the model's own
            trial = Trial(name, reason=f"fails at some sizes ({error})")
            break
        else:
            plain = "feature pyramid of a plain ViT" if encoder.pyramid is not None else "its own maps"
            return Trial(name, "neck" if encoder.neck is not None else plain, drop_path)
    return trial._replace(reason="takes images of one size") if takes_its_own_size(name) else trial


def require_maps(encoder: TimmEncoder, height: int, width: int) -> None:
    """Raise a RuntimeError unless the four maps of an image are as large as they should be."""
    maps = [tuple(x.shape) for x in encoder(torch.empty(1, 3, height, width))]
    expected = [(1, height // s, width // s, c) for s, c in zip(STRIDES, encoder.channels, strict=True)]
    if maps != expected:
        raise RuntimeError(f"expected maps {expected} of {(height, width)}, got {maps}")


def takes_its_own_size(name: str) -> bool:
    """Return whether a model gives features of images of the size that it was made for."""
    try:
        with skeleton():
            features: Any = timm.create_model(name, features_only=True).eval()
            features(torch.empty(1, *features.default_cfg["input_size"]))
    except (RuntimeError, ValueError, AssertionError, TypeError, AttributeError):
        return False
    return True


def row(family: str, trials: Sequence[Trial]) -> str:
    """Return a family's row of the table."""
    fit = [trial for trial in trials if not trial.reason]
    unfit = [trial for trial in trials if trial.reason]
    notes = [how for how, _ in Counter(trial.how for trial in fit).most_common()]
    if any(trial.drop_path == 0 for trial in fit):
        notes.append("`encoder.drop_path=0`")
    for reason, count in Counter(trial.reason for trial in unfit).most_common(1):
        names = "" if count == len(trials) else f"`{'`, `'.join(t.name for t in unfit if t.reason == reason)}` "
        notes.append(names + " ".join(reason.replace("|", "/").split()))
    example = (fit or trials)[0].name
    return f"| {family} | {len(fit)} of {len(trials)} | `{example}` | {'; '.join(notes)} |"


def table(models: int = MODELS) -> Iterator[str]:
    """Yield the lines of the table."""
    yield "| family | work | such as | how, or why not |"
    yield "|---|---|---|---|"
    for family, names in families(models).items():
        yield row(family, [attempt(name) for name in names])


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    for line in table(*map(int, sys.argv[1:])):
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
