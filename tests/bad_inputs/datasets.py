# ruff: noqa: E501 - an input a line reads as a table
"""Lists of images, layouts of folders, and descriptions of folders of one's own."""

import shutil

import numpy as np

from bad_inputs import NYUD, TRAIN, cases, instead, nothing, pipe, png, remove, write

LIST = "NYUDv2/gt_sets/train.txt"
VAL = "NYUDv2/gt_sets/val.txt"
ROOMS = "train data=folder data.root=rooms data.num_workers=0 logger=csv trainer.accelerator=cpu"
YAML = "rooms/dataset.yaml"

LISTS = [
    *cases(
        TRAIN,
        {
            "no list": (remove(LIST), "ids in NYUDv2/gt_sets/train.txt, got no such file"),
            "an empty list": (write(LIST, "\n\n"), "got an empty file"),
            "an id twice": (write(LIST, "0001\n0001\n"), "got '0001' twice"),
            "an id in train and val": (write(VAL, "0004\n0001\n"), "no id in both training and validation of NYUDv2"),
            "paths instead of ids": (write(LIST, "images/0001.png\n"), "images/images/0001.png.png: missing"),
            "columns": (write(LIST, "0001 0002\n"), "got '0001 0002'"),
            "UTF-16 with a byte-order mark": (write(LIST, "0001\n0002\n".encode("utf-16")), "ids in UTF-8 in NYUDv2/gt_sets/train.txt"),
            "UTF-16 without one": (write(LIST, "0001\n0002\n".encode("utf-16-le")), "a line in NYUDv2/gt_sets/train.txt, got"),
            "NUL bytes": (write(LIST, b"0001\n\0\0\0\0\n"), "a line in NYUDv2/gt_sets/train.txt, got"),
            "an image": (lambda f: shutil.copy(f / "photo.png", f / LIST), "ids in UTF-8 in NYUDv2/gt_sets/train.txt"),
            "an id without files": (write(LIST, "0001\n9999\n"), "images/9999.png: missing"),
            "a way out of the folder": (write(LIST, "0001\n../0002\n"), "got '../0002'"),
            "a folder for a list": (instead(LIST, lambda path: path.mkdir()), "got a folder"),
            "a pipe for a list": (pipe(LIST), "got a pipe"),
            "a link in a circle for a list": (instead(LIST, lambda path: path.symlink_to("train.txt")), "got a link to train.txt that leads nowhere"),
            "fewer training images than a batch": (nothing, "images"),
        },
    ),
    *cases(
        "eval ckpt=tiny.ckpt data.num_workers=0 trainer.accelerator=cpu",
        {
            "ids of another split": (write("ids.txt", "0001\n"), "ids among the 2 images in ids.txt, got 1 others", "ids=ids.txt"),
            "no file of ids": (nothing, "in ids.txt, got no such file", "ids=ids.txt"),
            "ids in UTF-16": (write("ids.txt", "0004\n".encode("utf-16")), "ids in UTF-8 in ids.txt", "ids=ids.txt"),
            "an empty file of ids": (write("ids.txt", ""), "got 0 others and none of them", "ids=ids.txt"),
            "a pipe of ids": (lambda f: pipe("ids.txt")((write("ids.txt", "")(f), f)[1]), "got a pipe", "ids=ids.txt"),
        },
    ),
]  # fmt: skip

LAYOUTS = [
    *cases(
        TRAIN,
        {
            "no folder": (remove("NYUDv2"), "got no such folder: set data.root=FOLDER"),
            "a file for the folder": (lambda f: (remove("NYUDv2")(f), (f / "NYUDv2").write_text("")), "got no such folder"),
            "an empty folder": (lambda f: (remove("NYUDv2")(f), (f / "NYUDv2").mkdir()), "a folder that holds nothing"),
            "one level too high": (nothing, "one level deeper: set data.root=NYUDv2", "data.root=."),
            "one level too deep": (nothing, "inside it: set data.root=NYUDv2", "data.root=NYUDv2/images"),
            "another dataset": (nothing, "got PASCALContext: choose data=pascal_context", "data.root=PASCALContext"),
            "the other archive": (lambda f: (f / "NYUDv2/segmentation/0001.npy").touch(), "the other NYUD archive"),
            "no folder of a task": (remove("NYUDv2/depth"), "depth/ID.npy: none of 5 files (for depth)"),
            "files of a task missing": (remove("NYUDv2/edge/0004.png"), "edge/0004.png: missing (val, for edge)"),
            "a folder whose name is a loop of links": (lambda f: (remove("NYUDv2")(f), (f / "NYUDv2").symlink_to("NYUDv2")), "got no such folder"),
            "a crop smaller than the images": (nothing, "data.crop_size of at least (24, 32)", "data.crop_size=[16,16]"),
            "a task that the dataset lacks": (nothing, "got [sal]", "tasks=[sal]"),
        },
    ),
    *cases(
        f"prepare_data {NYUD}",
        {
            "a source that is no archive": (write("a.tar", "no archive"), "a.tar", "data.root=new source=a.tar"),
            "no such source": (nothing, "got b.tar: correct the path", "data.root=new source=b.tar"),
            "a source for a folder that is there": (nothing, "got one: move it away, or leave source out", "source=photo.png"),
            "an image as the archive": (nothing, "photo.png", "data.root=new source=photo.png"),
            "a folder of something else": (nothing, "rooms", "data.root=new source=rooms"),
        },
    ),
]  # fmt: skip


def edit(old, new):
    def damage(f):
        text = (f / YAML).read_text()
        assert old in text
        (f / YAML).write_text(text.replace(old, new))

    return damage


DESCRIPTIONS = cases(
    ROOMS,
    {
        "no dataset.yaml": (remove(YAML), "prepare_data.py data=folder"),
        "no YAML": (write(YAML, "a: [1"), "YAML in rooms/dataset.yaml"),
        "a list": (write(YAML, "- a\n"), "to map name, images"),
        "a YAML bomb": (write(YAML, "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"), "dataset.yaml"),
        "bytes that are no text": (write(YAML, b"\xff\xfe\x00"), "rooms/dataset.yaml"),
        "a key that there is not": (edit("crop_size:", "crop_sise:"), "crop_sise: did you mean crop_size"),
        "a key that is missing": (edit("name: my_rooms\n", ""), "got no name"),
        "a task that there is not": (edit("  depth:", "  dept:"), "dept: did you mean depth"),
        "an option of another task": (edit("scale: 1e-3", "offset: 1"), "tasks.depth of rooms/dataset.yaml"),
        "a scale of 0": (edit("1e-3", "0"), "tasks.depth.scale in rooms/dataset.yaml to be a number above 0, got 0"),
        "an environment variable": (edit("my_rooms", "${oc.env:HOME}"), "plain values in rooms/dataset.yaml"),
        "a path out of the folder": (edit("depth/{id}", "../depth/{id}"), "a path below the folder"),
        "labels in JPEG": (edit("labels/{id}.png", "labels/{id}.jpg"), "ending in .png"),
        "shares beyond 1": (edit("{train: train.txt, val: lists/val.txt}", "{train: 0.9, val: 0.2}"), "shares of 1 in all at most"),
        "lists that share an id": (write("rooms/lists/val.txt", "hall/1\nattic/0\n"), "no id in both training and validation of my_rooms"),
        "depth in other units": (edit("scale: 1e-3, ", ""), "depths within 0..20 metres"),
        "classes beyond the list": (png("rooms/labels/attic/0.png", np.full((32, 48), 7, np.uint8)), "got 7"),
        "a pipe for dataset.yaml": (pipe(YAML), "dataset.yaml, got a pipe: correct data.root"),
    },
)  # fmt: skip
