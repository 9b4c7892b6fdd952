"""Choices that do not go together, refused before anything is built."""

from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from mtmamba.command import DEMO
from mtmamba.config.settings import ConfigError
from mtmamba.places import require_backend, require_tasks
from mtmamba.rules import is_whole
from mtmamba.scan.registry import BACKENDS
from mtmamba.shipped import config_dir
from mtmamba.tasks import all_tasks, select_tasks

ABLATED = {
    "g0": ("mtmamba",),
    "g1": ("mtmamba",),
    "mfe_wmsa": ("mtmamba", "stm1", "stm2", "stm3"),
    "gate_wmsa": ("mtmamba", "stm1", "stm2", "stm3"),
}
"""The decoders that have the part which an ablation takes out."""

SUITED = {"optimizer": "lr", "trainer": "max_steps"}
"""The groups whose choices suit a dataset, and the setting of each that does."""


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
    require_backend(cfg.backend, BACKENDS)
    if OmegaConf.select(cfg, "encoder.lora.rank") is not None and cfg.encoder.freeze is not None:
        raise ConfigError(
            f"Expected encoder.freeze=null with encoder.lora, which freezes all but its updates, got "
            f"{cfg.encoder.freeze}: leave it out."
        )
    select_tasks(cfg.tasks)
    for key in ("loss.weights", "loss.losses"):
        named = OmegaConf.select(cfg, key) or ()  # scripts that train nothing have no loss
        if unknown := [name for name in named if name not in all_tasks()]:
            raise ConfigError(f"Expected {key} of tasks among {', '.join(all_tasks())}, got {unknown}: correct it.")
    require_tasks(cfg)
    for task in cfg.tasks:
        if not is_whole(outputs := cfg.data.num_outputs[task]) or outputs < 1:
            raise ConfigError(
                f"Expected data.num_outputs.{task} to be a whole number of at least 1, got {outputs}: correct it."
            )


def demo_settings(cfg: DictConfig) -> str | None:
    """Say which of the demo's settings a run on another dataset than synthetic scenes has; None where it has none."""
    kept = [group for group, key in SUITED.items() if cfg.choices.get(group) == DEMO and _of_demo(cfg, group, key)]
    if not kept or cfg.data.get("scenes"):
        return None
    got, paper = (" ".join(f"{group}={choice}" for group in kept) for choice in (DEMO, "paper"))
    settings = " and ".join(f"{group}.{SUITED[group]}" for group in kept)
    return (
        f"Expected an experiment, or settings for data={cfg.choices.data}, got {got}, which suit minutes on synthetic "
        f"scenes: choose {paper}, or set {settings}."
    )


def _of_demo(cfg: DictConfig, group: str, key: str) -> bool:
    """Whether a setting has the demo's value."""
    demo: Any = OmegaConf.load(config_dir() / group / f"{DEMO}.yaml")
    return bool(cfg[group][key] == demo[key])


def frozen_at_random(cfg: DictConfig) -> str | None:
    """Say that a run keeps an encoder's random weights as they are; None where it does not, or nobody can know."""
    encoder, lora = cfg.encoder, OmegaConf.select(cfg, "encoder.lora.rank")
    random = encoder.get("pretrained") is False and encoder.get("weights") is None and cfg.init is None
    if not random or (encoder.get("freeze") is None and lora is None):
        return None
    choice = f"encoder.freeze={encoder.freeze}" if lora is None else f"encoder.lora.rank={lora}"
    return (
        f"Expected pretrained weights with {choice}, got encoder.pretrained=false, whose random ones stay as they are: "
        f"set encoder.pretrained=true, encoder.weights=FILE or init=MODEL, or leave {choice} out."
    )


def settle_auto(cfg: DictConfig) -> None:
    """Write into a configuration what ``auto`` means here, for training or evaluation.

    ``trainer.precision=auto`` becomes ``bf16-mixed`` on a GPU that computes in bfloat16, else ``32-true``;
    ``cuda_graph=auto`` becomes ``true`` where it could be.

    Raises:
        ConfigError: ``cuda_graph=true`` without a GPU, or with a strategy that may move weights.
    """
    if cfg.trainer.precision == "auto":
        bfloat16 = on_gpu(cfg) and torch.cuda.is_bf16_supported(including_emulation=False)
        cfg.trainer.precision = "bf16-mixed" if bfloat16 else "32-true"
    if cfg.cuda_graph:
        refusal = _refuse_cuda_graph(cfg)
        if refusal is not None and cfg.cuda_graph != "auto":
            raise ConfigError(refusal)
        cfg.cuda_graph = refusal is None


def on_gpu(cfg: DictConfig) -> bool:
    """Return whether a run is one on GPUs."""
    return cfg.trainer.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()


def _refuse_cuda_graph(cfg: DictConfig) -> str | None:
    """Why a run cannot be replayed from CUDA graphs, or None if it can."""
    accelerator, strategy = cfg.trainer.accelerator, cfg.trainer.strategy
    if not on_gpu(cfg):
        found = f"trainer.accelerator={accelerator}" if torch.cuda.is_available() else "none that PyTorch can use"
        return f"Expected a GPU for cuda_graph=true, got {found}: leave it at auto, or use a GPU."
    if cfg.trainer.get("detect_anomaly"):
        return (
            "Expected trainer.detect_anomaly=false with cuda_graph=true, which no hook sees into: use one of the two."
        )
    if "weighting" in (cfg.get("balancing") or ()):
        return (
            f"Expected cuda_graph=false with balancing={cfg.choices.balancing}, whose gradients by task no "
            "graph holds: leave it at auto."
        )
    if strategy not in ("auto", "ddp"):
        return f"Expected trainer.strategy=auto|ddp with cuda_graph=true, got {strategy}: use one of those, or auto."
    return None
