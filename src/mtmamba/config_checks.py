"""Choices that do not go together, refused before anything is built."""

from collections.abc import Mapping
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from mtmamba.scan.registry import BACKENDS
from mtmamba.settings import ConfigError
from mtmamba.tasks import all_tasks, select_tasks

ABLATED = {
    "g0": ("mtmamba",),
    "g1": ("mtmamba",),
    "mfe_wmsa": ("mtmamba", "stm1", "stm2", "stm3"),
    "gate_wmsa": ("mtmamba", "stm1", "stm2", "stm3"),
}
"""The decoders that have the part which an ablation takes out."""


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
    if cfg.backend not in (backends := ("auto", *BACKENDS)):
        raise ConfigError(f"Expected backend={'|'.join(backends)}, got backend={cfg.backend}: choose one of those.")
    select_tasks(cfg.tasks)
    weights = OmegaConf.select(cfg, "loss.weights") or ()  # scripts that train nothing have no loss
    if unknown := [name for name in weights if name not in all_tasks()]:
        raise ConfigError(f"Expected loss.weights of tasks among {', '.join(all_tasks())}, got {unknown}: correct it.")
    if unknown := [task for task in cfg.tasks if task not in cfg.data.num_outputs]:
        raise ConfigError(
            f"Expected tasks of data={cfg.choices.data}, {list(cfg.data.num_outputs)}, got {unknown}: choose among "
            "those, or another data."
        )


def settle_auto(cfg: DictConfig) -> None:
    """Write into a configuration what ``auto`` means here, for training or evaluation.

    ``trainer.precision=auto`` becomes ``bf16-mixed`` on a GPU that computes in bfloat16, else ``32-true``;
    ``cuda_graph=auto`` becomes ``true`` where it could be.

    Raises:
        ConfigError: ``cuda_graph=true`` without a GPU, or with a strategy that may move weights; a ``cuda_graph`` that
            is neither ``auto``, ``true`` nor ``false``.
    """
    if cfg.trainer.precision == "auto":
        bfloat16 = _on_gpu(cfg) and torch.cuda.is_bf16_supported(including_emulation=False)
        cfg.trainer.precision = "bf16-mixed" if bfloat16 else "32-true"
    if cfg.cuda_graph not in ("auto", True, False):
        raise ConfigError(f"Expected cuda_graph=auto|true|false, got {cfg.cuda_graph}: choose one of those.")
    if cfg.cuda_graph:
        refusal = _refuse_cuda_graph(cfg)
        if refusal is not None and cfg.cuda_graph != "auto":
            raise ConfigError(refusal)
        cfg.cuda_graph = refusal is None


def _on_gpu(cfg: DictConfig) -> bool:
    return cfg.trainer.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()


def _refuse_cuda_graph(cfg: DictConfig) -> str | None:
    """Why a run cannot be replayed from CUDA graphs, or None if it can."""
    accelerator, strategy = cfg.trainer.accelerator, cfg.trainer.strategy
    if not _on_gpu(cfg):
        found = f"trainer.accelerator={accelerator}" if torch.cuda.is_available() else "none that PyTorch can use"
        return f"Expected a GPU for cuda_graph=true, got {found}: leave it at auto, or use a GPU."
    if strategy not in ("auto", "ddp"):
        return f"Expected trainer.strategy=auto|ddp with cuda_graph=true, got {strategy}: use one of those, or auto."
    return None


def check_resumed(mine: Mapping[str, Any], its: Mapping[str, Any]) -> None:
    """Refuse to go on with a run whose network is another one.

    Args:
        mine: what this call's configuration says, from `mtmamba.build.describe`.
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
