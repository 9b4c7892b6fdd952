"""ONNX: a program's operators translated, the scan by `mtmamba.export.onnx_scan`; run by ONNX Runtime on the CPU."""

import logging
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from mtmamba.export.program import INPUT, ExportError, Runner, uncached
from mtmamba.types import Logits

LARGEST = 2**31 - 2**24
"""Bytes of parameters that fit into one file beside the graph: the format ends at 2 GiB."""

if missing := [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]:
    raise ExportError(
        f"Expected the packages onnx, onnxscript and onnxruntime for format=onnx, got no {' and no '.join(missing)}: "
        "pip install 'mtmamba[export]'."
    )


@uncached
def save(program: ExportedProgram, path: Path, opset: int | None = None) -> None:
    """Translate a program and write it, the weights of more than 2 GB to ``NAME.data`` beside it.

    Args:
        program: images → logits by task.
        path: of the file.
        opset: version of ONNX's operators, 18 or newer; 18 by default.

    Raises:
        ExportError: an operator has no translation.
    """
    from mtmamba.export.onnx_scan import selective_scan

    translations: dict[Any, Any] = {
        torch.ops.mtmamba.selective_scan.default: selective_scan,
        torch.ops.aten.scaled_dot_product_attention.default: _attention,
    }
    tasks = list(program.call_spec.out_spec.context)  # of a dict: its keys
    for library in ("torch.onnx", "onnxscript", "onnx_ir"):  # they tell every node that they leave as it is
        logging.getLogger(library).setLevel(logging.ERROR)
    try:
        with torch.no_grad():  # as it was traced: attention would have another memory layout
            translated = torch.onnx.export(
                program,
                input_names=[INPUT],
                output_names=tasks,
                opset_version=opset,
                custom_translation_table=translations,
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().partition("\n")[0]
        raise ExportError(
            f"Expected operators that ONNX has, got {reason}: choose another encoder or decoder, or "
            "format=torch_export."
        ) from error
    assert translated is not None
    weights = sum(x.numel() * x.element_size() for x in program.state_dict.values())
    translated.save(path, external_data=weights > LARGEST)


def _attention(
    q: Any, k: Any, v: Any, mask: Any = None, dropout: float = 0.0, causal: bool = False, **other: Any
) -> Any:
    """Translate attention over any number of leading axes, where PyTorch's translation takes two."""
    from onnxscript import opset18 as op

    if causal or dropout or any(other.values()):
        raise NotImplementedError(f"Attention with causal={causal}, dropout={dropout} and {other} has no translation.")
    axes = list(range(len(k.shape)))
    keys = op.Transpose(k, perm=[*axes[:-2], axes[-1], axes[-2]])
    scores = op.MatMul(op.Mul(q, float(q.shape[-1]) ** -0.5), keys)
    return op.MatMul(op.Softmax(scores if mask is None else op.Add(scores, mask), axis=-1), v)


def load(path: Path) -> Runner:
    """Open such a file with as many threads as PyTorch has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    tasks = [output.name for output in session.get_outputs()]

    def run(images: Tensor) -> Logits:
        maps = session.run(tasks, {INPUT: images.numpy()})
        return {task: torch.from_numpy(x) for task, x in zip(tasks, maps, strict=True)}

    return run
