"""The linear layer whose bias's gradient has a kernel of its own, in Triton's interpreter, against PyTorch's."""

from functools import partial

import pytest
import torch
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from mtmamba.kernels.linear import LinearFunction, LinearGeluFunction, column_sums, gelu_gradient, linear, linear_gelu
from triton_runs import DEVICE, compile_for_hopper, compiler, gpu, kernel

PRECISION = {torch.float32: 1e-5, torch.bfloat16: 1.6e-2, torch.float16: 2e-3}


def leaves(*shape, outputs, maps=torch.float32):
    generator = torch.Generator().manual_seed(0)
    sizes = (shape, (outputs, shape[-1]), (outputs,))
    drawn = [torch.randn(size, generator=generator) for size in sizes]
    return [t.to(DEVICE, maps if i == 0 else torch.float32).requires_grad_() for i, t in enumerate(drawn)]


def results(function, tensors, dtype):
    """The result, and the gradients for one of the result that is drawn, as ``dtype`` has it."""
    y = function(*tensors)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.device, dtype).to(y)
    return [y.detach(), *torch.autograd.grad(y, tensors, dy)]


def with_gelu(*tensors):
    return F.gelu(F.linear(*tensors))


FORMS = {"linear": (LinearFunction, linear, F.linear), "gelu": (LinearGeluFunction, linear_gelu, with_gelu)}
"""By name: the layer's kernels, the function that takes them where it can, and PyTorch's."""
form = pytest.mark.parametrize("name", FORMS)


def assert_near(found, reference, tensors, dtype, precision):
    """Errors below ``precision`` of the largest value of float64's."""
    doubles = [t.detach().double().requires_grad_() for t in tensors]
    for result, wanted in zip(found, results(reference, doubles, dtype), strict=True):
        torch.testing.assert_close(result.double(), wanted, rtol=0, atol=precision * wanted.abs().max().item())


@kernel
@form
@pytest.mark.parametrize("shape", [(1, 7), (2, 5, 9, 7), (300, 16)])
@pytest.mark.parametrize("dtype", PRECISION)
def test_kernel_layer_equals_pytorchs(name, shape, dtype):
    (layer, _, reference), tensors = FORMS[name], leaves(*shape, outputs=140, maps=dtype)
    found = results(layer.apply, tensors, dtype)
    assert [t.dtype for t in found] == [dtype, dtype, torch.float32, torch.float32]
    assert_near(found, reference, tensors, dtype, PRECISION[dtype])


@kernel
def test_kernel_layer_without_a_bias():
    x, weight, _ = leaves(300, 16, outputs=140)
    found = results(lambda *tensors: LinearFunction.apply(*tensors, None), [x, weight], torch.float32)
    wanted = results(F.linear, [x, weight], torch.float32)
    for result, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(result, other)


@kernel
@pytest.mark.parametrize("programs", [1, 6])
def test_kernel_sums_do_not_depend_on_how_rows_are_shared(programs, monkeypatch):
    from mtmamba.kernels import linear_triton

    monkeypatch.setattr(linear_triton, "PROGRAMS", programs)
    x = torch.arange(330 * 140, device=DEVICE).view(330, 140) % 17  # whole numbers: their sums are exact
    assert torch.equal(linear_triton.column_sums(x.to(torch.bfloat16)), x.sum(0).float())


@kernel
@form
def test_kernel_layer_may_be_recomputed_and_traced(name):
    layer, tensors = FORMS[name][0], leaves(3, 4, 5, outputs=6)
    again = partial(checkpoint, layer.apply, use_reentrant=False)
    for a, b in zip(results(again, tensors, None), results(layer.apply, tensors, None), strict=True):
        assert torch.equal(a, b)
    x = tensors[0].detach()
    torch.library.opcheck(column_sums, (x[0],))
    torch.library.opcheck(gelu_gradient, (x, x))


def test_without_kernels_the_layer_is_pytorchs():
    tensors = leaves(3, 4, 5, outputs=6)
    for _, function, reference in FORMS.values():
        torch.testing.assert_close(results(function, tensors, None), results(reference, tensors, None))


@gpu
@form
@pytest.mark.parametrize("compiled", [False, True])
def test_on_a_gpu_under_autocast_and_compiled(name, compiled):
    (_, function, reference), tensors = FORMS[name], leaves(8, 28, 36, 768, outputs=3072)
    function = torch.compile(function, fullgraph=True) if compiled else function
    with torch.autocast("cuda", torch.bfloat16):
        runs = [results(function, tensors, torch.bfloat16) for _ in range(2)]
    assert runs[0][0].dtype == torch.bfloat16
    assert_near(runs[0], reference, tensors, torch.bfloat16, 2e-2)
    assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True))


@pytest.mark.slow
@compiler
def test_kernels_compile_for_hopper_without_spills(tmp_path, monkeypatch):
    pytest.importorskip("triton")
    from mtmamba.kernels import linear_triton as kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    rows_of = {kernels.column_sums_kernel: kernels.ROWS, kernels.gelu_gradient_kernel: kernels.GELU_ROWS}
    for function, rows in rows_of.items():
        pointers = [p.name for p in function.params if p.name.endswith("_ptr")]
        types = dict.fromkeys(pointers, "*bf16") | {"partial_ptr": "*fp32"}
        constants = {"ROWS": rows, "COLUMNS": kernels.COLUMNS}
        compiled = compile_for_hopper(function, types, constants, (*pointers, "rows", "columns"), num_warps=4)
        assert compiled.stack + compiled.local == 0
        assert "ld.global.v4.b32" in compiled.ptx  # eight values of bfloat16 at a time
