"""The exponential moving average of a run's weights."""

from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor


class EMAWeightAveraging(WeightAveraging):
    """After each optimiser step the average moves by ``1 - decay`` of its distance to the weights.

    What does not change keeps its bits, and whole numbers, such as indices, are taken as they are: ``decay * average +
    (1 - decay) * weight`` would round both. Validations and checkpoints take the average for the weights. Its name is
    that of Lightning's class, whose state earlier checkpoints hold.

    Args:
        decay: between 0 and 1, such as 0.999.
    """

    def __init__(self, decay: float) -> None:
        def moved(average: Tensor, current: Tensor, count: Tensor) -> Tensor:
            return average.lerp(current, 1 - decay) if average.is_floating_point() else current

        super().__init__(avg_fn=moved)
