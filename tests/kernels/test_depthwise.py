"""Depthwise convolution with SiLU against shifted sums written out here, its kernels in Triton's interpreter too."""

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from mtmamba.kernels.depthwise import depthwise_silu
from triton_runs import DEVICE, ON_GPU, compile_for_hopper, compiler, gpu, kernel

PRECISION = {torch.float32: 1e-5, torch.bfloat16: 1.6e-2, torch.float16: 2e-3}


def inputs(*shape: int, dtype: torch.dtype = torch.float64, parameters: torch.dtype = torch.float64) -> list[Tensor]:
    """Leaves x, weight and bias, and a gradient of the output."""
    generator = torch.Generator().manual_seed(sum(shape))
    tasks, channels = shape[0], shape[-1]
    x, dy = torch.randn(2, *shape, generator=generator).to(DEVICE, dtype)
    weight = torch.randn(tasks, channels, 1, 3, 3, generator=generator).to(DEVICE, parameters)
    bias = torch.randn(tasks, channels, generator=generator).to(DEVICE, parameters)
    return [x.requires_grad_(), weight.requires_grad_(), bias.requires_grad_(), dy]


def shifted_sums(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """One term for each of the nine neighbours."""
    _, _, height, width, _ = x.shape
    weight = weight.reshape(*bias.shape, 3, 3)
    around = F.pad(x, (0, 0, 1, 1, 1, 1))
    z = bias[:, None, None, None]
    for i in range(3):
        for j in range(3):
            z = z + weight[:, None, None, None, :, i, j] * around[:, :, i : i + height, j : j + width]
    return z * torch.sigmoid(z)


def reference(x: Tensor, weight: Tensor, bias: Tensor, dy: Tensor) -> tuple[Tensor, ...]:
    """The result and the gradients of all inputs, in float64."""
    leaves = [tensor.detach().double().requires_grad_() for tensor in (x, weight, bias)]
    y = shifted_sums(*leaves)
    return y.detach(), *torch.autograd.grad(y, leaves, dy.double())


def two_signals(*shape: int, dtype: torch.dtype, parameters: torch.dtype) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Leaves of T - 1 maps and of one map, and a gradient of all results."""
    *leaves, dy = inputs(*shape, dtype=dtype, parameters=parameters)
    several, one = ([leaf.detach()[some].requires_grad_() for leaf in leaves] for some in (slice(1, None), slice(1)))
    return several, one, dy


def one_after_the_other(several: list[Tensor], one: list[Tensor], dy: Tensor) -> list[tuple[Tensor, ...]]:
    """The results and gradients of each signal by itself."""
    return [reference(*several, dy[:-1]), reference(*one, dy[-1:])]


def assert_near(results: tuple[Tensor, ...], expected: tuple[Tensor, ...], precision: float) -> None:
    """Errors below ``precision`` of the largest value."""
    for result, wanted in zip(results, expected, strict=True):
        assert result.shape == wanted.shape
        torch.testing.assert_close(result.double(), wanted, rtol=0, atol=precision * wanted.abs().max().item())


@pytest.mark.parametrize("shape", [(1, 1, 1, 1, 1), (2, 3, 1, 7, 5), (5, 2, 5, 3, 4), (3, 1, 6, 1, 9)])
def test_depthwise_silu_is_a_sum_of_shifted_maps(shape):
    x, weight, bias, dy = inputs(*shape)
    for filters in (weight, weight.squeeze(2)):
        y = depthwise_silu(x, filters, bias)
        gradients = torch.autograd.grad(y, (x, weight, bias), dy)
        assert_near((y.detach(), *gradients), reference(x, weight, bias, dy), 1e-12)


def test_parameters_may_be_more_precise_than_the_map():
    x, weight, bias, dy = inputs(2, 1, 3, 4, 5, dtype=torch.bfloat16, parameters=torch.float32)
    y = depthwise_silu(x, weight, bias)
    gradients = torch.autograd.grad(y, (x, weight, bias), dy)
    assert [t.dtype for t in (y, *gradients)] == [torch.bfloat16, torch.bfloat16, torch.float32, torch.float32]
    assert_near((y.detach(), *gradients), reference(x, weight, bias, dy), 3e-2)


def test_two_signals_go_on_as_one():
    several, one, dy = two_signals(4, 2, 3, 5, 6, dtype=torch.float64, parameters=torch.float64)
    y = depthwise_silu(*several, tuple(one))
    gradients = torch.autograd.grad(y, (*several, *one), dy)
    expected, expected_of_one = one_after_the_other(several, one, dy)
    assert_near((y[:-1].detach(), *gradients[:3]), expected, 1e-12)
    assert_near((y[-1:].detach(), *gradients[3:]), expected_of_one, 1e-12)


@pytest.mark.parametrize(
    ("x", "weight", "bias", "message"),
    [
        ((2, 3, 4, 5), (2, 5, 3, 3), (2, 5), r"x of shape \(T, B, H, W, C\), got \(2, 3, 4, 5\)"),
        ((2, 1, 3, 4, 5), (5, 2, 3, 3), (2, 5), r"T = 2 and C = 5, as x has, got \(5, 2, 3, 3\)"),
        ((2, 1, 3, 4, 5), (2, 5, 5, 5), (2, 5), r"got \(2, 5, 5, 5\)"),
        ((2, 1, 3, 4, 5), (2, 5, 3, 3), (10,), r"bias of shape \(T, C\) = \(2, 5\), got \(10,\)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(x, weight, bias, message):
    with pytest.raises(ValueError, match=message):
        depthwise_silu(torch.zeros(x), torch.zeros(weight), torch.zeros(bias))


def test_a_signal_of_another_size_is_refused():
    x, weight, bias, _ = inputs(2, 1, 3, 4, 5)
    with pytest.raises(ValueError, match=r"of x, \(2, 1, 3, 4, 5\), but for the first axis, got \(2, 1, 3, 3, 5\)"):
        depthwise_silu(x, weight, bias, (x[:, :, :, 1:], weight, bias))
    with pytest.raises(ValueError, match=r"bias of shape \(T, C\) = \(2, 5\), got \(1, 5\)"):
        depthwise_silu(x, weight, bias, (x, weight, bias[:1]))


def test_devices_and_dtypes_that_do_not_fit_are_refused():
    x, weight, bias, _ = inputs(2, 1, 3, 4, 5)
    with pytest.raises(ValueError, match="weight on x's device"):
        depthwise_silu(x, weight.to("meta"), bias)
    with pytest.raises(TypeError, match=r"x of a floating-point dtype, got torch\.int64"):
        depthwise_silu(x.long(), weight, bias)


class Operators(TorchDispatchMode):
    """Note the names of the operators called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.name())
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("device", "dtype", "fused"),
    [
        ("cuda", torch.bfloat16, True),
        ("cuda", torch.float16, True),
        ("cuda", torch.float32, True),
        ("cuda", torch.float64, False),
        ("cpu", torch.float32, False),
        ("meta", torch.float32, False),
    ],
)
def test_the_kernels_serve_cuda_up_to_float32(device, dtype, fused):
    pytest.importorskip("triton")
    with FakeTensorMode(), Operators() as called:  # which needs no device
        x = torch.empty(2, 1, 3, 4, 5, device=device, dtype=dtype)
        y = depthwise_silu(x, torch.empty(2, 5, 3, 3, device=device), torch.empty(2, 5, device=device))
    assert (y.shape, y.dtype, y.device.type) == (x.shape, dtype, device)
    assert ("mtmamba::depthwise_silu" in called.names) == fused
    assert ("aten::convolution" in called.names) != fused


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_autocast_sets_the_precision_of_the_map(device):
    pytest.importorskip("triton")
    enabled = torch.is_autocast_enabled(device)
    torch.set_autocast_enabled(device, True)  # the context manager would ask for a device
    try:
        with FakeTensorMode():
            x, weight, bias = (torch.empty(s, device=device) for s in ((2, 1, 3, 4, 5), (2, 5, 3, 3), (2, 5)))
            y = depthwise_silu(x, weight, bias)
    finally:
        torch.set_autocast_enabled(device, enabled)
    assert y.dtype == torch.get_autocast_dtype(device) != x.dtype


@kernel
@pytest.mark.parametrize(
    ("shape", "tile"),  # channels, columns, per thread, rows, unroll, warps
    [
        ((1, 1, 1, 1, 1), (4, 4, 2, 4, 2, 1)),
        ((2, 1, 1, 7, 5), (4, 4, 2, 4, 1, 1)),
        ((1, 2, 5, 3, 6), (8, 4, 1, 3, 2, 1)),
        ((3, 1, 2, 4, 3), (4, 6, 3, 4, 2, 1)),
    ],
)
def test_kernel_tiles(shape, tile):
    from mtmamba.kernels import depthwise_triton as kernels

    x, weight, bias, dy = (t.detach() for t in inputs(*shape, dtype=torch.float32, parameters=torch.float32))
    tile = kernels.Tile(*tile)
    y = kernels.forward(x, weight, bias, tile)
    dz, sums = kernels.activation_gradient(dy, x, weight, bias, tile)
    dx = kernels.input_gradient(dz, weight, tile)
    expected, dx_expected, *parameters = reference(x, weight, bias, dy)
    assert_near((y, dx, sums), (expected, dx_expected, torch.cat([p.flatten() for p in parameters])), 1e-5)


@kernel
@pytest.mark.parametrize("dtype", PRECISION)
def test_kernel_operator(dtype):
    shape = (4, 2, 61, 37, 200) if ON_GPU else (1, 1, 3, 2, 70)
    x, weight, bias, dy = inputs(*shape, dtype=dtype, parameters=torch.float32)
    y = torch.ops.mtmamba.depthwise_silu(x, weight, bias)
    gradients = torch.autograd.grad(y, (x, weight, bias), dy)
    assert [t.dtype for t in (y, *gradients)] == [dtype, dtype, torch.float32, torch.float32]
    assert all(t.is_contiguous() for t in (y, *gradients))  # as compiled programs are told
    expected = reference(x, weight, bias, dy)
    assert_near((y.detach(), gradients[0]), expected[:2], PRECISION[dtype])
    assert_near(gradients[1:], expected[2:], 1e-5)  # summed before anything is rounded


@kernel
@pytest.mark.parametrize("dtype", PRECISION)
def test_kernel_operator_takes_two_signals_into_one(dtype):
    shape = (5, 2, 61, 37, 200) if ON_GPU else (3, 1, 3, 2, 6)
    several, one, dy = two_signals(*shape, dtype=dtype, parameters=torch.float32)
    y = torch.ops.mtmamba.depthwise_silu(*several, *one)
    gradients = torch.autograd.grad(y, (*several, *one), dy)
    assert all(t.is_contiguous() for t in gradients)
    expected, expected_of_one = one_after_the_other(several, one, dy)
    for found, wanted in (((y[:-1], *gradients[:3]), expected), ((y[-1:], *gradients[3:]), expected_of_one)):
        assert [t.dtype for t in found] == [dtype, dtype, torch.float32, torch.float32]
        assert_near(found[:2], wanted[:2], PRECISION[dtype])
        assert_near(found[2:], wanted[2:], 1e-5)


@kernel
def test_kernel_operator_may_be_recomputed():
    several, one, dy = two_signals(2, 1, 1, 2, 3, dtype=torch.float32, parameters=torch.float32)
    leaves, function = (*several, *one), torch.ops.mtmamba.depthwise_silu
    once = torch.autograd.grad(function(*leaves), leaves, dy)
    twice = torch.autograd.grad(checkpoint(function, *leaves, use_reentrant=False), leaves, dy)
    assert all(torch.equal(a, b) for a, b in zip(once, twice, strict=True))


@kernel
@pytest.mark.filterwarnings("ignore:overflow")  # NumPy's, in the interpreter
def test_kernel_takes_any_strides_and_extremes():
    x, weight, bias, dy = inputs(2, 1, 2, 3, 4, dtype=torch.float32, parameters=torch.float32)
    bias = (bias.detach() * 1e4).requires_grad_()  # exp(-bias) overflows
    strided = x.detach().permute(4, 3, 2, 1, 0).contiguous().permute(4, 3, 2, 1, 0).requires_grad_()
    y = torch.ops.mtmamba.depthwise_silu(strided, weight, bias)
    gradients = torch.autograd.grad(y, (strided, weight, bias), dy.mT.contiguous().mT)
    assert_near((y.detach(), *gradients), reference(x, weight, bias, dy), 1e-5)


@kernel
def test_kernel_reads_half_of_a_wider_map_as_it_lies():
    x, weight, bias, dy = inputs(2, 1, 3, 4, 6, dtype=torch.float32, parameters=torch.float32)
    both = torch.cat([dy, x.detach()], dim=-1).requires_grad_()
    expected = reference(x, weight, bias, dy)
    for beside in ((), (x[:1], weight[:1], bias[:1])):
        y = torch.ops.mtmamba.depthwise_silu(both[..., 6:], weight, bias, *beside)[:2]
        *gradients, dboth = torch.autograd.grad(y, (weight, bias, both), dy)
        assert_near((y.detach(), dboth[..., 6:], *gradients), expected, 1e-5)


@kernel
def test_kernel_operator_is_one_that_compilers_understand():
    x, weight, bias, _ = inputs(1, 1, 1, 2, 3, dtype=torch.float32, parameters=torch.float32)
    torch.library.opcheck(torch.ops.mtmamba.depthwise_silu, (x, weight, bias))
    torch.library.opcheck(torch.ops.mtmamba.depthwise_silu, (x, weight, bias) * 2)


@gpu
@pytest.mark.parametrize("compiled", [False, True])
def test_on_a_gpu_under_autocast_and_compiled(compiled):
    several, one, dy = two_signals(5, 2, 61, 37, 200, dtype=torch.float32, parameters=torch.float32)
    function = torch.compile(depthwise_silu, fullgraph=True) if compiled else depthwise_silu
    expected, expected_of_one = one_after_the_other(several, one, dy)
    alone, joint = [], []
    for _ in range(2):
        with torch.autocast("cuda", torch.bfloat16):
            y, both = function(*several), function(*several, tuple(one))
        alone.append((y.detach(), *torch.autograd.grad(y, several, dy[:-1].to(y.dtype))))
        joint.append((both.detach(), *torch.autograd.grad(both, (*several, *one), dy.to(y.dtype))))
    assert y.dtype == both.dtype == torch.bfloat16
    assert_near(alone[0], expected, PRECISION[torch.bfloat16])
    assert_near((joint[0][0][:-1], *joint[0][1:4]), expected, PRECISION[torch.bfloat16])
    assert_near((joint[0][0][-1:], *joint[0][4:]), expected_of_one, PRECISION[torch.bfloat16])
    for runs in (alone, joint):
        assert all(torch.equal(first, second) for first, second in zip(*runs, strict=True))


@pytest.mark.slow
@compiler
def test_tiles_compile_for_hopper_without_spills(tmp_path, monkeypatch):
    pytest.importorskip("triton")
    from mtmamba.benchmarks.kernels.depthwise import CANDIDATES
    from mtmamba.kernels import depthwise_triton as kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))

    def resources(function, tile: kernels.Tile, **constants: bool) -> tuple[int, ...]:
        """Registers of a thread, and bytes that it spills."""
        constants = {"C": 384, "APART": 768, "TILE": tile, **constants}
        names = [p.name for p in function.params]
        pointers = [name for name in names if name.endswith("_ptr")]
        types = dict.fromkeys(pointers, "*bf16") | dict.fromkeys(("weight_ptr", "bias_ptr", "partial_ptr"), "*fp32")
        compiled = compile_for_hopper(function, types, constants, pointers, num_warps=tile.warps)
        return compiled.registers, compiled.stack, compiled.local

    for tile in CANDIDATES["convolve"]:
        for transposed in (False, True):
            registers, *spilled = resources(kernels.convolve_kernel, tile, TRANSPOSED=transposed)
            assert registers <= 128, tile
            assert spilled == [0, 0], tile
    for tile in CANDIDATES["activation_gradient"]:
        registers, *spilled = resources(kernels.activation_gradient_kernel, tile)
        assert registers <= 176, tile
        assert spilled == [0, 0], tile
