"""The average of a run's weights."""

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn

from mtmamba.training.averaging import EMAWeightAveraging

STEPS = 6


class Parts(LightningModule):
    """A weight that gradient descent moves by -1 each step, one that is frozen, indices and a constant."""

    def __init__(self):
        super().__init__()
        self.moving = nn.Parameter(torch.arange(5.0))
        self.frozen = nn.Parameter(torch.linspace(0.1, 3, 999), requires_grad=False)
        self.register_buffer("indices", torch.arange(300), persistent=False)
        self.register_buffer("constant", torch.linspace(-3, 0.1, 999), persistent=False)

    def training_step(self, batch, batch_idx):
        return self.moving.sum()

    def configure_optimizers(self):
        return torch.optim.SGD([self.moving], lr=1.0)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("decay", [0.9, 0.9999])
def test_the_average_of_what_moves_follows_and_all_else_stays(decay, tmp_path):
    module, first = Parts(), Parts()
    trainer = Trainer(
        max_steps=STEPS, accelerator="cpu", callbacks=[EMAWeightAveraging(decay)], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(module, torch.utils.data.DataLoader(range(STEPS)))
    expected = np.arange(5.0) - 1  # of the first step
    for step in range(2, STEPS + 1):
        expected = decay * expected + (1 - decay) * (np.arange(5.0) - step)
    np.testing.assert_allclose(module.moving.detach(), expected, rtol=1e-5)
    for name in ("frozen", "indices", "constant"):
        assert torch.equal(getattr(module, name), getattr(first, name)), name
