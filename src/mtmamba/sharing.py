"""Models to give away: a folder of weights, description and card, written, read back, found by name or on the hub."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from mtmamba.checkpoints import NETWORK, CheckpointError, flaw, network_weights, read_checkpoint
from mtmamba.data.datasets import all_datasets
from mtmamba.files import replacing, write_json, write_text
from mtmamba.markdown import table_lines
from mtmamba.models.multitask import MultiTaskModel
from mtmamba.places import CONFIG, HUB, WEIGHTS, find_model, hub_name
from mtmamba.rules import is_whole
from mtmamba.runs.names import SCORES
from mtmamba.tasks import get_task

CARD = "README.md"
STORED = (None, torch.float32, torch.bfloat16, torch.float16, torch.float64)
"""What weights may be stored in."""
DAMAGED = (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, SafetensorError)
"""What reading files of a model raises where they are damaged, or another's."""
PLACES = {("data", "root"), ("data", "cache_dir"), ("encoder", "weights"), ("decoder", "weights")}


def read_model(source: str | Path) -> tuple[dict[str, Any], Path]:
    """Read a model's weights and description, whatever way it is named.

    Args:
        source: a checkpoint, a run's folder, a folder of `save_pretrained`, the name of a model of ours, or
            ``hf://owner/name[@revision]``.

    Returns:
        What `mtmamba.checkpoints.read_checkpoint` returns, without what training needs, and the file.

    Raises:
        FileNotFoundError: there is none.
        CheckpointError: it is damaged, or no model of this program.
    """
    path = find_model(_fetched(str(source)) if str(source).startswith(HUB) else source)
    return (_read_folder(path), path / WEIGHTS) if path.is_dir() else (read_checkpoint(path), path)


def _read_folder(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        weights = load_file(folder / WEIGHTS)
        description, step = config["mtmamba"], config["global_step"]
        if not isinstance(description.get("choices"), dict) or not isinstance(description.get("values"), dict):
            raise TypeError("no choices or values")
        if not is_whole(step):
            raise TypeError("no number of steps")
    except DAMAGED as error:
        raise CheckpointError(
            f"Expected a model of this program in {folder}, got files that are damaged or another's "
            f"({error!r}): copy it again."
        ) from error
    for name, x in weights.items():
        if found := flaw(x):
            raise CheckpointError(f"Expected finite weights in {folder}, got {found} for {name}: copy it again.")
    return {
        "mtmamba": description,
        "global_step": step,
        "state_dict": {NETWORK + k: _wide(x) for k, x in weights.items()},
    }


def _wide(x: Tensor) -> Tensor:
    """Weights are computed with in float32, whatever they are stored in."""
    return x.float() if x.is_floating_point() else x


def _fetched(address: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    name, revision = hub_name(address)
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=[WEIGHTS, CONFIG]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().partition("\n")[0].removeprefix("Got: ")
        raise FileNotFoundError(f"Expected a model at {address}, got {reason}: check name and connection.") from error


def save_pretrained(
    source: MultiTaskModel | str | Path,
    folder: str | Path,
    *,
    dtype: torch.dtype | None = None,
    scores: Mapping[str, Any] | None = None,
    notes: str = "",
) -> Path:
    """Write a model to give away: ``model.safetensors``, ``config.json`` and a model card ``README.md``.

    Args:
        source: a network of `mtmamba.build_model` or `load_model`, or anything that `load_model` reads: then low-rank
            updates of its encoder are merged.
        folder: a new or empty one.
        dtype: of the stored weights; as they are by default. Rounding them is not undone by reading.
        scores: what ``metrics.json`` holds; for a run's folder, its own by default.
        notes: paragraphs for the card: data, recipe, terms.

    Returns:
        The folder.

    Raises:
        FileExistsError: the folder holds something.
        CheckpointError: the network does not know its configuration, since it was not built by this program; the run's
            scores are damaged; no weights are stored in such a type.
    """
    folder = Path(folder).expanduser()
    if dtype not in STORED:
        raise CheckpointError(f"Expected dtype to be one of {', '.join(map(str, STORED))}, got {dtype}.")
    if isinstance(source, MultiTaskModel):
        if source.description is None:
            raise CheckpointError("Expected a network of mtmamba.build_model or load_model, got one built by hand.")
        state, description, step = source.state_dict(), source.description, 0
    else:
        checkpoint, path = read_model(source)
        state = network_weights(checkpoint)
        description, step = checkpoint["mtmamba"], checkpoint["global_step"]
        if description["values"].get("encoder", {}).get("lora", {}).get("rank"):
            from mtmamba.restore import config_of, restore_model  # which read models by this module

            merged = restore_model(config_of(description), checkpoint, path)
            state, description = merged.state_dict(), merged.description or {}
        own = [parent / SCORES for parent in (path.parent, path.parent.parent)]
        if scores is None and (record := next((file for file in own if file.is_file()), None)):
            try:
                scores = json.loads(record.read_text(encoding="utf-8"))
                card(folder.name, description, step, {}, scores, notes)
            except DAMAGED as error:
                raise CheckpointError(
                    f"Expected the scores of a run in {record}, got a file that is damaged or another's ({error!r}): "
                    "move it away, or mend it."
                ) from error
    if folder.is_dir() and any(folder.iterdir()):
        raise FileExistsError(f"Expected a new or empty folder, got {folder} with files in it: choose another.")
    weights = {k: (v.to(dtype) if dtype and v.is_floating_point() else v).cpu().contiguous() for k, v in state.items()}
    with replacing(folder, folder=True) as partial:
        # More keys would come in any order; `save_file` would let nobody else read the file.
        (partial / WEIGHTS).write_bytes(save(weights, metadata={"format": "pt"}))
        write_json(partial / CONFIG, {"mtmamba": without_places(description), "global_step": step})
        write_text(partial / CARD, card(folder.name, description, step, weights, scores or {}, notes))
    return folder


def without_places(description: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out where things lie on the machine of who trained the model."""
    values = {
        group: {k: v for k, v in value.items() if (group, k) not in PLACES} if isinstance(value, Mapping) else value
        for group, value in description["values"].items()
        if group != "init"
    }
    return {**description, "values": values}


def card(
    name: str,
    description: Mapping[str, Any],
    step: int,
    weights: Mapping[str, Tensor],
    scores: Mapping[str, Any],
    notes: str,
) -> str:
    """Return a model card in Markdown: what it is, its scores by protocol, and how to use it."""
    choices, values = description["choices"], description["values"]
    data = all_datasets().get(values["data"].get("dataset", ""))
    title = data.title if data else choices["data"]
    if scenes := values["data"].get("scenes"):
        title = f"{scenes['train']:,} synthetic scenes in the layout of {title}"
    tasks = [get_task(task) for task in values["tasks"]]
    rows = []
    for task in tasks:
        found = scores.get("tasks", {}).get(task.name, {})
        for metric, value in found.items():
            if isinstance(value, int | float):
                interval = found.get(f"{metric}_interval") or scores.get("intervals", {}).get(task.name, {}).get(metric)
                span = f" ({interval[0]:.4g} … {interval[1]:.4g})" if interval else ""
                unit = task.all_units.get(metric, "")
                rows.append([task.title, metric, f"{value:.4g}{f' {unit}' if unit else ''}{span}"])
    images = (
        f"{scores['images']} images of the {scores['split']} split" if "images" in scores else "its validation images"
    )
    number = sum(x.numel() for x in weights.values())
    kinds = " and ".join(
        sorted({str(x.dtype).removeprefix("torch.") for x in weights.values() if x.is_floating_point()})
    )
    table = table_lines(["task", "metric", "value (95 % interval over images)"], rows)
    parts = [
        "---\nlibrary_name: mtmamba\npipeline_tag: image-segmentation\ntags: [multi-task, mamba]\n---",
        f"# {name}",
        f"Multi-task dense scene understanding: {', '.join(task.title.lower() for task in tasks)} of one image. "
        f"Decoder `{choices['decoder']}`, encoder `{choices['encoder']}`, trained on {title} for {step:,} steps; "
        f"{number / 1e6:.1f} million numbers in {kinds}.",
        f"## Scores\n\nOn {images}, single scale unless stated.\n\n" + "\n".join(table) if rows else "",
        "## Use\n\n```bash\npython src/predict.py ckpt="
        + name
        + " source=photo.jpg\n```\n\n```python\nimport mtmamba\n\n"
        f'predictor = mtmamba.Predictor.from_pretrained("{name}")\nresult = predictor("photo.jpg")\n```',
        notes.strip(),
        "The code's licence is MIT. Data and the encoder's first weights have terms of their own.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"
