"""The four-direction selective scan as a module: parameters and their initial values around `mtmamba.scan.ss2d`."""

import math

import torch
from torch import Tensor, nn

from mtmamba import scan
from mtmamba.scan import DIRECTIONS


class SS2D(nn.Module):
    """2D selective scan: every map is read along four directions by an S6 with its own parameters, and summed.

    Args:
        tasks: T maps, each with its own parameters.
        dim: channels e of the scanned maps.
        dt_rank: rank r of the step size's projection.
        d_state: states N per channel.

    Shape: ``(T, B, H, W, dim) → (T, B, H, W, dim)``.
    Source: Lin et al., MTMamba, ECCV 2024, eqs. 10-12; D is used although the text omits it.
    """

    rounded = ("x_proj", "dt_weight")

    def __init__(self, tasks: int, dim: int, dt_rank: int, d_state: int = 16) -> None:
        super().__init__()
        self.backend = "auto"
        heads = (tasks, DIRECTIONS)
        self.x_proj = nn.Parameter(torch.empty(*heads, dt_rank + 2 * d_state, dim).uniform_(-(dim**-0.5), dim**-0.5))
        self.dt_weight = nn.Parameter(torch.empty(*heads, dim, dt_rank).uniform_(-(dt_rank**-0.5), dt_rank**-0.5))
        step = torch.empty(*heads, dim).uniform_(math.log(1e-3), math.log(1e-1)).exp().clamp(min=1e-4)
        self.dt_bias = nn.Parameter(step + torch.log(-torch.expm1(-step)))  # softplus(dt_bias) = step
        self.A_log = nn.Parameter(torch.arange(1.0, d_state + 1).log().expand(*heads, dim, d_state).clone())
        self.D = nn.Parameter(torch.ones(*heads, dim))

    def forward(self, x: Tensor, source: Tensor | None = None, beside: "SS2D | None" = None) -> Tensor:
        """Scan ``x``; step sizes, B and C come from ``source`` where given (MTMamba++), else from ``x``.

        With ``beside``, the maps that ``x`` has after the first T are scanned as ``beside`` would, at the same time.
        """
        parameters = self._parameters_in_order()
        if beside is not None:
            parameters = tuple(torch.cat(pair) for pair in zip(parameters, beside._parameters_in_order(), strict=True))
        return scan.ss2d(x, *parameters, source=source, backend=self.backend)

    def _parameters_in_order(self) -> tuple[Tensor, ...]:
        return self.x_proj, self.dt_weight, self.dt_bias, self.A_log, self.D
