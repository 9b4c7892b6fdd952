"""Tiny datasets in the true folder formats, for tests. Every pixel is drawn from a seed."""

from pathlib import Path

import cv2
import numpy as np
import scipy.io

SIZE = (24, 32)
PALETTE_CLASSES = (0, 5, 20, 255)


def encode_normals(normals: np.ndarray) -> np.ndarray:
    """``(h, w, 3)`` unit vectors → ``(h, w, 3)`` uint8 RGB."""
    return np.round((normals + 1) / 2 * 255).astype(np.uint8)


def write_png(path: Path, image: np.ndarray) -> None:
    """Write ``(h, w)`` or RGB ``(h, w, 3)`` uint8."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image[..., ::-1] if image.ndim == 3 else image)


def draw_normals(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Random unit vectors ``(h, w, 3)``."""
    normals = rng.normal(size=(*size, 3))
    return normals / np.linalg.norm(normals, axis=-1, keepdims=True)


def draw_blocks(rng: np.random.Generator, classes: int, size: tuple[int, int]) -> np.ndarray:
    """A map ``(h, w)`` uint8 of blocks of random classes, the first of class 0."""
    coarse = rng.integers(0, classes, (4, 4), dtype=np.uint8)
    coarse[0, 0] = 0
    return cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_NEAREST)


def write_list(path: Path, names: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name}\n" for name in names))


def write_nyud(root: Path, train: int = 6, val: int = 3, size: tuple[int, int] = SIZE) -> Path:
    """Write an NYUDv2 folder of all four tasks; ids count through both splits from 0001."""
    rng = np.random.default_rng(0)
    names = [f"{i + 1:04d}" for i in range(train + val)]
    write_list(root / "gt_sets/train.txt", names[:train])
    write_list(root / "gt_sets/val.txt", names[train:])
    (root / "depth").mkdir(parents=True)
    for name in names:
        write_png(root / f"images/{name}.png", rng.integers(0, 256, (*size, 3), dtype=np.uint8))
        write_png(root / f"segmentation/{name}.png", draw_blocks(rng, 41, size))
        write_png(root / f"normals/{name}.png", encode_normals(draw_normals(rng, size)))
        write_png(root / f"edge/{name}.png", 255 * rng.integers(0, 2, size, dtype=np.uint8))
        np.save(root / f"depth/{name}.npy", rng.uniform(0.5, 10, size).astype(np.float32))
    return root


def write_parts(path: Path, objects: list[tuple[int, list[tuple[str, np.ndarray]]]]) -> None:
    """Write a PASCAL-Part annotation: objects of a class number and (name, mask (h, w)) parts."""

    def records(items: list[dict], names: tuple[str, ...]) -> np.ndarray:
        array = np.zeros((1, len(items)), dtype=[(name, object) for name in names])
        for i, item in enumerate(items):
            for name in names:
                array[0, i][name] = item[name]
        return array

    things = [
        {
            "class": "person" if number == 15 else "car",
            "class_ind": number,
            "mask": np.zeros((1, 1), np.uint8),
            "parts": records([{"part_name": n, "mask": m.astype(np.uint8)} for n, m in parts], ("part_name", "mask")),
        }
        for number, parts in objects
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    anno = {"imname": path.stem, "objects": records(things, ("class", "class_ind", "mask", "parts"))}
    scipy.io.savemat(path, {"anno": anno}, do_compression=True)


def write_pascal(root: Path, train: int = 6, val: int = 3, size: tuple[int, int] = SIZE) -> Path:
    """Write a PASCALContext folder of all five tasks; every third image shows nobody."""
    rng = np.random.default_rng(0)
    names = [f"2008_{i:06d}" for i in range(train + val)]
    write_list(root / "ImageSets/Context/train.txt", names[:train])
    write_list(root / "ImageSets/Context/val.txt", names[train:])
    (root / "JPEGImages").mkdir()
    (root / "pascal-context/trainval").mkdir(parents=True)
    for i, name in enumerate(names):
        photograph = cv2.GaussianBlur(rng.integers(0, 256, (*size, 3), dtype=np.uint8), (5, 5), 0)
        assert cv2.imwrite(str(root / f"JPEGImages/{name}.jpg"), photograph)
        write_png(
            root / f"semseg/VOC12/{name}.png", np.choose(draw_blocks(rng, 4, size), PALETTE_CLASSES).astype(np.uint8)
        )
        write_png(root / f"sal_distill/{name}.png", rng.integers(0, 256, size, dtype=np.uint8))
        write_png(root / f"normals_distill/{name}.png", encode_normals(draw_normals(rng, size)))
        labels = rng.choice(np.array([3, 4, 5, 459], np.uint16), (4, 4))
        labels = cv2.resize(labels, size[::-1], interpolation=cv2.INTER_NEAREST)
        scipy.io.savemat(root / f"pascal-context/trainval/{name}.mat", {"LabelMap": labels}, do_compression=True)
        mask = np.zeros(size, bool)
        mask[2:8, 3:9] = True
        person = [(15, [("head", mask), ("torso", np.roll(mask, 6, axis=0))])]
        write_parts(root / f"human_parts/{name}.mat", [(7, []), *(person if i % 3 else [])])
    return root


FOLDER_YAML = """
name: my_rooms
images: [images/{id}.jpg, images/{id}.png]
splits: {train: train.txt, val: lists/val.txt}
tasks:
  semseg:
    file: labels/{id}.png
    classes: [wall, floor, chair]
    offset: 1
    ignore: [0, 255]
    palette: ["#ff0000", [0, 255, 0], [0, 0, 255]]
  depth: {file: depth/{id}.png, scale: 1e-3, max: 20.0}
  normals: {file: normals/{id}.png, axes: [x, -y, -z]}
  edge: {from: semseg}
crop_size: [32, 64]
boundary_protocol: {max_dist: 0.02, thresholds: 9, suppress: false}
"""


def write_folder(root: Path, size: tuple[int, int] = (32, 48)) -> Path:
    """Write a folder of one's own: rooms in two folders, classes from 1, millimetres in 16 bits, OpenGL's normals."""
    rng = np.random.default_rng(0)
    names = [f"{room}/{i}" for room in ("attic", "hall") for i in range(3)]
    write_list(root / "train.txt", names[:4])
    write_list(root / "lists/val.txt", names[4:])
    (root / "dataset.yaml").write_text(FOLDER_YAML)
    for name in names:
        suffix = ".png" if name == "hall/0" else ".jpg"
        write_png(root / f"images/{name}{suffix}", rng.integers(0, 256, (*size, 3), dtype=np.uint8))
        write_png(root / f"labels/{name}.png", draw_blocks(rng, 4, size))
        write_png(root / f"depth/{name}.png", rng.integers(0, 9000, size, dtype=np.uint16))
        write_png(root / f"normals/{name}.png", encode_normals(draw_normals(rng, size)))
    return root
