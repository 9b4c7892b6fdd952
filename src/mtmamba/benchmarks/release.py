"""What the authors' release takes for some of our cases."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

CONDITIONS = "measured on one NVIDIA H200, torch 2.11, mamba-ssm 2.2.6; its training step ends in a mean of squares"
DEVICE = "H200"
"""These numbers are compared only with those of a device whose name contains this."""


class Measured(NamedTuple):
    """A measurement of the release."""

    ms: float
    peak_gib: float | None = None


RELEASE: Mapping[str, Measured] = MappingProxyType(
    {
        "train_nyud_b8_float32": Measured(1787, 128),
        "train_nyud_b8_tf32": Measured(1282, 128),
        "train_nyud_b8_bf16": Measured(1261, 99),
        "train_nyud_b1_float32": Measured(254, 18),
        "train_nyud_b1_bf16": Measured(221, 17),
        "train_pascal_b8_bf16": Measured(1503, 120),
        "infer_nyud_b8_float32": Measured(534),
        "infer_nyud_b8_tf32": Measured(390),
        "infer_nyud_b8_bf16": Measured(403),
        "infer_nyud_b1_float32": Measured(78),
        "infer_nyud_b1_bf16": Measured(75),
        "infer_pascal_b8_bf16": Measured(516),
        "ss2d_t1_1536_28x36_b1_float32_forward": Measured(0.53),
        "ss2d_t1_1536_28x36_b1_float32_backward": Measured(2.95),
        "ss2d_t1_1536_28x36_b8_float32_forward": Measured(3.23),
        "ss2d_t1_1536_28x36_b8_float32_backward": Measured(10.4, 1.2),
        "ss2d_t1_768_56x72_b1_float32_forward": Measured(0.93),
        "ss2d_t1_768_56x72_b1_float32_backward": Measured(3.48),
        "ss2d_t1_768_56x72_b8_float32_forward": Measured(6.10),
        "ss2d_t1_768_56x72_b8_float32_backward": Measured(22.5, 2.5),
        "ss2d_t1_384_112x144_b1_float32_forward": Measured(1.45),
        "ss2d_t1_384_112x144_b1_float32_backward": Measured(6.13),
        "ss2d_t1_384_112x144_b8_float32_forward": Measured(13.6),
        "ss2d_t1_384_112x144_b8_float32_backward": Measured(51.9, 5.0),
    }
)
"""What is timed, by the case's name; ``backward`` is forward and backward together."""
