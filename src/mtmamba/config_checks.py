"""Choices that do not go together, refused before anything is built."""

from collections.abc import Mapping
from typing import Any

import torch
from omegaconf import DictConfig, ListConfig, OmegaConf

from mtmamba.scan.interface import BACKENDS
from mtmamba.tasks import select_tasks

ABLATED = {
    "g0": ("mtmamba",),
    "g1": ("mtmamba",),
    "mfe_wmsa": ("mtmamba", "stm1", "stm2", "stm3"),
    "gate_wmsa": ("mtmamba", "stm1", "stm2", "stm3"),
}
"""The decoders that have the part which an ablation takes out."""


class ConfigError(ValueError):
    """A configuration that makes no sense; the message names the keys and the remedy."""


def check_config(cfg: DictConfig) -> None:
    """Refuse, before anything is built, choices that do not go together.

    Raises:
        ConfigError: an ablation of a part that the decoder lacks; an unknown backend; tasks that the dataset has not.
    """
    decoder, ablation = cfg.choices.decoder, cfg.choices.ablation
    allowed = ABLATED.get(ablation, (decoder,))
    if decoder not in allowed:
        raise ConfigError(
            f"Expected decoder={'|'.join(allowed)} with ablation={ablation}, got decoder={decoder}, which lacks the "
            "part that it replaces: choose one of those, or ablation=none."
        )
    if cfg.backend not in ("auto", *BACKENDS):
        raise ConfigError(
            f"Expected backend=auto|{'|'.join(BACKENDS)}, got backend={cfg.backend}: choose one of those."
        )
    select_tasks(cfg.tasks)
    if unknown := [task for task in cfg.tasks if task not in cfg.data.num_outputs]:
        raise ConfigError(
            f"Expected tasks of data={cfg.choices.data}, {list(cfg.data.num_outputs)}, got {unknown}: choose among "
            "those, or another data."
        )


def check_cuda_graph(cfg: DictConfig) -> None:
    """Refuse what cannot go with ``cuda_graph=true`` in training or evaluation.

    Raises:
        ConfigError: no GPU; several devices; activations that are computed again, which reads the random generator.
    """
    if not cfg.cuda_graph:
        return
    accelerator, devices, strategy = (cfg.trainer[key] for key in ("accelerator", "devices", "strategy"))
    if accelerator not in ("auto", "gpu", "cuda") or not torch.cuda.is_available():
        found = f"trainer.accelerator={accelerator}" if torch.cuda.is_available() else "none that PyTorch can use"
        raise ConfigError(f"Expected a GPU for cuda_graph=true, got {found}: leave it at false, or use a GPU.")
    count = len(devices) if isinstance(devices, ListConfig) else devices
    if str(count) != "1" or strategy != "auto":
        raise ConfigError(
            f"Expected one device for cuda_graph=true, got trainer.devices={devices} and trainer.strategy={strategy}: "
            "use trainer.devices=1 and trainer.strategy=auto, or leave it at false."
        )
    if (part := OmegaConf.select(cfg, "model.checkpointing", default="none")) != "none":
        raise ConfigError(
            f"Expected model.checkpointing=none with cuda_graph=true, got {part}: give up one of the two, or lower "
            "data.device_batch_size."
        )


def check_resumed(mine: Mapping[str, Any], its: Mapping[str, Any]) -> None:
    """Refuse to go on with a run whose network is another one.

    Args:
        mine: what this call's configuration says, from `mtmamba.run.describe`.
        its: the same of the checkpoint.

    Raises:
        ConfigError: dataset, encoder, decoder, ablation or tasks differ.
    """
    mine, its = ({**d["choices"], "tasks": d["values"]["tasks"]} for d in (mine, its))
    compared = ("data", "encoder", "decoder", "ablation", "tasks")
    if differing := [f"{key}={mine[key]} instead of {its[key]}" for key in compared if mine[key] != its[key]]:
        raise ConfigError(
            f"Expected the network of the run to resume, got {', '.join(differing)}: repeat that run's command with "
            "resume added, or begin a new run without it."
        )
