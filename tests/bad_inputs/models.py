# ruff: noqa: E501 - an input a line reads as a table
"""Checkpoints, the authors' files, and files of weights."""

import pickle
from os import mkfifo

import torch

from bad_inputs import TRAIN, cases, cut, device, instead, nothing, pipe, write

CKPT = "tiny.ckpt"
EVAL = "eval data.num_workers=0 trainer.accelerator=cpu"


class Payload:
    """What would run code when it is unpickled."""

    def __reduce__(self):
        return print, ("run",)


def changed(change):
    """Load the checkpoint, change it, and save it again."""

    def damage(f):
        content = torch.load(f / CKPT, weights_only=True)
        content = change(content) or content
        torch.save(content, f / CKPT)

    return damage


def with_value(key, value):
    """Set a value of the checkpoint by its keys."""

    def change(content):
        *path, last = key.split("/")
        for name in path:
            content = content[name]
        content[last] = value

    return changed(change)


def first_weight(make):
    def change(content):
        name, x = next((name, x) for name, x in content["state_dict"].items() if x.is_floating_point())
        content["state_dict"][name] = make(x)

    return changed(change)


def flipped(f):
    raw = bytearray((f / CKPT).read_bytes())
    raw[len(raw) // 2] ^= 4
    (f / CKPT).write_bytes(raw)


def torch_file(path, content):
    return lambda f: torch.save(content, f / path)


CHECKPOINTS = cases(
    f"{EVAL} ckpt={CKPT}",
    {
        "no such file": (lambda f: (f / CKPT).unlink(), "Expected a checkpoint, or a run's folder"),
        "an empty file": (write(CKPT, b""), "tiny.ckpt, which holds something else or is damaged"),
        "cut off": (cut(CKPT, -1000), "tiny.ckpt"),
        "a flipped bit": (flipped, "tiny.ckpt"),
        "text": (write(CKPT, "no checkpoint"), "tiny.ckpt, which holds something else or is damaged"),
        "a pickle that would run code": (lambda f: write(CKPT, pickle.dumps(Payload()))(f), "tiny.ckpt, which holds something else"),
        "a PyTorch file that would run code": (torch_file(CKPT, {"state_dict": Payload()}), "tiny.ckpt, which holds something else"),
        "a folder without checkpoints": (nothing, "got rooms/checkpoints/last.ckpt, no such file: check", "ckpt=rooms"),
        "a pipe": (pipe(CKPT), "tiny.ckpt, a pipe"),
        "a device": (instead(CKPT, device), "tiny.ckpt, a device"),
        "a link that leads nowhere": (instead(CKPT, lambda path: path.symlink_to("gone")), "tiny.ckpt"),
        "a bare state dict": (changed(lambda c: c["state_dict"]), "without its description"),
        "a list": (torch_file(CKPT, [1, 2]), "without its description"),
        "no weights": (with_value("state_dict", {}), "tiny.ckpt"),
        "weights that are a list": (with_value("state_dict", [1]), "Expected state_dict of the checkpoint"),
        "weights with NaN": (first_weight(lambda x: x * float("nan")), "got NaN or infinity for"),
        "complex weights": (first_weight(lambda x: x.to(torch.complex64)), "got torch.complex64 for"),
        "integer weights": (first_weight(lambda x: x.int()), "it is of another network"),
        "weights of another shape": (first_weight(lambda x: x[None]), "it is of another network"),
        "no step": (with_value("global_step", None), "Expected global_step of the checkpoint"),
        "no choices": (with_value("mtmamba", {"values": {}}), "Expected mtmamba.choices of the checkpoint"),
        "an encoder that there is not": (with_value("mtmamba/choices/encoder", "swin_nano"), "swin_nano"),
        "a path as a choice": (with_value("mtmamba/choices/encoder", "../../etc"), "do not trust this file"),
        "an environment variable": (with_value("mtmamba/values/seed", "${oc.env:HOME}"), "do not trust this file"),
        "a class to build": (with_value("mtmamba/values/encoder", {"_target_": "os.system"}), "do not trust this file"),
        "text as a size": (with_value("mtmamba/values/data/crop_size", "large"), "crop_size"),
        "text for a list of numbers": (with_value("mtmamba/values/encoder/depths", "deep"), "encoder.depths"),
        "a network that no memory holds": (with_value("mtmamba/values/encoder/embed_dim", 12 * 10**12), "settings of a network in the checkpoint tiny.ckpt"),
    },
)  # fmt: skip

SOURCE = "released.pth.tar"
RELEASED = cases(
    f"import_checkpoint source={SOURCE}",
    {
        "no such file": (nothing, "authors' checkpoint at released.pth.tar, got no such file"),
        "an empty file": (write(SOURCE, b""), "released.pth.tar, which cannot be read"),
        "a web page": (write(SOURCE, "<html>Quota exceeded</html>"), "released.pth.tar, which cannot be read"),
        "a pickle that would run code": (lambda f: write(SOURCE, pickle.dumps(Payload()))(f), "released.pth.tar, which cannot be read"),
        "a bare state dict": (torch_file(SOURCE, {"a.weight": torch.ones(2)}), "released.pth.tar"),
        "numbers under model": (torch_file(SOURCE, {"model": {"a": 1}}), "released.pth.tar"),
        "another program's tensors": (torch_file(SOURCE, {"model": {"conv1.weight": torch.ones(3, 3)}}), "released.pth.tar"),
        "a checkpoint of ours": (nothing, "which is one of this program already", "source=tiny.ckpt output=new.ckpt"),
        "an output that is there": (torch_file(SOURCE, {"model": {}}), "Expected no file at tiny.ckpt, got one", "output=tiny.ckpt"),
        "an output that is the source": (torch_file(SOURCE, {"model": {}}), "Expected output to differ from source", f"output={SOURCE}"),
        "a pipe": (lambda f: mkfifo(f / SOURCE), "released.pth.tar, got a pipe"),
        "a device": (lambda f: device(f / SOURCE), "released.pth.tar, got a device"),
    },
)  # fmt: skip

FILE = "weights.pth"
WEIGHTS = cases(
    f"{TRAIN} encoder.weights={FILE}",
    {
        "no such file": (nothing, "a file of weights at weights.pth, got no such file"),
        "an empty file": (write(FILE, b""), "weights.pth cannot be read"),
        "text": (write(FILE, "no weights"), "weights.pth cannot be read"),
        "text as safetensors": (write("weights.safetensors", "no weights"), "weights.safetensors cannot be read", "encoder.weights=weights.safetensors"),
        "a pickle that would run code": (lambda f: write(FILE, pickle.dumps(Payload()))(f), "weights.pth cannot be read"),
        "a list": (torch_file(FILE, [1]), "dict of tensors in weights.pth"),
        "an empty dict": (torch_file(FILE, {}), "dict of tensors in weights.pth"),
        "another network's": (torch_file(FILE, {"model": {"conv1.weight": torch.ones(3, 3)}}), "tensors of this encoder in weights.pth, got 1 of which 0 match by name"),
        "a name that timm does not know": (nothing, "got encoder.name=swin_nano", "encoder.weights=null encoder.pretrained=true encoder.name=swin_nano"),
        "a pipe": (lambda f: mkfifo(f / FILE), "weights.pth, got a pipe"),
        "a device": (lambda f: device(f / FILE), "weights.pth, got a device"),
    },
)  # fmt: skip
