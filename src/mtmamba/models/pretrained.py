"""Pretrained encoder weights: fetched through timm's index or read from a file, and loaded strictly."""

import logging
import pickle
import re
from pathlib import Path

import timm
import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

log = logging.getLogger(__name__)

REMEDIES = (
    "Give a file with encoder.weights=FILE (timm's, the Swin authors' or mmsegmentation's), or train from scratch with "
    "encoder.pretrained=false."
)


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
        raise WeightsError(
            f"Expected the name of pretrained weights that timm knows, got encoder.name={name}. {REMEDIES}"
        )
    try:
        path = hf_hub_download(config.hf_hub_id, "model.safetensors")
    except (OSError, EntryNotFoundError) as error:
        raise WeightsError(
            f"The pretrained weights {name} could not be downloaded ({type(error).__name__}). {REMEDIES} Where only this "
            "machine is offline, download them once elsewhere and copy the hub's cache (HF_HOME)."
        ) from error
    load_weights(encoder, Path(path), name)


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
    state = read_state(path)
    if any(".w_msa." in key for key in state):
        from mtmamba.models import adapters  # imports the encoders

        try:
            adapters.load_released_encoder(encoder, state)
        except adapters.CheckpointError as error:
            raise WeightsError(f"{path}: {error} {REMEDIES}") from error
        log.info("Encoder: all %d tensors loaded from %s.", len(encoder.state_dict()), name or path)
        return

    state = _timm_names(state)
    own = {k: v for k, v in encoder.state_dict().items() if not k.startswith("norms.")}
    problems = [f"missing {k}" for k in own.keys() - state.keys()]
    problems += [f"unexpected {k}" for k in state.keys() - own.keys()]
    problems += [
        f"{k} has shape {tuple(v.shape)}, expected {tuple(own[k].shape)}"
        for k, v in state.items()
        if k in own and v.shape != own[k].shape
    ]
    if problems:
        matched = len(own.keys() & state.keys())
        raise WeightsError(
            f"Expected the {len(own)} tensors of this encoder in {name or path}, got {len(state)} of which {matched} match "
            f"by name: {'; '.join(sorted(problems)[:5])}. Choose the encoder (and encoder.window) of the weights. {REMEDIES}"
        )
    encoder.load_state_dict(state, strict=False)
    log.info(
        "Encoder: %d of %d tensors loaded from %s; the output norms start fresh.", len(own), len(own), name or path
    )


def read_state(path: Path) -> dict[str, Tensor]:
    """Read a state dict from a ``.safetensors`` or PyTorch file.

    A dict that holds it under ``model`` or ``state_dict`` is unwrapped. Pickles are opened with ``weights_only``.

    Raises:
        WeightsError: no such file, or none that holds a state dict.
    """
    if not path.is_file():
        raise WeightsError(f"Expected a file of weights at {path}, got none. {REMEDIES}")
    try:
        state = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise WeightsError(f"{path} cannot be read as weights ({error}). {REMEDIES}") from error
    for key in ("model", "state_dict"):
        state = state.get(key, state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()) or not state:
        raise WeightsError(
            f"Expected a dict of tensors in {path}, got {type(state).__name__} of other things. {REMEDIES}"
        )
    return state


def _timm_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Drop the classifier and derived buffers; move downsampling from a stage's end (Swin authors) to its start."""
    at_end = "layers.0.downsample.reduction.weight" in state
    renamed = {}
    for key, x in state.items():
        if re.match(r"(head|norm)\.", key) or key.endswith(("relative_position_index", "attn_mask")):
            continue
        if at_end:
            key = re.sub(r"^layers\.(\d+)\.downsample", lambda m: f"layers.{int(m[1]) + 1}.downsample", key)
        renamed[key] = x
    return renamed
