"""A loss that is not finite in one process ends all processes in one sentence, which names the images."""

import json
import os
from pathlib import Path

import pytest
import torch
from lightning.fabric.plugins.environments.lightning import find_free_network_port
from lightning.pytorch.utilities import rank_zero_only

import fake_training
import toy_network  # noqa: F401 - which registers encoder=toy
from fake_data import write_nyud
from mtmamba.training.lit_module import MultiTaskModule
from mtmamba.training.unused import STRATEGY
from mtmamba.training.watched_losses import NonFiniteLossError

CASES = {
    "whole": ["data.device_batch_size=2"],
    "micro": ["data.device_batch_size=1"],
    "balanced": ["data.device_batch_size=2", "loss=weighted", "balancing=upgrad"],
}


def trained(rank, port, dataset, folder):
    """Runs in one of two processes as a launcher starts them; one image's loss is infinite in the second step."""
    os.environ |= {"LOCAL_RANK": str(rank), "RANK": str(rank), "WORLD_SIZE": "2", "MASTER_PORT": str(port)}
    rank_zero_only.rank = rank  # which it had read as it was imported
    losses = MultiTaskModule.task_losses

    def broken(self, logits, batch):
        found = losses(self, logits, batch)
        if not (self.training and self.global_step == 1 and rank == 1):
            return found
        return found | {"depth": found["depth"] / torch.arange(len(batch["id"]))}  # of the first image, infinity

    MultiTaskModule.task_losses = broken
    two = ["trainer.devices=2", f"trainer.strategy={STRATEGY}", "trainer.val_check_interval=9", "pictures=0"]
    said = []
    for name, options in CASES.items():
        with pytest.raises(NonFiniteLossError, match=r"for depth at step 1 on images \d{4}: look") as caught:
            fake_training.run(dataset, folder / name, *two, "encoder=toy", "decoder=toy", *options)
        said.append(str(caught.value))
    (folder / f"said{rank}").write_text("\n".join(said))


@pytest.mark.slow
def test_it_ends_both_processes_before_the_step(tmp_path: Path):
    dataset = write_nyud(tmp_path / "NYUDv2", train=10, val=2, size=(32, 48))
    torch.multiprocessing.spawn(trained, (find_free_network_port(), dataset, tmp_path), nprocs=2)
    first, second = ((tmp_path / f"said{rank}").read_text().splitlines() for rank in (0, 1))
    assert first == second
    for name, line in zip(CASES, first, strict=True):
        found = json.loads((tmp_path / name / "nonfinite_batch.json").read_text())
        assert (found["step"], found["tasks"]) == (1, ["depth"])
        assert f"on images {', '.join(found['images'])}:" in line
