"""A network wholly in half precision: targets stay what they are, pictures are drawn, the checkpoint is evaluated."""

import dataclasses

import pytest
import torch

from fake_data import write_nyud
from fake_training import run
from mtmamba import restore
from mtmamba.tasks import get_task, register


@pytest.mark.parametrize("precision", ["bf16-true"])
def test_targets_are_not_rounded_with_the_network(tmp_path, precision):
    depth, seen = get_task("depth"), []

    def loss(logits, target):
        seen.append(target)
        return depth.loss(logits, target)

    register(dataclasses.replace(depth, loss=loss))
    try:
        options = (f"trainer.precision={precision}", "decoder=stm1", "trainer.max_steps=1", "pictures=1")
        run(write_nyud(tmp_path / "data", train=4, val=1), tmp_path / "run", *options)
    finally:
        register(depth)
    assert all(target.dtype == torch.float32 for target in seen)
    assert any((target != target.to(torch.bfloat16)).any() for target in seen)  # values that rounding would change
    assert list((tmp_path / "run/pictures").glob("*.png"))
    weights = restore.load_model(tmp_path / "run").state_dict()
    assert all((x == x.to(torch.bfloat16)).all() for name, x in weights.items() if name.startswith("decoder"))
