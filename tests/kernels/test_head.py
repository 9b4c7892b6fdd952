"""Norm and projection of an expanded map against formulas written out here, its kernels in Triton's interpreter too."""

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from mtmamba.kernels.head import norm_project
from triton_runs import DEVICE, ON_GPU, compile_for_hopper, compiler, gpu, kernel

PRECISION = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
DTYPES = list(PRECISION)[: None if ON_GPU else 2]  # the interpreter has no products of bfloat16


def inputs(
    shape: tuple[int, ...], scale: int, outputs: int, dtype: torch.dtype, parameters: torch.dtype = torch.float32
) -> list[Tensor]:
    """Leaves x ``(B, H, W, s s C)``, norm_weight, norm_bias, weight, bias, and a gradient of the logits."""
    generator = torch.Generator().manual_seed(sum(shape) + outputs)
    batch, height, width, channels = shape
    x = 2 * torch.randn(batch, height, width, scale * scale * channels, generator=generator) + 1
    sizes = (channels,), (channels,), (outputs, channels), (outputs,)
    leaves = [x.to(DEVICE, dtype), *(torch.randn(s, generator=generator).to(DEVICE, parameters) for s in sizes)]
    dlogits = torch.randn(batch, outputs, scale * height, scale * width, generator=generator)
    return [*(leaf.requires_grad_() for leaf in leaves), dlogits.to(DEVICE, parameters)]


def reference(x: Tensor, *rest: Tensor, scale: int) -> tuple[Tensor, ...]:
    """The logits and all gradients in float64, from the formula of a layer norm."""
    *parameters, dlogits = rest
    leaves = [t.detach().double().requires_grad_() for t in (x, *parameters)]
    maps, norm_weight, norm_bias, weight, bias = leaves
    rows = []
    for i in range(scale * x.shape[1]):
        columns = []
        for j in range(scale * x.shape[2]):
            start = (i % scale * scale + j % scale) * len(norm_weight)
            pixel = maps[:, i // scale, j // scale, start : start + len(norm_weight)]
            centred = pixel - pixel.mean(1, keepdim=True)
            y = centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()
            columns.append((y * norm_weight + norm_bias) @ weight.T + bias)
        rows.append(torch.stack(columns, 2))
    logits = torch.stack(rows, 2)
    return logits.detach(), *torch.autograd.grad(logits, leaves, dlogits.double())


def assert_near(results: tuple[Tensor, ...], expected: tuple[Tensor, ...], precision: float) -> None:
    """Errors below ``precision`` of the largest value; of 1 where all are 0, as gradients of a norm of one channel."""
    for result, wanted in zip(results, expected, strict=True):
        assert result.shape == wanted.shape
        largest = wanted.abs().max().item() or 1
        torch.testing.assert_close(result.double(), wanted, rtol=0, atol=precision * largest)


@pytest.mark.parametrize(
    ("shape", "scale", "outputs"), [((1, 1, 1, 7), 1, 1), ((2, 3, 5, 6), 2, 3), ((1, 2, 3, 5), 4, 40)]
)
def test_logits_and_gradients_follow_the_formula(shape, scale, outputs):
    *leaves, dlogits = inputs(shape, scale, outputs, torch.float64, torch.float64)
    logits = norm_project(*leaves)
    gradients = torch.autograd.grad(logits, leaves, dlogits)
    assert_near((logits.detach(), *gradients), reference(*leaves, dlogits, scale=scale), 1e-12)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (((2, 4, 12), (3,), (3,), (5, 3), (5,)), r"x \(B, H, W, s s C\) and weight \(n, C\), got \(2, 4, 12\)"),
        (((1, 2, 4, 12), (4,), (4,), (5, 4), (5,)), "where C = 4 as in weight, got 12"),
        (((1, 2, 4, 12), (3,), (4,), (5, 3), (5,)), r"norm_bias of shape \(3,\), as weight has, got \(4,\)"),
        (((1, 2, 4, 12), (3,), (3,), (5, 3), (3,)), r"bias of shape \(5,\), as weight has, got \(3,\)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        norm_project(*(torch.zeros(size) for size in sizes))


@pytest.mark.parametrize("device", ["cuda", "cpu", "meta"])
@pytest.mark.parametrize("dtype", [*PRECISION, torch.float64])
def test_logits_have_at_least_float32_and_lie_as_told(device, dtype):
    pytest.importorskip("triton")
    with FakeTensorMode():  # which needs no device
        x = torch.empty(2, 3, 4, 4 * 6, device=device, dtype=dtype)
        parameters = [torch.empty(s, device=device, dtype=torch.promote_types(dtype, torch.float32))
                      for s in ((6,), (6,), (5, 6), (5,))]  # fmt: skip
        logits = norm_project(x, *parameters)
    assert (logits.shape, logits.device.type) == ((2, 5, 6, 8), device)
    assert logits.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert logits.is_contiguous()


@kernel
@pytest.mark.parametrize(
    ("shape", "scale", "outputs", "programs"),
    [
        ((1, 1, 1, 1), 1, 1, 8),
        ((2, 1, 5, 24), 4, 3, 8),  # a program for each row, the last tile of which is not full
        ((1, 2, 9, 16), 2, 1, 3),
        ((1, 3, 2, 70), 2, 40, 2),  # two chunks of channels
    ],
)
def test_kernel_tiles(shape, scale, outputs, programs):
    from mtmamba.kernels import head_triton as kernels

    x, norm_weight, norm_bias, weight, bias, dlogits = (
        t.detach() for t in inputs(shape, scale, outputs, torch.float32)
    )
    norm_weight.fill_(1)
    norm_bias.fill_(0)
    tile = kernels.Tile(columns=16, programs=programs, warps=4, stages=2)
    found = kernels.forward(x, weight, bias, scale, 1e-5, tile)
    gradients = kernels.backward(dlogits, x, weight, bias, *found, scale, tile)
    logits, dx, _, _, *sums = reference(x, norm_weight, norm_bias, weight, bias, dlogits, scale=scale)
    assert_near((found[0], *gradients), (logits, dx, *sums), 1e-5)


@kernel
@pytest.mark.parametrize("outputs", [1, 3, 40])
@pytest.mark.parametrize("dtype", DTYPES)
def test_kernel_operator(dtype, outputs):
    shape = (2, 7, 9, 192) if ON_GPU else (1, 1, 3, 12)
    *leaves, dlogits = inputs(shape, 4, outputs, dtype)
    strided = dlogits.mT.contiguous().mT
    logits, *_ = torch.ops.mtmamba.norm_project(*leaves, 4)
    gradients = torch.autograd.grad(logits, leaves, strided)
    assert [t.dtype for t in (logits, *gradients)] == [torch.float32, dtype, *[torch.float32] * 4]
    assert all(t.is_contiguous() for t in (logits, *gradients))  # as compiled programs are told
    assert_near((logits.detach(), *gradients), reference(*leaves, dlogits, scale=4), PRECISION[dtype])


@kernel
def test_kernel_operator_is_one_that_compilers_understand():
    *leaves, _ = inputs((1, 1, 2, 3), 2, 3, torch.float32)
    torch.library.opcheck(torch.ops.mtmamba.norm_project, (*leaves, 2))


@gpu
@pytest.mark.parametrize("compiled", [False, True])
def test_on_a_gpu_under_autocast_and_compiled(compiled):
    *leaves, dlogits = inputs((2, 7, 9, 96), 4, 40, torch.bfloat16)
    function = torch.compile(norm_project, fullgraph=True) if compiled else norm_project
    runs = []
    for _ in range(2):
        with torch.autocast("cuda", torch.bfloat16):
            logits = function(*leaves)
        runs.append((logits.detach(), *torch.autograd.grad(logits, leaves, dlogits)))
    assert_near(runs[0], reference(*leaves, dlogits, scale=4), PRECISION[torch.bfloat16])
    assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True))


@pytest.mark.slow
@compiler
@pytest.mark.parametrize("outputs", [1, 40])
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_tiles_compile_for_hopper_with_few_spills(tmp_path, monkeypatch, dtype, outputs):
    pytest.importorskip("triton")
    from mtmamba.kernels import head_triton as kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    size = {"bf16": 2, "fp32": 4}[dtype]
    tiles = {kernels.forward_kernel: kernels.FORWARD[size], kernels.backward_kernel: kernels.BACKWARD[size]}
    for function, tile in tiles.items():
        constants = {"C": 192, "N": outputs, "S": 4, "EPS": 1e-5, "CHUNK": 64, "OUTPUTS": max(16, 64 * (outputs > 16))}
        constants |= {"COLUMNS": tile.columns, "EACH": 128}
        names = [p.name for p in function.params]
        constants = {name: value for name, value in constants.items() if name in names}
        types = {name: "*fp32" for name in names if name.endswith("_ptr")}
        types |= dict.fromkeys(("x_ptr", "dx_ptr"), f"*{dtype}")
        aligned = [name for name in names if name.endswith("_ptr") or name == "width"]
        options = {"num_warps": tile.warps, "num_stages": tile.stages}
        compiled = compile_for_hopper(function, types, constants, aligned, **options)
        assert "cp.async" in compiled.ptx  # loads are in flight while others are computed with
        assert compiled.stack <= 32, (function, tile)  # bytes that a thread spills
