"""Residual sums fused with the layer norm that reads them, against float64, their kernels in Triton's interpreter."""

from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from mtmamba.kernels.residual import BranchFunction, add_norm, residual_norm
from triton_runs import DEVICE, ON_GPU, compiler, gpu, kernel, spilled

PRECISION = {torch.float32: 1e-5, torch.bfloat16: 1.6e-2, torch.float16: 2e-3}
FORMS = ("branch", "sum", "scaled sum")


def inputs(form: str, *shape: int, maps: torch.dtype = torch.float32) -> tuple[list[Tensor], Tensor | None]:
    """Leaves: a map, weight, bias and what is added; and its factors."""
    generator = torch.Generator().manual_seed(sum(shape))
    sizes = (shape, (shape[0], shape[-1]), (shape[0], shape[-1]), *[shape] * (form != "branch"))
    leaves = [torch.randn(size, generator=generator, dtype=torch.float64) + 0.3 for size in sizes]
    parameters = torch.float64 if maps == torch.float64 else torch.float32
    dtypes = (maps, parameters, parameters, maps)
    leaves = [t.to(DEVICE, dtype).requires_grad_() for t, dtype in zip(leaves, dtypes, strict=False)]
    scale = (torch.rand(shape[:2], generator=generator) < 0.7).float().to(DEVICE) / 0.7
    return leaves, scale if form == "scaled sum" else None


def written(x, weight, bias, added=None, scale=None):
    total = x
    if added is not None:
        total = x + added * (1 if scale is None else scale.view(*scale.shape, *[1] * (x.ndim - 2)))
    normed = [F.layer_norm(t, t.shape[-1:], w, b) for t, w, b in zip(total, weight, bias, strict=True)]
    return total, torch.stack(normed)


def operator(x, weight, bias, added=None, scale=None):
    return BranchFunction.apply(x, weight, bias) if added is None else add_norm(x, added, weight, bias, scale)[:2]


def results(function, leaves, scale, dtype=None) -> list[Tensor]:
    """The sum, its norm, and the gradients of all leaves for those of both that are drawn, as ``dtype`` has them."""
    outputs = function(*leaves) if len(leaves) == 3 else function(*leaves, scale)
    generator = torch.Generator().manual_seed(1)
    cotangents = [torch.randn(t.shape, generator=generator).to(t.device, dtype or t.dtype).to(t) for t in outputs]
    return [t.detach() for t in outputs] + list(torch.autograd.grad(outputs, leaves, cotangents))


def assert_near(found, leaves, scale, dtype, precision: float) -> None:
    """Errors below ``precision`` of the largest value of float64's."""
    doubles = [leaf.detach().double().requires_grad_() for leaf in leaves]
    for result, wanted in zip(found, results(written, doubles, scale, dtype), strict=True):
        assert result.shape == wanted.shape
        torch.testing.assert_close(result.double(), wanted, rtol=0, atol=precision * wanted.abs().max().item())


@pytest.mark.parametrize("form", FORMS)
def test_each_form_is_its_written_out_sum_and_norm(form):
    leaves, scale = inputs(form, 3, 2, 4, 5, 6, maps=torch.float64)
    assert_near(results(residual_norm, leaves, scale), leaves, scale, torch.float64, 1e-7)


def test_shapes_that_do_not_fit_are_refused():
    x, parameters = torch.zeros(2, 1, 3, 4), torch.zeros(2, 4)
    with pytest.raises(ValueError, match=r"weight of shape \(2, 4\) .* got \(4, 2\)"):
        residual_norm(x, parameters.mT, parameters)
    with pytest.raises(ValueError, match=r"added of the shape of x, \(2, 1, 3, 4\), got \(1, 1, 3, 4\)"):
        residual_norm(x, parameters, parameters, x[:1])


@kernel
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", PRECISION)
def test_kernel_operator(form, dtype):
    leaves, scale = inputs(form, *((5, 2, 37, 41, 200) if ON_GPU else (3, 2, 3, 5, 12)), maps=dtype)
    found = results(operator, leaves, scale)
    assert [t.dtype for t in found] == [dtype, dtype, *(leaf.dtype for leaf in leaves)]
    assert all(t.is_contiguous() for t in found)  # as compiled programs are told
    assert_near(found, leaves, scale, dtype, PRECISION[dtype])


@kernel
@pytest.mark.parametrize("unused", [0, 1])
@pytest.mark.parametrize("form", FORMS)
def test_kernel_results_may_be_left_unused(form, unused):
    leaves, scale = inputs(form, 2, 1, 3, 4, 6)
    found, expected = (
        torch.autograd.grad(function(*leaves, *[scale] * (len(leaves) > 3))[1 - unused].square().sum(), leaves[0])[0]
        for function in (operator, written)
    )
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@kernel
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("again", [partial(checkpoint, operator, use_reentrant=False), "compiled"])
def test_kernel_operators_may_be_recomputed_and_compiled(form, again):
    if again == "compiled":
        again = torch.compile(operator, fullgraph=True, backend="aot_eager")
    leaves, scale = inputs(form, 2, 1, 3, 4, 6)
    for a, b in zip(results(again, leaves, scale), results(operator, leaves, scale), strict=True):
        assert torch.equal(a, b)


@kernel
@pytest.mark.parametrize("form", FORMS[1:])
def test_kernel_operators_are_ones_that_compilers_understand(form):
    (x, weight, bias, added), scale = inputs(form, 2, 1, 1, 2, 3)
    torch.library.opcheck(torch.ops.mtmamba.add_norm, (x, added, weight, bias, scale))


@gpu
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("compiled", [False, True])
def test_on_a_gpu_under_autocast_and_compiled(form, compiled):
    leaves, scale = inputs(form, 1, 8, 28, 36, 768)
    function = torch.compile(residual_norm, fullgraph=True) if compiled else residual_norm
    with torch.autocast("cuda", torch.bfloat16):
        runs = [results(function, leaves, scale) for _ in range(2)]
    assert runs[0][0].dtype == runs[0][1].dtype == torch.bfloat16
    assert_near(runs[0], leaves, scale, torch.bfloat16, 2e-2)
    assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True))


@pytest.mark.slow
@compiler
@pytest.mark.parametrize("channels", [96, 192, 384, 768, 1536])
def test_kernels_compile_for_hopper_without_spills(channels, tmp_path, monkeypatch):
    pytest.importorskip("triton")
    from mtmamba.kernels import residual_triton as kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    for function, launch in ((kernels.forward_kernel, kernels.FORWARD), (kernels.backward_kernel, kernels.BACKWARD)):
        assert spilled(function, launch, channels) == 0
