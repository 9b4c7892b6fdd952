"""Networks wholly in half precision: images are rounded with them, targets are not."""

from typing import Any

from lightning.pytorch.plugins.precision import HalfPrecision


class HalfNetwork(HalfPrecision):
    """Lightning's precision of ``bf16-true`` and ``16-true``, but for targets, which stay as they are.

    Eight bits of mantissa would round 9.9 metres by up to 3 cm.
    """

    def convert_input(self, data: Any) -> Any:
        """Round images: a batch's, or ones that stand alone."""
        if isinstance(data, dict):
            return {**data, "image": super().convert_input(data["image"])}
        return super().convert_input(data)
