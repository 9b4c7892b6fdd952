"""How Lightning reads and writes this program's checkpoints."""

import torch

from mtmamba.training.checkpoint_io import AtomicCheckpointIO


def test_what_was_written_is_read_and_what_was_read_already_is_given_out_once(tmp_path):
    path = tmp_path / "some.ckpt"
    content = {"mtmamba": {"choices": {}, "values": {}}, "state_dict": {"x": torch.ones(2)}, "global_step": 3}
    AtomicCheckpointIO().save_checkpoint(content, str(path))
    assert [entry.name for entry in tmp_path.iterdir()] == ["some.ckpt"]
    known = {"global_step": 5}
    plugin = AtomicCheckpointIO({path: known})
    assert plugin.load_checkpoint(str(path)) is known
    assert plugin.load_checkpoint(path)["global_step"] == 3
    assert AtomicCheckpointIO({tmp_path / "other.ckpt": known}).load_checkpoint(path)["global_step"] == 3
