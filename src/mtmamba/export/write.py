"""A network written to a file that was run and compared before anybody finds it."""

import logging
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from mtmamba.export.program import INPUT, Deployed, ExportError, Runner, trace
from mtmamba.export.request import FORMATS
from mtmamba.files import write_json
from mtmamba.types import IMAGENET_MEAN, IMAGENET_STD, Logits

log = logging.getLogger(__name__)


TOLERANCE = 1e-4
"""How far a task's logits may be from PyTorch's, over the largest of these."""


def export(
    model: nn.Module,
    output: Path,
    *,
    format: str,
    size: tuple[int, int],
    dynamic: bool = True,
    normalise: bool = False,
    opset: int | None = None,
    classes: Mapping[str, Sequence[str]] | None = None,
    training_size: Sequence[int] | None = None,
    repeats: int = 0,
) -> dict[str, Any]:
    """Write a network, run the file on random images of three sizes, and describe it in ``OUTPUT.json``.

    Weights of more than 2 GB go into ``OUTPUT.data``. Nothing is left behind where the file's results are others.

    Args:
        model: in evaluation, on the CPU: images ``(B, 3, H, W)``, ImageNet-normalised → logits by task.
        output: the file.
        format: ``onnx`` or ``torch_export``.
        size: height and width: the first size of the check; the only one if not ``dynamic``, with a batch of 1.
        dynamic: let batch, height and width be any.
        normalise: let the file take RGB values of 0 to 255 and normalise them itself.
        opset: version of ONNX's operators.
        classes: names by task.
        training_size: height and width of the training images, to which evaluation and prediction pad smaller ones.
        repeats: passes of one image of ``size`` whose CPU time is taken, beside PyTorch's.

    Returns:
        What the JSON file holds.

    Raises:
        ExportError: a package is missing, the network cannot be exported, or the file gives other results.
    """
    runtime = import_module(FORMATS[format].module)
    network = Deployed(model, normalise)
    log.info("Following the network: %s.", "any size takes minutes, dynamic=false less" if dynamic else "one size")
    program = trace(network, size, dynamic)
    output.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".", suffix=".partial", dir=output.parent) as folder:
        runtime.save(program, Path(folder) / output.name, opset)
        run = runtime.load(Path(folder) / output.name)
        record = {
            "format": format,
            "input": {"name": INPUT, "dtype": "float32", **_description(size, dynamic, normalise)},
            "training_size": list(training_size) if training_size else None,
            **_compare(network, run, _sizes(size) if dynamic else [(1, *size)], normalise),
        }
        for task, names in (classes or {}).items():
            if task in record["outputs"]:
                record["outputs"][task]["classes"] = list(names)
        if repeats:
            images = _images((1, *size), normalise)
            seconds = {"file": _cpu_seconds(run, images, repeats), "pytorch": _cpu_seconds(network, images, repeats)}
            record["cpu_seconds"] = {**seconds, "threads": torch.get_num_threads(), "repeats": repeats}
            log.info("CPU seconds for one image of %d x %d: %.2f, PyTorch %.2f.", *size, *seconds.values())
        write_json(Path(folder) / f"{output.name}.json", record)
        for path in sorted(Path(folder).iterdir(), reverse=True):  # the file itself last: whoever sees it sees all
            path.replace(output.parent / path.name)
    log.info("Written: %s", output)
    return record


def _description(size: Sequence[int], dynamic: bool, normalise: bool) -> dict[str, Any]:
    """Say what the file's images are."""
    if normalise:
        values: dict[str, Any] = {"values": "RGB, 0 to 255; normalised within the file"}
    else:
        values = {"values": "RGB, (x - mean) / std of x in 0 to 1", "mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    return {"shape": ["batch", 3, "height", "width"] if dynamic else [1, 3, *size], **values}


def _sizes(size: tuple[int, int]) -> list[tuple[int, int, int]]:
    """Return three batches, heights and widths: the given one, and smaller ones whose sides are no multiples."""
    height, width = size
    return [(1, height, width), (3, height // 2 + 3, width // 2 + 5), (2, width // 3 + 1, height // 3 + 2)]


def _images(size: tuple[int, int, int], normalise: bool) -> Tensor:
    batch, height, width = size
    shape, generator = (batch, 3, height, width), torch.Generator().manual_seed(height)
    return 255 * torch.rand(shape, generator=generator) if normalise else torch.randn(shape, generator=generator)


@torch.no_grad()
def _compare(network: nn.Module, run: Runner, sizes: Sequence[tuple[int, int, int]], normalise: bool) -> dict[str, Any]:
    """Return the outputs, and the largest relative errors by size and task, which are printed.

    Raises:
        ExportError: an error is larger than `TOLERANCE`, or the file cannot be run.
    """
    checks, outputs = [], {}
    for size in sizes:
        images = _images(size, normalise)
        expected, found = network(images), _attempt(run, images)
        errors = {task: _error(found[task], x) for task, x in expected.items()}
        log.info("%d x 3 x %d x %d: %s", *size, ", ".join(f"{task} {error:.1e}" for task, error in errors.items()))
        worst = max(errors, key=errors.__getitem__)
        if not errors[worst] <= TOLERANCE:
            raise ExportError(
                f"Expected the file's results to differ from PyTorch's by at most {TOLERANCE:.0e}, got "
                f"{errors[worst]:.1e} for {worst} at size {size}: try another version of the runtime, or report this."
            )
        checks.append({"shape": list(images.shape), "errors": errors})
        outputs = {task: {"values": "logits", "channels": x.shape[1]} for task, x in expected.items()}
    return {"outputs": outputs, "tolerance": TOLERANCE, "checks": checks}


def _attempt(run: Runner, images: Tensor) -> Logits:
    try:
        return run(images)
    except RuntimeError as error:
        reason = str(error).strip().partition("\n")[0]
        raise ExportError(
            f"Expected the file to run on images of shape {tuple(images.shape)}, got {reason}: try dynamic=false."
        ) from error


def _error(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference over the largest value; infinity where a shape is another or a value not finite."""
    if found.shape != expected.shape or not found.isfinite().all():
        return float("inf")
    return float((found - expected).abs().max() / expected.abs().max())


@torch.no_grad()
def _cpu_seconds(run: Callable[[Tensor], Logits], images: Tensor, repeats: int) -> float:
    """Return the median of some passes, the sum over all threads: what else a machine does counts little."""
    passes = []
    for _ in range(repeats):
        start = time.process_time()
        run(images)
        passes.append(time.process_time() - start)
    return statistics.median(passes)
