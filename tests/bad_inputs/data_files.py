# ruff: noqa: E501 - an input a line reads as a table
"""Images and labels."""

import numpy as np
import scipy.io

from bad_inputs import TRAIN, bomb, cases, cut, device, instead, link, npy, pipe, png, remove, saved_as, write
from fake_data import SIZE

PASCAL = TRAIN.replace("=nyud", "=pascal_context").replace("NYUDv2", "PASCALContext")
IMAGE, CLASSES, DEPTH = "NYUDv2/images/0002.png", "NYUDv2/segmentation/0002.png", "NYUDv2/depth/0002.npy"
NORMALS, EDGE = "NYUDv2/normals/0002.png", "NYUDv2/edge/0002.png"
MAP, PARTS = "PASCALContext/pascal-context/trainval/2008_000001.mat", "PASCALContext/human_parts/2008_000001.mat"
PHOTO = "PASCALContext/JPEGImages/2008_000001.jpg"


def mat(path, **values):
    return lambda f: scipy.io.savemat(f / path, values)


IMAGES = [
    *cases(
        TRAIN,
        {
            "no such file": (remove(IMAGE), "images/0002.png: missing"),
            "an empty file": (write(IMAGE, b""), "images/0002.png: expected a readable file"),
            "cut off within the header": (cut(IMAGE, 20), "images/0002.png: expected a readable file"),
            "cut off within the pixels": (cut(IMAGE, -40), "complete PNG or JPEG image in NYUDv2/images/0002.png"),
            "text": (write(IMAGE, "no image"), "images/0002.png: expected a readable file"),
            "WebP under the name of a PNG": (
                saved_as(IMAGE, "WEBP"),
                "images/0002.png: expected a readable file, got WEBP",
            ),
            "a folder": (instead(IMAGE, lambda path: path.mkdir()), "images/0002.png: expected a file, got a folder"),
            "a link that leads nowhere": (link(IMAGE, "gone.png"), "got a link to gone.png that leads nowhere"),
            "a link to itself": (link(IMAGE, "0002.png"), "got a link to 0002.png that leads nowhere"),
            "two links to each other": (
                lambda f: [link(IMAGE, "0003.png")(f), link("NYUDv2/images/0003.png", "0002.png")(f)],
                "got a link to 0003.png that leads nowhere",
            ),
            "a pipe": (pipe(IMAGE), "images/0002.png: expected a file, got a pipe"),
            "a device": (instead(IMAGE, device), "images/0002.png: expected a file, got a device"),
            "a PNG of 60000 x 60000 pixels": (write(IMAGE, bomb(60000, 60000)), "60000 x 60000 pixels, more than"),
            "a PNG of 10000 x 10000 pixels": (write(IMAGE, bomb(10000, 10000)), "got (24, 32)"),
            "another size than its labels": (png(IMAGE, np.ones((20, 32, 3), np.uint8)), "expected the image's size"),
            "pixels with wrong checksums": (
                lambda f: write(IMAGE, (b := (f / IMAGE).read_bytes())[:60] + bytes(400) + b[460:])(f),
                "NYUDv2/images/0002.png",
            ),
        },
    ),
    *cases(
        PASCAL,
        {
            "a JPEG cut off": (
                cut(PHOTO, -40),
                "complete PNG or JPEG image in PASCALContext/JPEGImages/2008_000001.jpg",
            ),
            "GIF under the name of a JPEG": (saved_as(PHOTO, "GIF"), "got GIF and not PNG or JPEG"),
            "a pipe for a JPEG": (pipe(PHOTO), "2008_000001.jpg: expected a file, got a pipe"),
        },
    ),
]

LABELS = [
    *cases(
        TRAIN,
        {
            "classes in JPEG under the name of a PNG": (saved_as(CLASSES, "JPEG"), "segmentation/0002.png: expected a readable file, got JPEG and not PNG"),
            "normals in JPEG under the name of a PNG": (saved_as(NORMALS, "JPEG"), "normals/0002.png: expected a readable file, got JPEG and not PNG"),
            "a class that there is not": (png(CLASSES, np.full(SIZE, 77, np.uint8)), "classes 0..40 in NYUDv2/segmentation/0002.png, got 77"),
            "classes in three channels": (png(CLASSES, np.ones((*SIZE, 3), np.uint8)), "one 8-bit channel"),
            "classes in 16 bits": (png(CLASSES, np.ones(SIZE, np.uint16)), "one 8-bit channel in NYUDv2/segmentation/0002.png, got uint16"),
            "classes of another size": (png(CLASSES, np.ones((9, 9), np.uint8)), "expected the image's size (24, 32), got (9, 9)"),
            "classes cut off": (cut(CLASSES, -20), "a complete PNG or JPEG image in NYUDv2/segmentation/0002.png"),
            "boundaries in grey": (png(EDGE, np.full(SIZE, 7, np.uint8)), "0 and 255 in NYUDv2/edge/0002.png, got the values [7]"),
            "boundaries behind a link that leads nowhere": (link(EDGE, "gone.png"), "edge/0002.png: expected a file, got a link"),
            "depth missing": (remove(DEPTH), "depth/0002.npy: missing (train, for depth)"),
            "depth cut off": (cut(DEPTH, -8), "a complete .npy array in NYUDv2/depth/0002.npy"),
            "depth that is a PNG": (lambda f: write(DEPTH, (f / EDGE).read_bytes())(f), "depth/0002.npy: expected a readable file"),
            "depth of rank 1": (npy(DEPTH, np.ones(24 * 32, np.float32)), "depth/0002.npy: expected the image's size (24, 32), got (768,)"),
            "depth of rank 3, channels first": (npy(DEPTH, np.ones((1, *SIZE), np.float32)), "depth/0002.npy: expected the image's size (24, 32), got (1, 24, 32)"),
            "depth of rank 3, channels last": (npy(DEPTH, np.ones((*SIZE, 1), np.float32)), "a float array (h, w) in NYUDv2/depth/0002.npy, got float32 (24, 32, 1)"),
            "depth that is one number": (npy(DEPTH, np.float32(1)), "depth/0002.npy: expected the image's size (24, 32), got ()"),
            "depth without rows": (npy(DEPTH, np.ones((0, 32), np.float32)), "got (0, 32)"),
            "depth in whole numbers": (npy(DEPTH, np.ones(SIZE, np.int32)), "a float array (h, w) in NYUDv2/depth/0002.npy, got int32"),
            "depth of Python objects": (npy(DEPTH, np.full(SIZE, None)), "a complete .npy array in NYUDv2/depth/0002.npy"),
            "depth in millimetres": (npy(DEPTH, np.full(SIZE, 1500.0)), "depths within 0..100 metres in NYUDv2/depth/0002.npy, got 1500..1500"),
            "negative depth": (npy(DEPTH, np.full(SIZE, -1.0)), "got -1..-1"),
            "depth with NaN": (npy(DEPTH, np.full(SIZE, np.nan)), "got nan..nan"),
            "a pipe for depth": (pipe(DEPTH), "depth/0002.npy: expected a file, got a pipe"),
            "normals in one channel of another size": (png(NORMALS, np.ones((24, 30), np.uint8)), "got (24, 30)"),
        },
    ),
    *cases(
        PASCAL,
        {
            "a LabelMap that is no MATLAB file": (write(MAP, b"no"), "a MATLAB file with LabelMap in"),
            "a LabelMap under another name": (mat(MAP, labels=np.ones(SIZE)), "a MATLAB file with LabelMap in"),
            "a LabelMap that is a number": (mat(MAP, LabelMap=3), "a LabelMap (h, w) in"),
            "a LabelMap of text": (mat(MAP, LabelMap="no"), "a LabelMap (h, w) in"),
            "a LabelMap without rows": (mat(MAP, LabelMap=np.ones((0, 4))), "a LabelMap (h, w) in"),
            "a LabelMap of another size": (mat(MAP, LabelMap=np.ones((9, 9), np.uint16)), "size"),
            "a LabelMap beyond its classes": (mat(MAP, LabelMap=np.full(SIZE, 460)), "LabelMap ids 0..459"),
            "a pipe for a LabelMap": (pipe(MAP), "got a pipe"),
            "anno that is a number": (mat(PARTS, anno=3), "objects with class_ind and parts"),
            "anno that is text": (mat(PARTS, anno="no"), "objects with class_ind and parts"),
            "anno with objects that are numbers": (mat(PARTS, anno={"objects": [1, 2]}), "objects with class_ind and parts"),
            "anno with a part that there is not": (mat(PARTS, anno={"objects": {"class_ind": 15, "parts": {"part_name": "wing", "mask": np.ones(SIZE)}}}), "got 'wing'"),
            "anno with a mask that is a number": (mat(PARTS, anno={"objects": {"class_ind": 15, "parts": {"part_name": "head", "mask": 1}}}), "part masks of the image's size"),
            "no anno": (mat(PARTS, other=1), "a MATLAB file with anno in"),
        },
    ),
]  # fmt: skip
