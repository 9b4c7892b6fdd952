"""What each way to a gradient costs the processor, and what ``torch.compile`` makes of it: for docs/architecture.md.

    python tests/gradient_means.py

The kernels are stubs that allocate what a layer norm's would write: what is measured is PyTorch's part of a call.
"""

# ruff: noqa: T201 - a command
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

CALLS, RUNS = 300, 15


def launch(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), x.new_empty(2, 4, 64, dtype=torch.float32)


def launch_backward(dy: Tensor, x: Tensor, weight: Tensor, statistics: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(weight)


def add(x: Tensor, y: Tensor) -> Tensor:
    return x + 2 * y


def save(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs, output[1])
    ctx.set_materialize_grads(False)


def of_norm(backward: Callable[..., Any]) -> Callable[..., Any]:
    return lambda ctx, dy, _: backward(dy, *ctx.saved_tensors)


def of_sum(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor]:
    return dy, 2 * dy


def operators(make: Any, name: str) -> list[Any]:
    """`launch`, `launch_backward` and `add`, opaque to autograd."""
    made = [make(f"means::{name}_{f.__name__}", f, mutates_args=()) for f in (launch, launch_backward, add)]
    for operator, function in zip(made, (launch, launch_backward, add), strict=True):
        operator.register_fake(function)
    return made


def registered(make: Any) -> tuple[Any, Any]:
    """The norm and the sum by ``register_autograd``."""
    norm, backward, total = operators(make, make.__name__)
    norm.register_autograd(of_norm(backward), setup_context=save)
    total.register_autograd(of_sum)
    return norm, total


def functions(norm: Any, norm_backward: Any) -> tuple[Any, Any]:
    """The same by `torch.autograd.Function`."""

    class Norm(torch.autograd.Function):
        backward = staticmethod(of_norm(norm_backward))

        @staticmethod
        def forward(ctx: Any, *inputs: Tensor) -> tuple[Tensor, Tensor]:
            output = norm(*inputs)
            save(ctx, inputs, output)
            return output

    class Sum(torch.autograd.Function):
        forward = staticmethod(lambda ctx, x, y: add(x, y))
        backward = staticmethod(of_sum)

    return Norm.apply, Sum.apply


def cost(work: Callable[[], Any]) -> float:
    """Microseconds of the processor for a call, in the best of some runs."""
    runs = []
    for _ in range(RUNS):
        start = time.thread_time()
        for _ in range(CALLS):
            work()
        runs.append((time.thread_time() - start) / CALLS * 1e6)
    return min(runs)


def main() -> None:
    torch.set_num_threads(1)
    means = {
        "custom_op, register_autograd": registered(torch.library.custom_op),
        "triton_op, register_autograd": registered(torch.library.triton_op),
        "Function around custom_op": functions(*operators(torch.library.custom_op, "plain")[:2]),
        "Function": functions(launch, launch_backward),
    }
    leaves = [torch.zeros(4, 64, 8, requires_grad=True), torch.zeros(4, 8, requires_grad=True)]
    dy, x = torch.zeros(4, 64, 8), torch.ones((), requires_grad=True)
    for name, (norm, total) in means.items():
        with torch.no_grad():
            inference = cost(lambda norm=norm: norm(*leaves))
        training = cost(lambda norm=norm: torch.autograd.grad(norm(*leaves)[0], leaves, dy))
        torch.compiler.reset()
        y = torch.compile(lambda x, total=total: total(x, x), fullgraph=True, backend="aot_eager")(x)
        slope = torch.autograd.grad(y, x)[0].item()  # of x + 2 x
        print(f"{name:30} inference {inference:5.1f} us, training {training:6.1f} us, slope of x + 2 x {slope:.0f}")


if __name__ == "__main__":
    main()
