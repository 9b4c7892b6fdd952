"""Pretrained encoder weights: fetched through timm's index or read from a file, and loaded strictly."""

import logging
import pickle
import re
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from mtmamba.connection import answers
from mtmamba.files import what_is
from mtmamba.models.adapters.encoder import encoder_part, encoder_views
from mtmamba.models.adapters.views import Views, fill, mismatches
from mtmamba.models.skeleton import skeleton

log = logging.getLogger(__name__)

HUB_FILES = ("model.safetensors", "pytorch_model.bin")
"""What timm's weights are called on the hub."""

PATIENCE = 2
"""Seconds to wait for the hub."""

FROM_SCRATCH = "rain from scratch with encoder.pretrained=false"
REMEDIES = f"Give a file with encoder.weights=FILE (timm's, the Swin authors' or mmsegmentation's), or t{FROM_SCRATCH}."

UNREADABLE = (
    SafetensorError,
    pickle.UnpicklingError,
    RuntimeError,
    OSError,
    EOFError,
    LookupError,
    ValueError,
    struct.error,
)
"""What reading a file that is damaged, or no file of tensors, ends with."""


class WeightsError(RuntimeError):
    """Pretrained weights cannot be had, or do not match the encoder; the message names the remedies."""


def load_pretrained(encoder: nn.Module, name: str | None) -> None:
    """Fetch weights by timm's name and load them.

    Args:
        encoder: a `SwinEncoder`.
        name: architecture and tag, such as ``swin_tiny_patch4_window7_224.ms_in1k``.

    Raises:
        WeightsError: the name is unknown, the download failed, or the weights do not match.
    """
    config = timm.get_pretrained_cfg(name) if name and timm.is_model_pretrained(name) else None
    if config is None or not config.hf_hub_id:
        raise _unknown(name, REMEDIES)
    with _fetching(name, config.hf_hub_id):
        path = hf_hub_download(config.hf_hub_id, HUB_FILES[0])
    load_weights(encoder, Path(path), name)


def create_pretrained(name: str, **settings: Any) -> nn.Module:
    """Build a timm model with its pretrained weights, fetched and fitted to it by timm.

    Args:
        name: architecture, or architecture and tag.
        settings: of ``timm.create_model``.

    Raises:
        WeightsError: timm has no weights by that name, or the download failed.
    """
    config = timm.get_pretrained_cfg(name) if timm.is_model_pretrained(name) else None
    if config is None:
        raise _unknown(name, f"Otherwise, t{FROM_SCRATCH}.")
    with _fetching(name, config.hf_hub_id):
        return timm.create_model(name, pretrained=True, **settings)


def _unknown(name: str | None, remedies: str) -> WeightsError:
    return WeightsError(f"Expected the name of pretrained weights that timm knows, got encoder.name={name}. {remedies}")


@contextmanager
def _fetching(name: str | None, repository: str | None) -> Iterator[None]:
    """Begin no download where the hub does not answer, which its client would try for a minute."""
    cached = repository and any(isinstance(try_to_load_from_cache(repository, file), str) for file in HUB_FILES)
    try:
        if repository and not cached and not answers(constants.ENDPOINT, PATIENCE):
            raise ConnectionError(f"no answer from {constants.ENDPOINT} within {PATIENCE} s")
        yield
    except (OSError, EntryNotFoundError) as error:
        raise WeightsError(
            f"T{FROM_SCRATCH}, or give a file with encoder.weights=FILE: the pretrained weights {name} could not be "
            f"downloaded ({type(error).__name__}). Where only this machine is offline, download them once elsewhere "
            "and copy the hub's cache (HF_HOME)."
        ) from error


def load_weights(encoder: nn.Module, path: Path, name: str | None = None) -> None:
    """Load a file of weights into an encoder, strictly.

    Only what a classifier has and an encoder lacks may differ: the final norm and the classifier are left out, and the
    four output norms keep their initial values where the file has none.

    Args:
        encoder: a `SwinEncoder`.
        path: ``.safetensors`` or a PyTorch file (opened with ``weights_only``), with timm's, the Swin authors' or
            mmsegmentation's names.
        name: what to call the weights in the log; the path by default.

    Raises:
        WeightsError: no such file, not a file of weights, or a tensor missing, unknown or of another shape.
    """
    views, state = _matched_names(encoder, read_state(path))
    norms = {key for key in views if re.match(r"norms?\.?\d\.", key)}
    fresh = not norms & state.keys()
    if fresh:
        views = {key: view for key, view in views.items() if key not in norms}
    _fill_strictly(views, state, name or str(path))
    remark = "; the output norms start fresh" if fresh else ""
    log.info("Encoder: %d of %d tensors loaded from %s%s.", len(views), len(views), name or path, remark)


def _fill_strictly(views: Views, state: dict[str, Tensor], source: str) -> None:
    if problems := mismatches(views, state):
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise WeightsError(
            f"Expected the {len(views)} tensors of this encoder in {source}, got {len(state)} of which "
            f"{len(views.keys() & state.keys())} match by name: {'; '.join(problems[:5])}{more}. Choose the encoder "
            f"(and encoder.window) of the weights. {REMEDIES}"
        )
    fill(views, state)


def load_timm_weights(features: nn.Module, name: str, path: Path) -> None:
    """Load a file of weights into one of timm's feature extractors, strictly, after timm's own filter for the model.

    Only what the whole network has after the last map, such as its classifier, may be left out.

    Args:
        features: from ``timm.create_model(name, features_only=True)``.
        name: architecture, with or without a tag.
        path: ``.safetensors`` or a PyTorch file (opened with ``weights_only``).

    Raises:
        WeightsError: no such file, not a file of weights, or a tensor missing, unknown or of another shape.
    """
    state = read_state(path)
    with skeleton():
        network = timm.create_model(name)
    convert = getattr(sys.modules[timm.model_entrypoint(name).__module__], "checkpoint_filter_fn", None)
    if convert is not None:
        try:
            state = convert(state, network)
        except (LookupError, RuntimeError, AttributeError, ValueError) as error:
            raise WeightsError(
                f"Expected weights of {name} in {path}, got another network's ({error!r}). {REMEDIES}"
            ) from error
    whole = network.state_dict()
    own = getattr(features, "model", features).state_dict()  # a ViT's extractor holds the network
    renamed = {}
    for key, x in state.items():
        flat = key if key in own else key.replace(".", "_", 1)  # an extractor calls stages.0 stages_0
        if flat in own or key not in whole:
            renamed[flat] = x
    _fill_strictly({key: ([x], tuple(x.shape)) for key, x in own.items()}, renamed, str(path))
    log.info("Encoder: %d of %d tensors loaded from %s.", len(own), len(own), path)


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict from a ``.safetensors`` or PyTorch file.

    A dict that holds it under ``model`` or ``state_dict`` is unwrapped. Pickles are opened with ``weights_only``.

    Raises:
        WeightsError: no such file, or none that holds a state dict.
    """
    path = path.expanduser()
    if not path.is_file():
        raise WeightsError(f"Expected a file of weights at {path}, got {what_is(path)}. {REMEDIES}")
    try:
        state = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except UNREADABLE as error:
        raise WeightsError(
            f"{path} cannot be read ({type(error).__name__}): it is cut short, no file of weights, or one that would "
            f"run code. {REMEDIES}"
        ) from error
    for key in ("model", "state_dict"):
        state = state.get(key, state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()) or not state:
        raise WeightsError(
            f"Expected a dict of tensors in {path}, got {type(state).__name__} of other things. {REMEDIES}"
        )
    return state


def _matched_names(encoder: nn.Module, state: dict[str, Tensor]) -> tuple[Views, dict[str, Tensor]]:
    """Return where tensors lie in the encoder, in the file's naming, and what of the file is an encoder's."""
    own = encoder.state_dict()
    state = {
        key: x
        for key, x in encoder_part(state).items()
        if not re.match(r"(head|norm)\.", key) and not key.endswith(("relative_position_index", "attn_mask"))
    }
    if any(".w_msa." in key for key in state):
        return encoder_views(own), state
    if "layers.0.downsample.reduction.weight" in state:  # the Swin authors' stages end with it, timm's begin
        state = {re.sub(r"^layers\.(\d+)\.downsample", _next_layer, key): x for key, x in state.items()}
    return {key: ([x], tuple(x.shape)) for key, x in own.items()}, state


def _next_layer(match: re.Match[str]) -> str:
    return f"layers.{int(match[1]) + 1}.downsample"
