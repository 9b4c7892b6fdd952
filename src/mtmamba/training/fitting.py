"""Whether a run can go on with a checkpoint: weights, the optimiser's state and counts of steps are compared."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from mtmamba.checkpoints import CheckpointError, require_equal, require_kind, require_weights, require_weights_of
from mtmamba.training.lit_module import MultiTaskModule

PARTS: dict[str, type] = {"pytorch-lightning_version": str, "loops": dict, "loops/fit_loop": dict}
"""What Lightning looks for in a checkpoint to resume from, by its keys."""

AVERAGED: dict[str, type] = {"current_model_state": dict, "averaging_state/n_averaged": Tensor}
"""What a run that averages its weights has beside the average."""

STEPS = "loops/fit_loop/epoch_loop.automatic_optimization.optim_progress/optimizer/step/total/completed"
"""The count of optimiser steps that Lightning goes on with."""

SCALER = "MixedPrecision"
"""Where Lightning keeps the scale of losses in float16, under which steps may be left out."""

REMEDY = "use another checkpoint, or begin a new run from its weights with init=CHECKPOINT"


def require_fitting(
    checkpoint: Mapping[str, Any], module: MultiTaskModule, path: Path, *, averaged: bool = False
) -> None:
    """Refuse to go on with weights, an optimiser's state or counts of steps that are not of a run like this one.

    PyTorch and Lightning take many of them in silence, and fused optimisers read beyond the end of a state that is too
    small.

    Args:
        checkpoint: from `mtmamba.checkpoints.read_checkpoint`.
        module: that would go on.
        path: of the checkpoint, for errors.
        averaged: whether the run averages its weights.

    Raises:
        CheckpointError: names the parameter, the count, or what is not of the kind that goes on.
    """
    require_weights_of(checkpoint["state_dict"], module, path)
    for name, kind in (PARTS | AVERAGED if averaged else PARTS).items():
        require_kind(name, _at(checkpoint, name), kind, path)
    if averaged:
        require_weights(checkpoint["current_model_state"], path)
        require_weights_of(checkpoint["current_model_state"], module, path)
    _require_schedule(checkpoint, module, path)
    _require_steps(checkpoint, path)
    _require_state(checkpoint, module, path)


def _at(content: Any, keys: str) -> Any:
    for key in keys.split("/"):
        content = content.get(key) if isinstance(content, Mapping) else None
    return content


def _require_schedule(checkpoint: Mapping[str, Any], module: MultiTaskModule, path: Path) -> None:
    found, expected = checkpoint.get("lr_schedulers", []), int(module.schedule is not None)
    for schedule in found:
        require_kind("lr_schedulers' parts", schedule, dict, path)
    if len(found) != expected:
        raise CheckpointError(
            f"Expected the state of {expected} schedules of the learning rate in {path}, got {len(found)}: {REMEDY}."
        )


def _require_steps(checkpoint: Mapping[str, Any], path: Path) -> None:
    """Refuse a checkpoint whose counts of optimiser steps differ: images, rates and rows each go by another of them."""
    counts = {"the loops": _at(checkpoint, STEPS)}
    for schedule in checkpoint.get("lr_schedulers", []):
        if "last_epoch" in schedule:  # PyTorch's name; ours are stepped after every optimiser step
            counts["the schedule"] = schedule["last_epoch"]
    for owner, count in counts.items():
        if count != checkpoint["global_step"]:
            raise CheckpointError(
                f"Expected global_step={checkpoint['global_step']} of {path} to be the count of {owner}, too, got "
                f"{count} there: {REMEDY}."
            )


def _require_state(checkpoint: Mapping[str, Any], module: MultiTaskModule, path: Path) -> None:
    """Compare an optimiser's state with the one that a step of this run's makes."""
    optimizer, names = _stepped(module)
    mine: Mapping[int, Any] = optimizer.state_dict()["state"]
    if len(states := checkpoint.get("optimizer_states", [])) != 1 or not _fits(states[0], optimizer):
        raise CheckpointError(
            f"Expected the state of one {type(optimizer).__name__} like this run's in {path}, got another: {REMEDY}."
        )
    state: Mapping[Any, Mapping[str, Any]] = states[0]["state"]
    if any(mine.values()) and not any(state.values()) and checkpoint["global_step"] and SCALER not in checkpoint:
        raise CheckpointError(
            f"Expected what {type(optimizer).__name__} has gathered in {checkpoint['global_step']} steps in {path}, "
            f"got nothing: {REMEDY}."
        )
    for index, values in state.items():
        if not isinstance(index, int) or not 0 <= index < len(names):
            raise CheckpointError(
                f"Expected an optimiser's state of {len(names)} parameters in {path}, got one for number {index}: "
                f"{REMEDY}."
            )
        shapes, found = (
            {f"{key} of {names[index]}": (tuple(x.shape), "real") for key, x in kept.items() if isinstance(x, Tensor)}
            for kept in (mine.get(index, {}), values)
        )
        shapes = {key: shape for key, shape in shapes.items() if shape[0]}  # counts were whole numbers once
        require_equal(shapes, {key: found[key] for key in shapes if key in found}, path, REMEDY)
        require_weights({f"{key} of {names[index]}": x for key, x in values.items() if isinstance(x, Tensor)}, path)


def _stepped(module: MultiTaskModule) -> tuple[Optimizer, list[str]]:
    """Return a module's optimiser after a step on zeros in its parameters' place, and the parameters' names."""
    known = {id(parameter): name for name, parameter in module.named_parameters()}
    groups, names = module.parameter_groups(), []
    for group in groups:
        names += [known[id(parameter)] for parameter in group["params"]]
        group["params"] = [torch.zeros_like(parameter, requires_grad=True) for parameter in group["params"]]
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer = module.new_optimizer(groups)
    optimizer.step(lambda: 0.0)
    return optimizer, names


def _fits(state: Any, optimizer: Optimizer) -> bool:
    """Return whether a state is one that an optimiser can go on with: of the same class, as far as it says."""
    before = [dict(group) for group in optimizer.param_groups]
    try:
        optimizer.load_state_dict(state)
    except (AttributeError, KeyError, TypeError, ValueError):
        return False
    its, groups = state["param_groups"], optimizer.param_groups
    rates = all(isinstance(group.get("lr"), int | float | Tensor) for group in groups)
    key = "decoupled_weight_decay"  # all that tells PyTorch's AdamW from its Adam, which it sets whatever it loads
    decays = all(new.get(key) == old.get(key, new.get(key)) for new, old in zip(before, its, strict=True))
    return rates and decays and all(set(new) <= set(old) for new, old in zip(before, groups, strict=True))
