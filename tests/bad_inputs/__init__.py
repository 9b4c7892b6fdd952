"""Bad inputs: how each is made, what is called with it, and a part of the sentence that must come.

Every one lies in a fresh folder with sound inputs of all kinds beside it (`prepare`). The modules of this package hold
the catalogue, `tests/test_bad_inputs.py` the test.
"""

import os
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

import fake_data
import mtmamba
from mtmamba import build
from mtmamba.config import compose

TINY = "data.num_workers=0 data.crop_size=[32,64]"
NYUD = f"data=nyud data.root=NYUDv2 {TINY}"
TRAIN = f"train {NYUD} logger=csv trainer.accelerator=cpu"

Damage = Callable[[Path], Any]
Entry = tuple[Damage, str] | tuple[Damage, str, str]


class Case(NamedTuple):
    """A bad input.

    Attributes:
        words: what is wrong.
        call: a script and its arguments.
        damage: makes the input in a folder.
        says: a part of the sentence.
    """

    words: str
    call: str
    damage: Damage
    says: str

    @property
    def script(self) -> str:
        """The command's name."""
        return self.call.split()[0]


def cases(call: str, entries: dict[str, Entry]) -> list[Case]:
    """Return cases of one command; an entry's third part is added to its call."""
    return [Case(words, " ".join([call, *more]), damage, says) for words, (damage, says, *more) in entries.items()]


def prepare(folder: Path) -> None:
    """Write sound inputs of every kind: datasets, a checkpoint, predictions, a photograph."""
    fake_data.write_nyud(folder / "NYUDv2", train=3, val=2)
    fake_data.write_pascal(folder / "PASCALContext", train=3, val=2)
    fake_data.write_folder(folder / "rooms")
    cfg = mtmamba.load_config([*TINY.split(), "data=nyud", f"data.root={folder}/NYUDv2"])
    content = {
        "state_dict": build.build_module(cfg).state_dict(),
        "mtmamba": compose.describe(cfg),
        "global_step": 0,
    }
    torch.save(content, folder / "tiny.ckpt")
    (folder / "run/checkpoints").mkdir(parents=True)
    shutil.copy(folder / "tiny.ckpt", folder / "run/checkpoints/last.ckpt")
    rng = np.random.default_rng(0)
    for name in ("0004", "0005"):
        fake_data.write_png(folder / f"made/semseg/{name}.png", rng.integers(0, 40, fake_data.SIZE, dtype=np.uint8))
        fake_data.write_png(folder / f"made/edge/{name}.png", rng.integers(0, 256, fake_data.SIZE, dtype=np.uint8))
        normals = fake_data.encode_normals(fake_data.draw_normals(rng, fake_data.SIZE))
        fake_data.write_png(folder / f"made/normals/{name}.png", normals)
        (folder / "made/depth").mkdir(exist_ok=True)
        np.save(folder / f"made/depth/{name}.npy", rng.uniform(1, 9, fake_data.SIZE).astype(np.float32))
    fake_data.write_png(folder / "photo.png", rng.integers(0, 256, (*fake_data.SIZE, 3), dtype=np.uint8))


def nothing(_: Path) -> None:
    """Where the call alone is wrong."""


def remove(path: str) -> Damage:
    """Remove a file or a folder."""
    return lambda f: shutil.rmtree(f / path) if (f / path).is_dir() else (f / path).unlink()


def write(path: str, content: str | bytes) -> Damage:
    """Write a file of a text or of bytes."""
    data = content.encode() if isinstance(content, str) else content
    return lambda f: (f / path).write_bytes(data)


def cut(path: str, kept: int) -> Damage:
    """Keep a file's first bytes; a negative number leaves out the last."""
    return lambda f: (f / path).write_bytes((f / path).read_bytes()[:kept])


def instead(path: str, make: Callable[[Path], Any]) -> Damage:
    """Put something else in a file's place."""

    def damage(f: Path) -> None:
        (f / path).unlink()
        make(f / path)

    return damage


def link(path: str, target: str) -> Damage:
    """Put a link in a file's place."""
    return instead(path, lambda place: place.symlink_to(target))


def png(path: str, values: Any) -> Damage:
    """Write a PNG of ``(h, w)`` or ``(h, w, 3)``."""
    return lambda f: fake_data.write_png(f / path, np.asarray(values))


def npy(path: str, values: Any) -> Damage:
    """Write an array."""
    return lambda f: np.save(f / path, values)


def saved_as(path: str, kind: str) -> Damage:
    """Save the pixels of a file in another format, under its old name."""

    def damage(f: Path) -> None:
        with Image.open(f / path) as image:
            pixels = image.convert("RGB") if kind == "JPEG" else image.copy()
        pixels.save(f / path, format=kind)

    return damage


def bomb(width: int, height: int) -> bytes:
    """A PNG that claims a size, in some hundred bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = zlib.compress(bytes(10**5))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def device(path: Path) -> None:
    """A link to a device that has no end."""
    path.symlink_to("/dev/zero")


def pipe(path: str) -> Damage:
    """Put a pipe that nobody writes to in a file's place."""
    return instead(path, os.mkfifo)
