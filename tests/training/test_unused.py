"""A parameter that one process's images leave unused ends all processes in one sentence."""

import os
from pathlib import Path

import pytest
import torch
from hydra.core.config_store import ConfigStore
from lightning.fabric.plugins.environments.lightning import find_free_network_port
from lightning.pytorch.utilities import rank_zero_only

import fake_training
from fake_data import write_nyud
from mtmamba.config_checks import ConfigError
from toy_network import ToyDecoder


class LoneDecoder(ToyDecoder):
    """Depth has a branch, which the second process uses in the first forward pass alone."""

    def __init__(self, channels, num_outputs):
        super().__init__(channels, num_outputs)
        self.branch, self.passes = torch.nn.Linear(channels[0], 1), 0

    def forward(self, features):
        logits, every = super().forward(features), sum(x.mean() for x in features)
        self.passes += self.training
        if os.environ["RANK"] == "0" or self.passes == 1:
            every = every + self.branch(features[0]).mean()
        return logits | {"depth": logits["depth"] + every}


STORE = ConfigStore.instance()
STORE.store("toy_lone", {"_target_": f"{__name__}.LoneDecoder", "_partial_": True}, group="decoder")


def trained(rank, port, dataset, folder):
    """Runs in one of two processes as a launcher starts them: of whole batches, and of two micro-batches each."""
    os.environ |= {"LOCAL_RANK": str(rank), "RANK": str(rank), "WORLD_SIZE": "2", "MASTER_PORT": str(port)}
    rank_zero_only.rank = rank  # which it had read as it was imported
    two = ["trainer.devices=2", "trainer.strategy=ddp", "trainer.val_check_interval=9", "callbacks.checkpoint_every=1"]
    for micro, step in ((2, 1), (1, 0)):
        expected = rf"got 2 without one at step {step}, such as model\.decoder\.branch\.bias: set trainer\.strategy="
        options = ["encoder=toy", "decoder=toy_lone", "pictures=0", f"data.device_batch_size={micro}"]
        with pytest.raises(ConfigError, match=expected):
            fake_training.run(dataset, folder / f"{micro}", *two, *options)


@pytest.mark.slow
def test_it_ends_both_processes_before_the_step(tmp_path: Path):
    dataset = write_nyud(tmp_path / "NYUDv2", train=10, val=2, size=(32, 48))
    torch.multiprocessing.spawn(trained, (find_free_network_port(), dataset, tmp_path), nprocs=2)
    assert sorted(path.name for path in tmp_path.glob("*/checkpoints/*")) == ["last.ckpt"]
