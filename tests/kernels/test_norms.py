"""Layer norms fused with gates and rearranging against sums written out here, their kernels in Triton's interpreter."""

from functools import partial

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from mtmamba.kernels.blend import blend
from mtmamba.kernels.norm import gated_norm, joint_layer_norm, layer_norm
from triton_runs import DEVICE, ON_GPU, compiler, gpu, kernel, spilled

PRECISION = {torch.float32: 1e-5, torch.bfloat16: 1.6e-2, torch.float16: 2e-3}


def normed(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Equal to torch.nn.LayerNorm, written out for each task's parameters ``(T, C)``."""
    centred = x - x.mean(-1, keepdim=True)
    shape = (len(weight), *[1] * (x.ndim - 2), -1)
    normal = centred / ((centred**2).mean(-1, keepdim=True) + 1e-5).sqrt()
    return normal * weight.view(shape) + bias.view(shape)


def factors(scale: Tensor | None) -> Tensor | float:
    return 1.0 if scale is None else scale[:, :, None, None, None]


def written_upscale(x, weight, bias):
    tasks, batch, height, width, _ = x.shape
    pixels = normed(x.view(tasks, batch, height, width, 2, 2, -1), weight, bias)
    return pixels.permute(0, 1, 2, 4, 3, 5, 6).reshape(tasks, batch, 2 * height, 2 * width, -1)


def written_joint(x, weight, bias):
    return normed(torch.cat(list(x), dim=-1)[None], weight[None], bias[None])


def written_gated(x, weight, bias, both, scale):
    gate = both[..., x.shape[-1] :]
    return factors(scale) * normed(x, weight, bias) * gate / (1 + (-gate).exp())


def written_blend(features, both, own_weight, own_bias, shared_weight, shared_bias, scale):
    own, shared = features[:-1], features[-1:]
    g = 1 / (1 + (-both[..., own.shape[-1] :]).exp())
    return factors(scale) * (
        (1 - g) * normed(own, own_weight, own_bias) + g * normed(shared, shared_weight, shared_bias)
    )


def half(both: Tensor) -> Tensor:
    """The gates, as a projection to signal and gates leaves them: half of the channels."""
    return both[..., both.shape[-1] // 2 :]


def operator(x, weight, bias, gate=None, scale=None, upscale=1, joined=1):
    return torch.ops.mtmamba.layer_norm(x, weight, bias, gate, scale, upscale, joined)[0]


# Public function, its operator, and written out; sizes of the leaves, by (T, B, H, W, C)
FORMS = {
    "plain": (layer_norm, operator, normed, lambda *s: (s, (s[0], s[4]), (s[0], s[4]))),
    "upscale": (
        lambda *leaves: layer_norm(*leaves, upscale=2),
        lambda *leaves: operator(*leaves, upscale=2),
        written_upscale,
        lambda *s: ((*s[:4], 4 * s[4]), (s[0], s[4]), (s[0], s[4])),
    ),
    "joint": (
        joint_layer_norm,
        lambda x, *parameters: operator(x, *parameters, joined=len(x)),
        written_joint,
        lambda *s: (s, (s[0] * s[4],), (s[0] * s[4],)),
    ),
    "gated": (
        lambda x, weight, bias, both, scale: gated_norm(x, weight, bias, half(both), scale),
        lambda x, weight, bias, both, scale: operator(x, weight, bias, half(both), scale),
        written_gated,
        lambda *s: (s, (s[0], s[4]), (s[0], s[4]), (*s[:4], 2 * s[4])),
    ),
    "blend": (
        lambda features, both, *rest: blend(features, half(both), *rest),
        lambda features, both, *rest: torch.ops.mtmamba.blend(features, half(both), *rest)[0],
        written_blend,
        lambda *s: ((s[0] + 1, *s[1:]), (*s[:4], 2 * s[4]), *[(s[0], s[4])] * 2, *[(1, s[4])] * 2),
    ),
}
SCALED = ("gated", "blend")


def inputs(form: str, *shape: int, maps: torch.dtype, parameters: torch.dtype, scaled: bool = True) -> tuple:
    """Leaves, and what comes after them without a gradient."""
    generator = torch.Generator().manual_seed(sum(shape))
    leaves = []
    for size in FORMS[form][3](*shape):
        values = torch.randn(size, generator=generator, dtype=torch.float64) + 0.3
        leaves.append(values.to(DEVICE, maps if len(size) == 5 else parameters).requires_grad_())
    scale = torch.rand(shape[:2], generator=generator).to(DEVICE) if scaled else None
    return leaves, (scale,) if form in SCALED else ()


def results(function, leaves, rest) -> tuple[Tensor, ...]:
    """The result, and the gradients of all leaves for one of the result that is drawn."""
    y = function(*leaves, *rest)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y)
    return y.detach(), *torch.autograd.grad(y, leaves, dy)


def reference(form: str, leaves, rest, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """The same in float64, for a gradient of the result as ``dtype`` has it."""
    doubles = [leaf.detach().double().requires_grad_() for leaf in leaves]
    y = FORMS[form][2](*doubles, *rest)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.device, dtype)
    return y.detach(), *torch.autograd.grad(y, doubles, dy.double())


def assert_near(results, expected, precision: float) -> None:
    """Errors below ``precision`` of the largest value."""
    for result, wanted in zip(results, expected, strict=True):
        assert result.shape == wanted.shape
        torch.testing.assert_close(result.double(), wanted, rtol=0, atol=precision * wanted.abs().max().item())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1, 3), (3, 2, 4, 5, 6)])
def test_each_form_is_its_written_out_sums(form, shape, scaled):
    leaves, rest = inputs(form, *shape, maps=torch.float64, parameters=torch.float64, scaled=scaled)
    assert_near(results(FORMS[form][0], leaves, rest), reference(form, leaves, rest, torch.float64), 1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_parameters_may_be_more_precise_than_the_maps(form):
    leaves, rest = inputs(form, 2, 2, 3, 4, 8, maps=torch.bfloat16, parameters=torch.float32)
    found = results(FORMS[form][0], leaves, rest)
    assert [t.dtype for t in found] == [torch.bfloat16, *(leaf.dtype for leaf in leaves)]
    assert_near(found, reference(form, leaves, rest, torch.bfloat16), 3e-2)


def test_shapes_that_do_not_fit_are_refused():
    x, parameters, wide = torch.zeros(2, 1, 3, 4, 5), torch.zeros(2, 5), torch.zeros(2, 1, 3, 4, 10)
    with pytest.raises(ValueError, match=r"weight of shape \(2, 5\) for x of shape \(2, 1, 3, 4, 5\), got \(5, 2\)"):
        layer_norm(x, parameters.mT, parameters)
    with pytest.raises(ValueError, match=r"bias of shape \(10,\) .* got \(2, 5\)"):
        joint_layer_norm(x, parameters.flatten(), parameters)
    with pytest.raises(ValueError, match=r"gate of the shape of x, \(2, 1, 3, 4, 5\), got \(2, 1, 3, 4, 10\)"):
        gated_norm(x, parameters, parameters, wide)
    with pytest.raises(ValueError, match=r"like the gates, of shape \(1, 1, 3, 4, 10\), .* got \(2, 1, 3, 4, 5\)"):
        blend(x, wide[:1], parameters[:1], parameters[:1], parameters[:1], parameters[:1])
    with pytest.raises(ValueError, match=r"weight of shape \(1, 5\) for x of shape .* got \(2, 5\)"):
        blend(x, x[:1], parameters, parameters, parameters[:1], parameters[:1])


@kernel
@pytest.mark.parametrize("form", FORMS)
def test_kernel_refuses_a_second_derivative(form):
    leaves, rest = inputs(form, 2, 1, 2, 3, 4, maps=torch.float32, parameters=torch.float32)
    total = FORMS[form][1](*leaves, *rest).sum()
    for gradient in torch.autograd.grad(total, leaves, create_graph=True):
        with pytest.raises(
            RuntimeError, match=r"first derivatives of the .* kernel .*: compute in float64 or on a CPU"
        ):
            gradient.sum().backward(retain_graph=True)


class Operators(TorchDispatchMode):
    """Note the names of the operators called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.name())
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("device", "dtype", "autocast", "fused"),
    [
        ("cuda", torch.float32, False, True),
        ("cuda", torch.float32, True, True),
        ("cuda", torch.bfloat16, False, True),
        ("cuda", torch.float64, False, False),
        ("cpu", torch.float32, False, False),
        ("meta", torch.float32, False, False),
    ],
)
def test_the_kernels_serve_cuda_up_to_float32_in_autocasts_precision(form, device, dtype, autocast, fused):
    pytest.importorskip("triton")
    function, _, _, sizes = FORMS[form]
    torch.set_autocast_enabled("cuda", autocast)  # the context manager would ask for a device
    try:
        with FakeTensorMode(), Operators() as called:  # which needs no device
            shapes = sizes(2, 1, 3, 4, 5)
            leaves = [torch.empty(s, device=device, dtype=dtype if len(s) == 5 else torch.float32) for s in shapes]
            y = function(*leaves, *[torch.empty(2, 1, device=device)] * (form in SCALED))
    finally:
        torch.set_autocast_enabled("cuda", False)
    assert y.dtype == (torch.get_autocast_dtype("cuda") if autocast else dtype)
    with FakeTensorMode():
        assert y.shape == FORMS[form][2](*(torch.empty(s) for s in shapes), *[None] * (form in SCALED)).shape
    assert any(name.startswith("mtmamba::") for name in called.names) == fused
    assert ("aten::native_layer_norm" in called.names) != fused


@kernel
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", PRECISION)
def test_kernel_operator(form, dtype):
    shape = (5, 2, 37, 41, 200) if ON_GPU else (3, 2, 3, 5, 12)
    leaves, rest = inputs(form, *shape, maps=dtype, parameters=torch.float32)
    found = results(FORMS[form][1], leaves, rest)
    assert [t.dtype for t in found] == [dtype, *(leaf.dtype for leaf in leaves)]
    assert all(t.is_contiguous() for t in found)  # as compiled programs are told
    for result, wanted in zip(found, reference(form, leaves, rest, dtype), strict=True):
        precision = PRECISION[dtype] if result.ndim == 5 else 1e-5  # parameters': summed before anything is rounded
        assert_near([result], [wanted], precision)


@kernel
@pytest.mark.parametrize("form", FORMS)
def test_kernel_without_factors_and_with_other_strides(form):
    leaves, rest = inputs(form, 1, 2, 3, 4, 5, maps=torch.float32, parameters=torch.float32, scaled=False)
    strided = [leaf.detach().mT.contiguous().mT.requires_grad_() for leaf in leaves[:-2]] + leaves[-2:]
    assert_near(results(FORMS[form][1], strided, rest), reference(form, leaves, rest, torch.float32), 1e-5)


@kernel
@pytest.mark.parametrize("programs", [1, 4])  # of both tasks
def test_kernel_programs_share_the_rows_and_their_sums_add_up(programs):
    from mtmamba.kernels import blend_triton, norm_triton

    launch = norm_triton.Launch(elements=32, per_thread=1, programs=programs)  # tiles of four rows
    leaves, (scale,) = inputs("gated", 2, 1, 7, 5, 6, maps=torch.float32, parameters=torch.float32)
    x, weight, bias, both = (leaf.detach() for leaf in leaves)
    y, statistics = norm_triton.forward(x, weight, bias, half(both), scale, launch=launch)
    expected = reference("gated", leaves, (scale,), torch.float32)
    dy = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).to(x)
    dx, dgate, sums = norm_triton.backward(dy, x, weight, bias, statistics, half(both), scale, launch=launch)
    assert_near((y.view_as(x), dx, *sums, dgate), (*expected[:4], half(expected[4])), 1e-5)

    leaves, (scale,) = inputs("blend", 2, 1, 7, 5, 6, maps=torch.float32, parameters=torch.float32)
    features, both, *parameters = (leaf.detach() for leaf in leaves)
    y, statistics = blend_triton.forward(features, half(both), parameters, scale, launch)
    mixed, d_features, d_both, *d_parameters = reference("blend", leaves, (scale,), torch.float32)
    gradients = blend_triton.backward(dy, features, half(both), parameters, statistics, scale, launch)
    sums = torch.stack([torch.cat(d_parameters[::2]), torch.cat(d_parameters[1::2])])  # of own and shared norms
    assert_near((y, *gradients), (mixed, d_features, half(d_both), sums), 1e-5)


@kernel
def test_forward_passes_share_a_small_map_among_all_programs():
    """One image in a Swin-L's third stage, 28x36 pixels of 768 channels, and in the decoder's last, of four tasks."""
    from mtmamba.kernels import blend_triton, norm_triton

    assert [kernels.FORWARD.programs_for(28 * 36, 768) for kernels in (norm_triton, blend_triton)] == [1008, 1008]
    assert [kernels.BACKWARD.programs_for(28 * 36, 768) for kernels in (norm_triton, blend_triton)] == [32, 32]
    assert norm_triton.FORWARD.programs_for(112 * 144, 384, tasks=4) == 528


@kernel
@pytest.mark.parametrize("form", FORMS)
def test_kernel_operators_may_be_recomputed(form):
    leaves, rest = inputs(form, 2, 1, 3, 4, 6, maps=torch.float32, parameters=torch.float32)
    again = partial(checkpoint, FORMS[form][1], use_reentrant=False)
    for a, b in zip(results(again, leaves, rest), results(FORMS[form][1], leaves, rest), strict=True):
        assert torch.equal(a, b)


@kernel
def test_kernel_backward_pass_makes_no_zeros_for_the_statistics():
    leaves, rest = inputs("blend", 2, 1, 3, 4, 6, maps=torch.float32, parameters=torch.float32)
    features, gate = leaves[0], leaves[1].detach()[..., :6].requires_grad_()
    y, _ = torch.ops.mtmamba.blend(features, gate, *leaves[2:], *rest)
    with Operators() as called:
        torch.autograd.grad(y, (features, gate, *leaves[2:]), torch.ones_like(y))
    assert "mtmamba::blend_backward" in called.names
    assert not any("zero" in name for name in called.names)


@kernel
def test_kernel_operators_are_ones_that_compilers_understand():
    for form in ("gated", "blend"):
        leaves, (scale,) = inputs(form, 2, 1, 1, 2, 3, maps=torch.float32, parameters=torch.float32)
        if form == "gated":
            x, weight, bias, both = leaves
            torch.library.opcheck(torch.ops.mtmamba.layer_norm, (x, weight, bias, half(both.detach()), scale, 1, 1))
        else:
            features, both, *parameters = leaves
            arguments = (features, half(both.detach()), *parameters, scale)
            torch.library.opcheck(torch.ops.mtmamba.blend, arguments)


@gpu
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("compiled", [False, True])
def test_on_a_gpu_under_autocast_and_compiled(form, compiled):
    leaves, rest = inputs(form, 4, 2, 37, 41, 192, maps=torch.float32, parameters=torch.float32)
    function = torch.compile(FORMS[form][0], fullgraph=True) if compiled else FORMS[form][0]
    with torch.autocast("cuda", torch.bfloat16):
        runs = [results(function, leaves, rest) for _ in range(2)]
    assert runs[0][0].dtype == torch.bfloat16
    assert_near(runs[0], reference(form, leaves, rest, torch.bfloat16), 2e-2)
    assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True))


@pytest.mark.slow
@compiler
@pytest.mark.parametrize("channels", [96, 192, 384, 768, 1536])
def test_kernels_compile_for_hopper_without_spills(channels, tmp_path, monkeypatch):
    pytest.importorskip("triton")
    from mtmamba.kernels import blend_triton, norm_triton

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))

    plain = {"gate_ptr": None, "scale_ptr": None}
    no_gradient = {**plain, "dgate_ptr": None}
    for forms in ({"JOINED": 1, "UPSCALE": 1}, {"JOINED": 1, "UPSCALE": 2}, {"JOINED": 4, "UPSCALE": 1}):
        width = channels * forms["JOINED"] // 2 if forms["JOINED"] > 1 else channels
        assert spilled(norm_triton.forward_kernel, norm_triton.FORWARD, width, **forms, **plain) == 0
        assert spilled(norm_triton.backward_kernel, norm_triton.BACKWARD, width, **forms, **no_gradient) == 0
    gated = {"JOINED": 1, "UPSCALE": 1}
    assert spilled(norm_triton.forward_kernel, norm_triton.FORWARD, channels, **gated) == 0
    assert spilled(norm_triton.backward_kernel, norm_triton.GATED_BACKWARD, channels, **gated) == 0
    for tasks in (4, 5):
        assert spilled(blend_triton.forward_kernel, blend_triton.FORWARD, channels, T=tasks) == 0
        assert spilled(blend_triton.own_backward_kernel, blend_triton.BACKWARD, channels, T=tasks) == 0
        assert spilled(blend_triton.shared_backward_kernel, blend_triton.BACKWARD, channels, T=tasks) == 0
