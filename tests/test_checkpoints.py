"""Checkpoint files: what is refused, and that nothing of a stranger's is carried out or written to."""

import copy
import json
import os

import pytest
import torch

import mtmamba
from mtmamba import build, restore
from mtmamba.checkpoints import (
    CheckpointError,
    glance,
    read_checkpoint,
    save_checkpoint,
)
from mtmamba.config import compose
from mtmamba.config.checks import ConfigError
from mtmamba.places import find_checkpoint


@pytest.fixture(scope="module")
def module():
    return build.build_module(mtmamba.load_config(["tasks=[depth]"]))


@pytest.fixture(scope="module")
def content(module):
    description = compose.describe(mtmamba.load_config(["tasks=[depth]"]))
    return {"mtmamba": description, "state_dict": module.state_dict(), "global_step": 1}


def write(folder, content, name="odd.ckpt"):
    save_checkpoint(content, folder / name)
    return folder / name


def test_what_was_written_is_read(tmp_path, content):
    again = read_checkpoint(write(tmp_path, content))
    assert all(torch.equal(x, content["state_dict"][name]) for name, x in again["state_dict"].items())
    assert glance(tmp_path / "odd.ckpt")["mtmamba"] == content["mtmamba"]


def test_a_flipped_bit_is_found(tmp_path, content):
    path = write(tmp_path, content)
    raw = bytearray(path.read_bytes())
    for place in range(len(raw) // 3, len(raw) - 4096, len(raw) // 7):
        broken = raw.copy()
        broken[place] ^= 4
        (tmp_path / "flipped.ckpt").write_bytes(broken)
        with pytest.raises(CheckpointError, match=r"flipped\.ckpt"):
            read_checkpoint(tmp_path / "flipped.ckpt")


def test_a_file_that_ends_early_is_refused(tmp_path, content):
    path = write(tmp_path, content)
    raw = path.read_bytes()
    for size in (0, 100, len(raw) // 2, len(raw) - 1):
        path.write_bytes(raw[:size])
        with pytest.raises(CheckpointError, match=r"odd\.ckpt"):
            read_checkpoint(path)


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("global_step", None, "Expected global_step of the checkpoint .* to be of type int, got NoneType"),
        ("global_step", True, "got bool"),
        ("global_step", -1, "Expected a step of at least 0"),
        ("threads", "2", "Expected threads of the checkpoint .* to be of type int, got str"),
        ("threads", 0, "Expected a number of threads from 1 to 4096 in the checkpoint .*, got 0"),
        ("threads", 4097, "Expected a number of threads from 1 to 4096 in the checkpoint .*, got 4097"),
        ("state_dict", [1], "Expected state_dict .* of type dict, got list"),
        ("mtmamba", 3, "Expected mtmamba .* of type dict, got int"),
        ("mtmamba", {"values": {}}, r"Expected mtmamba\.choices .* got NoneType"),
        ("mtmamba", {"choices": {}, "values": 1}, r"Expected mtmamba\.values .* got int"),
        ("callbacks", [], "Expected callbacks .* of type dict, got list"),
        ("optimizer_states", {}, "Expected optimizer_states .* of type list, got dict"),
    ],
)
def test_wrong_parts_are_named_with_the_file(tmp_path, content, part, value, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        read_checkpoint(write(tmp_path, content | {part: value}))
    assert "odd.ckpt" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda x: torch.full_like(x, float("nan")), "NaN or infinity"),
        (lambda x: x.to(torch.complex64), r"torch\.complex64"),
        (lambda x: 3.0, "float"),
        (lambda x: x.to(torch.float8_e4m3fn), r"torch\.float8_e4m3fn"),
        (lambda x: x.to_sparse(), r"a tensor of torch\.sparse_coo on cpu"),
        (lambda x: x.to("meta"), r"a tensor of torch\.strided on meta"),
        (lambda x: torch.zeros(1).expand(10**12), "1000000000000 numbers of which most are not there"),
    ],
)
def test_weights_that_are_no_finite_real_tensors_are_refused(tmp_path, content, change, found):
    name = next(reversed(content["state_dict"]))
    state = dict(content["state_dict"]) | {name: change(content["state_dict"][name])}
    with pytest.raises(CheckpointError, match=f"got {found} for {name}"):
        read_checkpoint(write(tmp_path, content | {"state_dict": state}))


def test_weights_of_another_network_are_named(tmp_path, content):
    name = next(iter(content["state_dict"]))
    for value, found in ((torch.zeros(3), r"\(3,\) real"), (content["state_dict"][name].long(), "whole")):
        path = write(tmp_path, content | {"state_dict": dict(content["state_dict"]) | {name: value}})
        with pytest.raises(CheckpointError, match=f"Expected {name.removeprefix('model.')} to be .*, got .*{found}"):
            mtmamba.load_model(path)
    path = write(tmp_path, content | {"state_dict": {k: v for k, v in content["state_dict"].items() if k != name}})
    with pytest.raises(CheckpointError, match="got none: it is of another network"):
        mtmamba.load_model(path)


def test_other_contents_are_told_from_a_checkpoint_with_parts_missing(tmp_path, content):
    for odd in ([1], {"state_dict": {}}, {"mtmamba": {}}):
        torch.save(odd, tmp_path / "odd.ckpt")
        with pytest.raises(CheckpointError, match=r"odd\.ckpt without its description"):
            glance(tmp_path / "odd.ckpt")
    with pytest.raises(CheckpointError, match="Expected global_step"):
        glance(write(tmp_path, {name: content[name] for name in ("mtmamba", "state_dict")}))


class Payload:
    """Would leave a file behind, were it unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_code_in_a_checkpoint_is_not_run(tmp_path, content):
    path = write(tmp_path, content | {"callbacks": {"odd": Payload(tmp_path / "done")}})
    for read in (glance, read_checkpoint):
        with pytest.raises(CheckpointError, match="holds something else or is damaged"):
            read(path)
    assert not (tmp_path / "done").exists()


def test_a_run_means_its_best_checkpoint_before_its_last(tmp_path):
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    last, best = (tmp_path / "run/checkpoints" / name for name in ("last.ckpt", "best.ckpt"))
    for path in (tmp_path, tmp_path / "run", last):
        with pytest.raises(FileNotFoundError, match="Expected a checkpoint, or a run's folder"):
            find_checkpoint(path)
    os.mkfifo(last)  # which would be read for ever
    for path in (tmp_path / "run", last):
        with pytest.raises(FileNotFoundError, match=r"got .*run/checkpoints/last.ckpt, a pipe: check"):
            find_checkpoint(path)
    last.unlink()
    last.touch()
    assert find_checkpoint(tmp_path / "run") == find_checkpoint(last) == last
    best.mkdir()
    with pytest.raises(FileNotFoundError, match=r"got .*run/checkpoints/best.ckpt, a folder: check"):
        find_checkpoint(tmp_path / "run")
    best.rmdir()
    best.touch()
    assert find_checkpoint(tmp_path / "run") == best
    assert find_checkpoint(tmp_path / "run", "last.ckpt") == last


def test_nothing_of_a_checkpoint_is_interpolated(content, monkeypatch):
    monkeypatch.setenv("SECRET", "hidden")
    for place in (("choices", "experiment"), ("choices", "decoder"), ("values", "label")):
        description = copy.deepcopy(content["mtmamba"])
        description[place[0]][place[1]] = "${oc.env:SECRET}"
        with pytest.raises(ConfigError, match="do not trust this file"):
            restore.config_of(description)


def test_no_place_of_a_checkpoint_is_written_to(content, tmp_path):
    description = json.loads(json.dumps(content["mtmamba"]))
    description["values"]["data"] |= {"root": f"{tmp_path}/foreign", "cache_dir": f"{tmp_path}/foreign"}
    cfg = restore.config_of(description, {"cache_dir": f"{tmp_path}/mine"})
    assert cfg.data.cache_dir == f"{tmp_path}/mine"
    assert cfg.data.root.startswith(f"{tmp_path}/mine/scenes/rooms_480_64_")
    description["values"]["data"]["scenes"]["train"] = "/../../elsewhere"
    with pytest.raises(ConfigError, match=r"Expected numbers in data\.scenes"):
        restore.config_of(description)


def test_a_description_without_its_choices_says_which(content):
    description = copy.deepcopy(content["mtmamba"])
    del description["choices"]["decoder"], description["choices"]["loss"]
    with pytest.raises(ConfigError, match="name its decoder, loss"):
        restore.config_of(description)
    description = copy.deepcopy(content["mtmamba"])
    description["values"]["encoder"] = 3
    with pytest.raises(ConfigError, match="got other values for encoder"):
        restore.config_of(description)


def test_a_folders_name_is_no_yaml(content):
    """It passed through YAML, where `` #`` begins a comment and 007 is a number."""
    for name in ("/x/y #2", "007", "a: b"):
        assert restore.config_of(content["mtmamba"], {"data.root": name}).data.root == name


def test_an_optimiser_of_ones_own_is_not_needed_to_load_a_network(content):
    description = copy.deepcopy(content["mtmamba"])
    description["choices"]["optimizer"] = "somebodys"
    description["values"]["optimizer"] = {"opt": "lion", "lr": 3e-5}
    cfg = restore.config_of(description)
    assert cfg.choices.optimizer == "somebodys"
    assert compose.plain(cfg.optimizer) == {"opt": "lion", "lr": 3e-5}
    assert build.build_model(cfg)
