"""Window attention against attention among all pixels written out here, its kernels in Triton's interpreter too."""

from typing import Any

import pytest
import torch
from timm.models.swin_transformer import SwinTransformerBlock
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from mtmamba.benchmarks.timing import tf32
from mtmamba.kernels.dispatch import triton_products
from mtmamba.kernels.window_attention import torch_window_attention, window_attention
from mtmamba.models.drop_path import DropPath
from mtmamba.models.encoders import SwinEncoder
from mtmamba.models.encoders.swin_blocks import Residual, SwinBlock
from triton_runs import DEVICE, INTERPRETED, ON_GPU, compile_for_hopper, compiler, gpu, kernel

PRECISION = {torch.float32: 1e-5, torch.float16: 3e-3}
if not INTERPRETED:  # which multiplies the bits of bfloat16 as integers
    PRECISION[torch.bfloat16] = 2e-2


def inputs(
    batch: int, height: int, width: int, heads: int, head_dim: int, window: int, dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    """Leaves qkv, padding and table, and a gradient of the output."""
    generator = torch.Generator().manual_seed(height * width + window)
    channels = heads * head_dim
    shapes = (batch, height, width, 3 * channels), (3 * channels,), ((2 * window - 1) ** 2, heads)
    qkv, padding, table = (torch.randn(shape, generator=generator).to(DEVICE) for shape in shapes)
    dout = torch.randn(batch, height, width, channels, generator=generator).to(DEVICE, dtype)
    return [qkv.to(dtype).requires_grad_(), padding.to(dtype).requires_grad_(), table.requires_grad_(), dout]


def attention_among_all(qkv: Tensor, padding: Tensor, table: Tensor, window: int, shift: int) -> Tensor:
    """Let all pixels of the padded map attend to all, and forbid it where no window holds both."""
    (batch, height, width, _), heads = qkv.shape, table.shape[1]
    rows, columns = height + -height % window, width + -width % window
    padded = padding.expand(batch, rows, columns, -1).clone()
    padded[:, :height, :width] = qkv
    q, k, v = padded.reshape(batch, rows * columns, 3, heads, -1).permute(2, 0, 3, 1, 4)

    pixels = torch.cartesian_prod(torch.arange(rows), torch.arange(columns))
    wrapped = pixels < shift  # and so put after the last row or column
    shifted = pixels - shift + wrapped * torch.tensor([rows, columns])
    offset = shifted[:, None] - shifted + window - 1
    index = (offset[..., 0] * (2 * window - 1) + offset[..., 1]).clamp(0, len(table) - 1).to(table.device)
    bias = table[index].permute(2, 0, 1)
    apart = (wrapped[:, None] != wrapped).any(-1).to(table.device)
    together = (shifted[:, None] // window == shifted // window).all(-1).to(table.device)
    scores = q @ k.mT / q.shape[-1] ** 0.5 + bias - 100.0 * apart
    y = scores.masked_fill(~together, float("-inf")).softmax(-1) @ v
    return y.transpose(1, 2).reshape(batch, rows, columns, -1)[:, :height, :width]


def reference(qkv: Tensor, padding: Tensor, table: Tensor, dout: Tensor, *sizes: int) -> tuple[Tensor, ...]:
    """The result and the gradients of all inputs, in float64."""
    leaves = [tensor.detach().double().requires_grad_() for tensor in (qkv, padding, table)]
    y = attention_among_all(*leaves, *sizes)
    return y.detach(), *torch.autograd.grad(y, leaves, dout.double())


def assert_near(results: tuple[Tensor, ...], expected: tuple[Tensor, ...], precision: float) -> None:
    """Errors below ``precision`` of the largest value."""
    for result, wanted in zip(results, expected, strict=True):
        assert result.shape == wanted.shape
        torch.testing.assert_close(result.double(), wanted, rtol=0, atol=precision * wanted.abs().max().item() + 1e-12)


def block(window: int = 4, shift: int = 0) -> SwinBlock:
    """A block with two heads of 16 channels, and numbers for parameters."""
    torch.manual_seed(0)
    made = SwinBlock(32, 2, window, shift)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made


class Operators(TorchDispatchMode):
    """Note the names of the operators called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.name())
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("device", "dtype", "window", "fused"),
    [
        ("cuda", torch.bfloat16, 4, True),
        ("cuda", torch.float16, 7, True),
        ("cuda", torch.float32, 12, True),
        ("cuda", torch.float32, 13, False),
        ("cuda", torch.float64, 4, False),
        ("cpu", torch.float32, 4, False),
        ("meta", torch.float32, 4, False),
    ],
)
def test_the_kernels_serve_blocks_on_cuda_up_to_float32(device, dtype, window, fused):
    pytest.importorskip("triton")
    with FakeTensorMode(), Operators() as called, torch.device(device):  # which needs no device
        x, default = torch.empty(2, 5, 6, 32, dtype=dtype), torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            made = block(window, 2)
        finally:
            torch.set_default_dtype(default)
        y = made(Residual(x)).total()
    assert (y.shape, y.dtype, y.device.type) == (x.shape, dtype, device)
    assert ("mtmamba::window_attention" in called.names) == fused
    assert ("aten::roll" in called.names) != fused


def layers(batch: int, height: int, width: int, heads: int, head_dim: int, window: int) -> list[Tensor]:
    """Leaves x, the weights and biases of both linear layers, and table; and a gradient of the output."""
    generator = torch.Generator().manual_seed(height * width + window)
    channels = heads * head_dim
    shapes = (
        (3 * channels, channels),
        (3 * channels,),
        (channels, channels),
        (channels,),
        ((2 * window - 1) ** 2, heads),
    )
    x, *parameters, dout = (
        torch.randn(shape, generator=generator).to(DEVICE)
        for shape in ((batch, height, width, channels), *shapes, (batch, height, width, channels))
    )
    return [*(t.requires_grad_() for t in (x, *parameters)), dout]


def reference_layers(*given: Any) -> tuple[Tensor, ...]:
    """The result and the gradients of all inputs, in float64, with attention among all pixels."""
    *leaves, dout, window, shift = given
    leaves = [tensor.detach().double().requires_grad_() for tensor in leaves]
    x, qkv_weight, qkv_bias, proj_weight, proj_bias, table = leaves
    y = attention_among_all(x @ qkv_weight.mT + qkv_bias, qkv_bias, table, window, shift) @ proj_weight.mT + proj_bias
    return y.detach(), *torch.autograd.grad(y, leaves, dout.double())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"table": (48, 2)}, r"= \(49, heads\), got \(48, 2\)"),
        ({"x": (1, 5, 6, 31)}, r"heads = 2, got \(1, 5, 6, 31\)"),
        ({"qkv_weight": (32, 32)}, r"qkv_weight of shape \(96, 32\), got \(32, 32\)"),
        ({"qkv_bias": (32,)}, r"qkv_bias of shape \(96,\), got \(32,\)"),
        ({"proj_weight": (32, 96)}, r"proj_weight of shape \(32, 32\), got \(32, 96\)"),
        ({"proj_bias": (1,)}, r"proj_bias of shape \(32,\), got \(1,\)"),
        ({"shift": 4}, "less than the window 4, got 4"),
        ({"shift": -1}, "at least 0 .* got -1"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    shapes = {"x": (1, 5, 6, 32), "qkv_weight": (96, 32), "qkv_bias": (96,), "proj_weight": (32, 32)}
    shapes |= {"proj_bias": (32,), "table": (49, 2), "shift": 2} | change
    shift = shapes.pop("shift")
    with pytest.raises(ValueError, match=message):
        window_attention(*(torch.zeros(shape) for shape in shapes.values()), 4, shift)


def test_devices_that_do_not_fit_are_refused():
    *tensors, table, _ = (t.detach() for t in layers(1, 5, 6, 2, 16, 4))
    with pytest.raises(ValueError, match=f"table on x's device {table.device}, got meta"):
        window_attention(*tensors, table.to("meta"), 4, 0)


WINDOWS = pytest.mark.parametrize(
    ("shape", "window", "shift"),  # batch, height, width, heads, head_dim
    [
        ((2, 4, 4, 2, 16), 4, 0),  # nothing is padded
        ((1, 4, 4, 1, 16), 4, 2),  # one window, cut in four
        ((1, 6, 9, 1, 16), 4, 2),  # two rows and three columns of windows, with padding wrapped among pixels
        ((1, 3, 11, 1, 32), 5, 0),  # lower than a window
        ((2, 7, 6, 1, 16), 7, 3),  # 49 tokens
    ],
)


@WINDOWS
def test_plain_form_is_attention_among_all_pixels_of_a_window(shape, window, shift):
    *leaves, dout = layers(*shape, window)
    y = torch_window_attention(*leaves, window, shift)
    gradients = torch.autograd.grad(y, leaves, dout)
    assert_near((y.detach(), *gradients), reference_layers(*leaves, dout, window, shift), 1e-5)


@kernel
@WINDOWS
def test_kernel_is_attention_among_all_pixels_of_a_window(shape, window, shift):
    qkv, padding, table, dout = inputs(*shape, window)
    y, _ = torch.ops.mtmamba.window_attention(qkv, padding, table, window, shift)
    gradients = torch.autograd.grad(y, (qkv, padding, table), dout)
    assert all(t.is_contiguous() for t in (y, *gradients))  # as compiled programs are told
    assert_near((y.detach(), *gradients), reference(qkv, padding, table, dout, window, shift), 1e-5)


@kernel
@pytest.mark.parametrize("tile", [(16, 32), (32, 16)])
def test_kernel_tiles_and_pieces(tile):
    from mtmamba.kernels import window_attention_backward_triton as backward_kernels
    from mtmamba.kernels import window_attention_triton as kernels

    qkv, padding, table, dout = (t.detach() for t in inputs(2, 8, 7, 1, 16, 5))  # 25 tokens, windows of all kinds
    plan = kernels.Plan(*tile, warps=4, stages=2, programs=5)
    out, lse = kernels.forward(qkv, padding, table, 5, 2, plan)
    gradients = backward_kernels.backward(dout, qkv, padding, table, out, lse, 5, 2, plan, plan)
    assert_near((out, *gradients), reference(qkv, padding, table, dout, 5, 2), 1e-5)


@kernel
@pytest.mark.parametrize("dtype", PRECISION)
def test_kernel_operator(dtype):
    shape, window, shift = ((2, 28, 30, 3, 32), 12, 6) if ON_GPU else ((1, 3, 5, 1, 16), 4, 2)
    qkv, padding, table, dout = inputs(*shape, window, dtype=dtype)
    y, _ = torch.ops.mtmamba.window_attention(qkv, padding, table, window, shift)
    gradients = torch.autograd.grad(y, (qkv, padding, table), dout)
    assert [t.dtype for t in (y, *gradients)] == [dtype, dtype, dtype, torch.float32]
    assert_near((y.detach(), *gradients), reference(qkv, padding, table, dout, window, shift), PRECISION[dtype])


@kernel
def test_kernel_takes_any_strides_and_large_scores():
    qkv, padding, table, dout = inputs(1, 3, 5, 1, 16, 4)
    qkv = (
        (10 * qkv.detach()).permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0).requires_grad_()
    )  # exp(score) overflows
    y, _ = torch.ops.mtmamba.window_attention(qkv, padding, table, 4, 2)
    gradients = torch.autograd.grad(y, (qkv, padding, table), dout.mT.contiguous().mT)
    assert_near((y.detach(), *gradients), reference(qkv, padding, table, dout, 4, 2), 1e-4)


@kernel
def test_kernel_operator_is_one_that_compilers_understand():
    qkv, padding, table, _ = inputs(1, 2, 3, 1, 16, 4)
    torch.library.opcheck(torch.ops.mtmamba.window_attention, (qkv, padding, table, 4, 2))


@pytest.mark.parametrize("shift", [0, 2])
@pytest.mark.parametrize("size", [(8, 12), (6, 5)])
def test_a_block_is_timms_on_a_map_padded_first(size, shift):
    """timm shifts a map of whole windows as the published models did."""
    made = block(shift=shift)
    height, width = (side + -side % 4 for side in size)
    plain = SwinTransformerBlock(32, (height, width), 2, None, 4, shift, always_partition=True, dynamic_mask=True)
    plain.load_state_dict(made.state_dict())
    x = torch.randn(2, *size, 32)
    padded = F.pad(made.norm1(x), (0, 0, 0, width - size[1], 0, height - size[0]))
    y = x + plain._attn(padded)[:, : size[0], : size[1]]
    expected = y + plain.mlp(plain.norm2(y))
    torch.testing.assert_close(made(Residual(x)).total(), expected)


def test_tf32_is_taken_however_pytorch_was_told():
    for allowed in (True, False):
        with tf32(allowed):
            assert triton_products(torch.float32) == ("tf32" if allowed else "tf32x3")
            assert triton_products(torch.bfloat16) == "ieee"
    settings = torch.backends.cuda.matmul
    before = settings.fp32_precision
    try:
        settings.fp32_precision = "tf32"  # after which PyTorch raises where allow_tf32 is read
        assert triton_products(torch.float32) == "tf32"
    finally:
        settings.fp32_precision = before


@gpu
@pytest.mark.parametrize("allowed", [False, True])
def test_products_are_exact_unless_tf32_is_allowed(allowed):
    *leaves, dout = inputs(2, 9, 13, 2, 32, 12)
    with tf32(allowed):
        y, _ = torch.ops.mtmamba.window_attention(*leaves, 12, 6)
        results = (y.detach(), *torch.autograd.grad(y, leaves, dout))
    expected = reference(*leaves, dout, 12, 6)
    assert_near(results, expected, 1e-2 if allowed else 1e-5)
    if allowed:
        with pytest.raises(AssertionError, match="not close"):
            assert_near(results, expected, 1e-5)


@gpu
@tf32(False)
def test_layers_on_a_gpu():
    *leaves, dout = layers(2, 28, 30, 3, 32, 12)
    y = window_attention(*leaves, 12, 6)
    assert_near((y.detach(), *torch.autograd.grad(y, leaves, dout)), reference_layers(*leaves, dout, 12, 6), 3e-5)


@kernel
@pytest.mark.parametrize("seeded", [False, True])
def test_kernel_encoder_blocks_equal_those_without_kernels(seeded, monkeypatch):
    torch.manual_seed(0)
    width, heads = (32, (1, 1, 2, 4)) if ON_GPU else (4, (1, 1, 1, 1))
    encoder = SwinEncoder(width, (1, 1, 1, 2), heads, 3).to(DEVICE).train()
    made = encoder.layers[-1].blocks  # each forms the sum that the one before has left to it
    for parameter in made.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    for drop in (m for m in made.modules() if isinstance(m, DropPath)):
        drop.rate, drop.seeded = 0.0, torch.tensor([2.0, 0.0], device=DEVICE) if seeded else None
    x, dy = torch.randn(2, 2, 4, 5, encoder.channels[-1], device=DEVICE)
    found = []
    for kernels in (False, True):
        for module in ("linear", "norm", "residual", "window_attention"):
            monkeypatch.setattr(f"mtmamba.kernels.{module}.has_kernel", lambda _, kernels=kernels: kernels)
        leaf = x.clone().requires_grad_()
        y = made(Residual(leaf)).total()
        found.append([y.detach(), *torch.autograd.grad(y, [leaf, *made.parameters()], dy)])
    for result, expected in zip(*found[::-1], strict=True):
        tolerance = (1e-3 if ON_GPU else 1e-5) * expected.abs().max().item()
        torch.testing.assert_close(result, expected, rtol=0, atol=tolerance)


@gpu
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("recomputed", [False, True])
def test_on_a_gpu_under_autocast_compiled_and_recomputed(compiled, recomputed):
    made = block(12, 6).to(DEVICE)
    function = torch.compile(made, fullgraph=True) if compiled else made
    x, dy = torch.randn(2, 2, 28, 30, 32, device=DEVICE)
    runs = []
    for _ in range(2):
        leaf = x.clone().requires_grad_()
        with torch.autocast("cuda", torch.bfloat16):
            y = (
                checkpoint(function, Residual(leaf), use_reentrant=False) if recomputed else function(Residual(leaf))
            ).total()
        runs.append((y.detach(), *torch.autograd.grad(y, (leaf, *made.attn.parameters()), dy)))
    assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True))
    exact = made.double()
    leaf = x.double().requires_grad_()
    y = exact(Residual(leaf)).total()  # which PyTorch's attention serves
    gradients = torch.autograd.grad(y, (leaf, *exact.attn.parameters()), dy.double())
    assert_near(runs[0], (y.detach(), *gradients), 4e-2)


@pytest.mark.slow
@compiler
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_plans_compile_for_hopper_with_few_spills(dtype, tmp_path, monkeypatch):
    pytest.importorskip("triton")
    from mtmamba.kernels import window_attention_backward_triton as backward_kernels
    from mtmamba.kernels import window_attention_triton as kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))

    def stack(function, constants: dict[str, int], warps: int) -> int:
        """Bytes that a thread spills."""
        names = [p.name for p in function.params]
        pointers = [name for name in names if name.endswith("_ptr")]
        exact = ("table_ptr", "lse_ptr", "delta_ptr", "partial_ptr", "scores_ptr")
        types = dict.fromkeys(pointers, f"*{dtype}") | dict.fromkeys(exact, "*fp32")
        return compile_for_hopper(function, types, constants, pointers, num_warps=warps).stack

    sizes = kernels.Geometry(batch=8, height=28, width=36, heads=24, head_dim=32, side=12, shift=6)
    half = dtype == "bf16"
    single = None if half else backward_kernels.GRADIENTS_32
    plans = {
        kernels.forward_kernel: kernels.FORWARD if half else kernels.FORWARD_32,
        backward_kernels.query_gradients_kernel: single or backward_kernels.QUERY_GRADIENTS,
        backward_kernels.key_gradients_kernel: single or backward_kernels.KEY_GRADIENTS,
    }
    most = 128 if half else 1152  # a float32 is two numbers of TF32
    for function, plan in plans.items():
        constants = sizes.constants(plan, torch.bfloat16 if half else torch.float32)
        assert stack(function, constants, plan.warps) <= most
    assert stack(backward_kernels.table_gradient_kernel, {"SIDE": 12, "WIDTH": 16}, 4) == 0
