"""From a configuration to objects: what has a ``_target_`` is built by Hydra.

Lightning is imported where it is needed: a network at work does without.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from omegaconf import DictConfig
from torch.optim import Optimizer

from mtmamba.config.compose import dataset_record, describe, num_outputs, plain
from mtmamba.config.decisive import UPDATES
from mtmamba.config.settings import ConfigError, settings_of
from mtmamba.config.signatures import check_types, takes
from mtmamba.losses import LogTotal, WeightedTotal
from mtmamba.models.decoders import Decoder
from mtmamba.models.multitask import MultiTaskModel
from mtmamba.tasks import select_tasks

if TYPE_CHECKING:
    from lightning import Trainer
    from lightning.pytorch import Callback
    from lightning.pytorch.loggers import Logger

    from mtmamba.data.datamodule import DenseDataModule
    from mtmamba.training.balancing import LossWeighting
    from mtmamba.training.gradient_balancing import GradientBalancing
    from mtmamba.training.lit_module import MultiTaskModule


HALF = ("bf16-true", "16-true")
"""Precisions of a network that is wholly in half."""

TRAINING_OF_ENCODER = ("freeze", "lr_scale", "layer_decay", "lora")
"""Settings that any encoder may have, but that its class is not called with."""


def build_decoder(cfg: DictConfig, channels: Sequence[int]) -> Decoder:
    """Build the decoder with its heads for an encoder's channels.

    Args:
        cfg: from `load_config`.
        channels: of the maps at strides 4, 8, 16, 32.

    Shape: four maps ``(B, h, w, c)`` → ``{task: (B, n, H, W)}``.

    Raises:
        ConfigError: a setting is of another type than the decoder's parameter.
        ValueError: there are not four maps, or the decoder cannot be built so.
    """
    if len(channels) != 4:
        raise ValueError(
            f"Expected channels of four maps, at strides 4, 8, 16 and 32, got {list(channels)}: give the encoder four."
        )
    check_types(plain(cfg.model.decoder), "decoder")
    factory = hydra.utils.instantiate(cfg.model.decoder, _convert_="all")
    with settings_of("decoder"):
        return factory(channels=list(channels), num_outputs=num_outputs(cfg))


def build_model(cfg: DictConfig) -> MultiTaskModel:
    """Build the network: images ``(B, 3, H, W)``, normalised → ``{task: (B, n, H, W)}``; any H and W.

    Pretrained weights are fetched as the configuration says, but never under ``torch.device("meta")``.

    Raises:
        ConfigError: a setting is of another type than the encoder's or the decoder's parameter.
        WeightsError: pretrained weights were asked for and cannot be had.
    """
    check_types(plain(cfg.model.encoder), "encoder")
    # Called here rather than by Hydra, which would wrap its errors into one of its own.
    settings = {key: value for key, value in cfg.model.encoder.items() if key not in TRAINING_OF_ENCODER}
    with settings_of("encoder"):
        encoder = hydra.utils.instantiate(settings, _convert_="all", _partial_=True)()
    model = MultiTaskModel(encoder, build_decoder(cfg, encoder.channels))
    if (frozen := cfg.model.encoder.get("freeze")) is not None:
        model.freeze_encoder(frozen)
    if (lora := cfg.model.encoder.get("lora")) and lora.rank is not None:
        model.add_lora(lora.rank, lora.alpha)
    model.recompute(cfg.model.checkpointing)
    if all(group in cfg.choices for group in UPDATES):  # tables and benchmarks have no loss
        model.description = describe(cfg)
    return model


def build_datamodule(cfg: DictConfig) -> DenseDataModule:
    """Build the data module of the configured dataset and tasks."""
    settings = {key: value for key, value in cfg.data.items() if key not in ("num_outputs", "delta_m_base", "tasks")}
    return hydra.utils.instantiate(settings, tasks=list(num_outputs(cfg)), _convert_="all")


def build_module(cfg: DictConfig, model: MultiTaskModel | None = None) -> MultiTaskModule:
    """Build the network with its losses, metrics and optimiser.

    Args:
        cfg: from `load_config`.
        model: the network, where it is built already.

    Raises:
        ConfigError: labels are partial, and the loss does not take which there are.
    """
    from mtmamba.training.balanced_module import BalancedModule
    from mtmamba.training.lit_module import MultiTaskModule

    total = hydra.utils.instantiate(cfg.loss, _convert_="all")
    if isinstance(total, WeightedTotal):
        total.complete({task.name: task.loss_weight for task in select_tasks(cfg.tasks)})
    if cfg.data.get("partial") and not takes(total, 2):
        raise ConfigError(
            f"Expected a loss whose second argument is the labels' weights, {{task: (B,)}}, with data.partial="
            f"{cfg.data.partial}, got loss={cfg.choices.loss}, which has none: add it, or set data.partial=false."
        )
    model = build_model(cfg) if model is None else model
    kind = partial(BalancedModule, balancing=build_balancing(cfg, total, model)) if cfg.balancing else MultiTaskModule
    return kind(
        model,
        num_outputs(cfg),
        total,
        optimizer=build_optimizer(cfg),
        schedule=build_schedule(cfg),
        encoder_lr_scale=cfg.model.encoder.get("lr_scale", 1.0),
        encoder_layer_decay=cfg.model.encoder.get("layer_decay", 1.0),
        delta_m_base=plain(cfg.data.delta_m_base),
        description=describe(cfg),
        adapt=dataset_record(cfg).adapt,
    )


def build_balancing(cfg: DictConfig, total: Any, model: MultiTaskModel) -> LossWeighting | GradientBalancing:
    """Build what weighs the tasks' losses or gradients.

    Args:
        cfg: from `load_config`, with a ``balancing`` other than ``none``.
        total: the loss.
        model: the network.

    Raises:
        ConfigError: it does not go with the loss or with a frozen encoder, or a package that it needs is not installed.
    """
    choice = f"balancing={cfg.choices.balancing}"
    if "torchjd" in str(cfg.balancing) and find_spec("torchjd") is None:
        raise ConfigError(f"Expected torchjd for {choice}, got none: pip install 'mtmamba[balancing]'.")
    if "NashWeights" in str(cfg.balancing) and find_spec("ecos") is None:
        raise ConfigError(
            f"Expected ecos for {choice}, got none: pip install ecos, for which Python 3.13 needs a C compiler."
        )
    balancing = hydra.utils.instantiate(cfg.balancing, tasks=len(cfg.tasks), _convert_="all")
    if not isinstance(total, WeightedTotal) or (isinstance(total, LogTotal) and not balancing.of_logs):
        raise ConfigError(
            f"Expected loss=weighted with {choice}, which goes by the losses themselves, got loss={cfg.choices.loss}: "
            "choose loss=weighted."
        )
    if "weighting" in cfg.balancing and not any(p.requires_grad for p in model.encoder.parameters()):
        raise ConfigError(
            f"Expected an encoder that is trained with {choice}, which weighs its gradients, got encoder.freeze="
            f"{cfg.encoder.freeze}: train it, or choose another balancing."
        )
    return balancing


def build_optimizer(cfg: DictConfig) -> Callable[..., Optimizer]:
    """Return what makes the configured optimiser of parameters: all of ``optimizer`` but its schedule."""
    settings = {key: value for key, value in cfg.optimizer.items() if key not in ("schedule", "power")}
    return hydra.utils.instantiate(settings, _partial_=True, _convert_="all")


def build_schedule(cfg: DictConfig) -> Callable[[Optimizer], Any] | None:
    """Return what makes ``optimizer.schedule`` of an optimiser; None for a constant learning rate."""
    if cfg.optimizer.get("schedule") is None:
        return None
    return hydra.utils.instantiate(cfg.optimizer.schedule, _partial_=True, _convert_="all")


def build_callbacks(cfg: DictConfig) -> list[Callback]:
    """Build the callbacks that the configuration names, and the averaging of weights that ``ema_decay`` asks for."""
    from lightning.pytorch import Callback

    from mtmamba.training.averaging import EMAWeightAveraging

    found = [_instance(node, Callback) for node in _targets(cfg.callbacks)]
    return found if cfg.ema_decay is None else [*found, EMAWeightAveraging(cfg.ema_decay)]


def build_loggers(cfg: DictConfig, run_dir: Path) -> list[Logger]:
    """Build the loggers that the configuration names, each with ``save_dir``, and tell them the configuration."""
    from lightning.pytorch.loggers import Logger

    loggers = [_instance(node, Logger, save_dir=run_dir) for node in _targets(cfg.logger)]
    for logger in loggers:
        logger.log_hyperparams(plain(cfg))
    return loggers


def _instance(node: DictConfig, kind: type[Any], **settings: Any) -> Any:
    """Build a callback or a logger, and refuse what is none."""
    made = hydra.utils.instantiate(node, **settings, _convert_="all")
    if not isinstance(made, kind):
        raise ConfigError(
            f"Expected a {kind.__name__} of Lightning's kind, got {node['_target_']}: correct its _target_."
        )
    return made


def _targets(group: DictConfig) -> list[DictConfig]:
    return [node for node in group.values() if isinstance(node, DictConfig) and "_target_" in node]


def build_trainer(cfg: DictConfig, **settings: Any) -> Trainer:
    """Build the Trainer that ``trainer`` describes, for training and evaluation alike.

    The data module shares out the images itself, so no sampler is put in its loaders' place.

    Args:
        cfg: of a script.
        settings: more arguments of the Trainer, such as callbacks.
    """
    fixed: dict[str, Any] = {"use_distributed_sampler": False, "enable_model_summary": False}
    if cfg.trainer.get("precision") in HALF:
        from mtmamba.training.half_precision import HalfNetwork

        plugins = [*settings.pop("plugins", ()), HalfNetwork(cfg.trainer.precision)]
        fixed |= {"precision": None, "plugins": plugins}
    return hydra.utils.instantiate(cfg.trainer, **fixed, **settings, _convert_="all")
