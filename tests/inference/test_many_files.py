"""Three hundred files of every kind and size in one call, two of them no images, one of 108 megapixels."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import mtmamba

ROOT = Path(__file__).parents[2]
SIZES = [(1, 1), (1, 7), (5, 1), (2, 500), (31, 33), (64, 48), (96, 64), (97, 65), (80, 200), (150, 120), (333, 70)]
SIZES += [(640, 480)]
"""Width and height."""
HUGE = (12000, 9000)
MEMORY = 5e9
"""Bytes that the process may take."""

MEASURED = """
import resource, runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    print("peak", 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


KINDS = {
    "baseline.jpg": {},
    "progressive.jpeg": {"progressive": True},
    "cmyk.jpg": {"mode": "CMYK"},
    "grey.jpg": {"mode": "L"},
    **{f"turned{i}.jpg": {"exif": exif(i)} for i in range(1, 9)},
    "rgb.png": {},
    "grey.png": {"mode": "L"},
    "palette.png": {"mode": "P"},
    "bits.png": {"mode": "1"},
    "deep.png": {"mode": "I;16"},
    "alpha.png": {"mode": "RGBA"},
    "grey alpha.png": {"mode": "LA"},
    "lossy.webp": {},
    "lossless.webp": {"mode": "RGBA", "lossless": True},
    "plain.tif": {},
    "packed.tiff": {"compression": "tiff_deflate"},
    "real.tif": {"mode": "F"},
    "still.gif": {"mode": "P"},
    "plain.bmp": {},
}


def write(path: Path, size: tuple[int, int], mode: str = "RGB", **options) -> None:
    """Write noise enlarged to a size."""
    noise = np.random.default_rng(sum(size)).integers(0, 256, (3, 4, 3), np.uint8)
    image = Image.fromarray(noise).resize(size)
    deep = {"I;16": lambda: np.asarray(image.convert("L")).astype(np.uint16) * 257}
    deep["F"] = lambda: np.asarray(image.convert("L"), np.float32) / 255
    path.parent.mkdir(parents=True, exist_ok=True)
    (Image.fromarray(deep[mode]()) if mode in deep else image.convert(mode)).save(path, **options)


@pytest.mark.slow
def test_three_hundred_files(tmp_path):
    torch.manual_seed(0)
    choices = ["data=nyud", "encoder=swin_micro", "encoder.pretrained=false", "data.crop_size=[64,96]"]
    mtmamba.save_pretrained(mtmamba.build_model(mtmamba.load_config(choices)), tmp_path / "model")
    source, wanted = tmp_path / "my photos", {}
    for i, size in enumerate(SIZES):
        for name, options in KINDS.items():
            path = source / f"série={i}/{name}"
            write(path, size, **options)
            turned = name.startswith("turned") and int(name[6]) > 4
            wanted[str(path)] = size[::-1] if turned else size
    write(source / "huge.jpg", HUGE)
    wanted[str(source / "huge.jpg")] = HUGE
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "green", "blue")]
    frames[0].save(source / "moving.gif", save_all=True, append_images=frames[1:])
    wanted[str(source / "moving.gif")] = (40, 30)
    whole = (source / "série=11/baseline.jpg").read_bytes()
    (source / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (source / "text.jpg").write_text("no image")
    assert len(wanted) + 2 >= 300

    call = ["src/predict.py", f"source={source}", f"ckpt={tmp_path}/model", f"save_dir={tmp_path}/out", "device=cpu"]
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *call], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr
    peak = int(done.stdout.split("peak ")[1])
    record = json.loads((tmp_path / "out/predictions.json").read_text(encoding="utf-8"))["predictions"]
    assert {Path(entry["source"]).name for entry in record if "error" in entry} == {"cut.jpg", "text.jpg"}
    good = {entry["source"]: entry for entry in record if "error" not in entry}
    assert good.keys() == wanted.keys()
    assert len({name for entry in good.values() for name in entry["files"]}) == 9 * len(good)
    Image.MAX_IMAGE_PIXELS = None
    for name, (width, height) in wanted.items():
        entry = good[name]
        assert (entry["width"], entry["height"]) == (width, height), name
        for file in entry["files"]:
            path = tmp_path / "out" / file
            if path.suffix == ".npy":
                assert np.load(path, mmap_mode="r").shape == (height, width), name
            elif path.suffix == ".png":
                with Image.open(path) as image:
                    assert image.size == (width, height), name
    assert peak < MEMORY, f"{peak / 1e9:.2f} GB"
