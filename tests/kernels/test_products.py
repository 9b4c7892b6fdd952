"""Products of task layers in half precision, against float64's; their values in float64 are in `test_layers`."""

import pytest
import torch

from mtmamba.kernels.products import fuse, project, project_twice, weight_gradient
from triton_runs import gpu

T, N, C = 4, 6000, 64


def drawn(*shape, dtype=torch.float32, device="cpu"):
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape) + sum(shape))).to(device, dtype)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=gpu)])
@pytest.mark.parametrize("maps", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("tasks", [(), (3,)])
def test_gradients_of_weights_have_the_precision_of_the_weights(device, maps, dtype, tasks):
    dy, x = drawn(*tasks, N, 40, dtype=maps, device=device), drawn(*tasks, N, 24, dtype=maps, device=device)
    found, exact = weight_gradient(dy, x, dtype), dy.double().mT @ x.double()
    assert found.dtype == dtype
    assert found.is_contiguous()
    rounded = maps == torch.bfloat16 and (device, dtype) != ("cuda", torch.float32)  # as the product is there
    precision = 4e-3 if rounded else 5e-5 if torch.float32 in (maps, dtype) else 1e-12
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=precision * exact.abs().max().item())


def cases(dtype, device):
    """By name: a function of tensors, maps first."""
    x, skip, wide = (drawn(*shape, dtype=dtype, device=device) for shape in ((T, N, C), (N, C), (T, N, 2 * C)))
    weight, bias = drawn(T, 2 * C, C, device=device), drawn(T, C, device=device)
    return {
        "project": (project, [x, weight]),
        "project, one map": (project, [x[:1], weight]),
        "project and add": (project, [x, weight, wide]),
        "project twice": (project_twice, [x, weight, weight.flip(1)]),
        "fuse": (fuse, [x, skip, weight.mT.contiguous(), bias]),
    }


def results(function, tensors):
    """All results, and the gradients of all tensors."""
    tensors = [t.detach().requires_grad_() for t in tensors]
    y = function(*tensors)
    y = y if isinstance(y, tuple) else (y,)
    dy = [drawn(*part.shape).to(part) for part in y]
    return [*y, *torch.autograd.grad(y, tensors, [t.bfloat16().to(t) for t in dy])]


@pytest.mark.parametrize("name", cases(torch.float32, "cpu"))
def test_a_second_derivative_is_refused(name, monkeypatch):
    monkeypatch.setattr("mtmamba.kernels.products.on_cuda", lambda _: True)
    function, tensors = cases(torch.float64, "cpu")[name]
    tensors = [t.double().requires_grad_() for t in tensors]
    y = function(*tensors)
    total = y.sum() if isinstance(y, torch.Tensor) else sum(part.sum() for part in y)
    for gradient in torch.autograd.grad(total, tensors, create_graph=True):
        with pytest.raises(RuntimeError, match=r"first derivatives of the products .*: compute on a CPU"):
            gradient.sum().backward(retain_graph=True)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=gpu)])
@pytest.mark.parametrize("name", cases(torch.float32, "cpu"))
def test_maps_of_half_precision(name, device, monkeypatch):
    monkeypatch.setattr("mtmamba.kernels.products.on_cuda", lambda _: True)
    function, tensors = cases(torch.bfloat16, device)[name]
    found, exact = results(function, tensors), results(function, [t.double() for t in tensors])
    gradients = found[-len(tensors) :]
    assert [t.dtype for t in gradients] == [t.dtype for t in tensors]
    assert all(t.is_contiguous() for t in gradients)
    for one, other in zip(found, exact, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=0, atol=1e-2 * other.abs().max().item())
