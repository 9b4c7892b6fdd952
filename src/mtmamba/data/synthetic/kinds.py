"""What a surface can be, with its number in each of the datasets' class lists."""

from typing import NamedTuple


class Kind(NamedTuple):
    """The numbers of one kind of surface as the label files store them.

    ``nyud``: 1..40, 0 unlabelled. ``voc``: PASCAL VOC, 0 background, 1..20. ``context``: 1..459, the place in
    PASCAL-Context's alphabetical list. ``cityscapes``: its labelIds, 0 unlabelled.
    """

    nyud: int
    voc: int
    context: int
    cityscapes: int = 0


KINDS = {
    "wall": Kind(1, 0, 440, 12),
    "floor": Kind(2, 0, 158),
    "cabinet": Kind(3, 0, 46),
    "bed": Kind(4, 0, 18),
    "chair": Kind(5, 9, 72),
    "sofa": Kind(6, 18, 368),
    "table": Kind(7, 11, 397),
    "door": Kind(8, 0, 115, 11),
    "window": Kind(9, 0, 454, 11),
    "bookshelf": Kind(10, 0, 349),
    "picture": Kind(11, 0, 287),
    "counter": Kind(12, 0, 96),
    "blinds": Kind(13, 0, 455),
    "desk": Kind(14, 11, 397),
    "shelves": Kind(15, 0, 349),
    "curtain": Kind(16, 0, 105),
    "dresser": Kind(17, 0, 46),
    "pillow": Kind(18, 0, 290),
    "mirror": Kind(19, 0, 252),
    "floor_mat": Kind(20, 0, 330),
    "clothes": Kind(21, 0, 80),
    "ceiling": Kind(22, 0, 68),
    "books": Kind(23, 0, 33),
    "refrigerator": Kind(24, 0, 170),
    "television": Kind(25, 20, 427),
    "paper": Kind(26, 0, 273),
    "towel": Kind(27, 0, 412),
    "shower_curtain": Kind(28, 0, 105),
    "box": Kind(29, 0, 37),
    "whiteboard": Kind(30, 0, 30),
    "person": Kind(31, 15, 284, 24),
    "night_stand": Kind(32, 0, 46),
    "toilet": Kind(33, 0, 408),
    "sink": Kind(34, 0, 357),
    "lamp": Kind(35, 0, 232),
    "bathtub": Kind(36, 0, 17),
    "bag": Kind(37, 0, 9),
    "radiator": Kind(38, 0, 314),
    "stool": Kind(39, 0, 383),
    "ball": Kind(40, 0, 10),
    "bottle": Kind(40, 5, 34),
    "pottedplant": Kind(40, 16, 308),
    "cat": Kind(40, 8, 65),
    "dog": Kind(40, 12, 113),
    "aeroplane": Kind(0, 1, 2),
    "bench": Kind(0, 0, 22),
    "bicycle": Kind(0, 2, 23, 33),
    "bird": Kind(0, 3, 25),
    "boat": Kind(0, 4, 31),
    "building": Kind(0, 0, 44, 11),
    "bus": Kind(0, 6, 45, 28),
    "car": Kind(0, 7, 59, 26),
    "cow": Kind(0, 10, 98),
    "fence": Kind(0, 0, 144, 13),
    "grass": Kind(0, 0, 187, 22),
    "ground": Kind(0, 0, 189, 22),
    "horse": Kind(0, 13, 207),
    "motorbike": Kind(0, 14, 258, 32),
    "mountain": Kind(0, 0, 259),
    "pole": Kind(0, 0, 303, 17),
    "road": Kind(0, 0, 324, 7),
    "sheep": Kind(0, 17, 347),
    "sidewalk": Kind(0, 0, 354, 8),
    "sign": Kind(0, 0, 355, 20),
    "sky": Kind(0, 0, 360, 23),
    "train": Kind(0, 19, 416, 31),
    "tree": Kind(0, 0, 420, 21),
    "water": Kind(0, 0, 445),
}

VOC_NAMES = {kind.voc: name for name, kind in KINDS.items() if kind.voc} | {11: "diningtable", 20: "tvmonitor"}
"""VOC's names of its 20 classes by number."""

PARTS = ("head", "torso", "uarm", "larm", "uleg", "lleg")
"""The six body parts of the part-segmentation task, numbered from 1."""

_FINER = {"hair": "head", "leye": "head", "reye": "head", "neck": "torso", "hand": "larm", "foot": "lleg"}


def part_class(name: str) -> int:
    """Class 1..6 of a PASCAL-Part name such as ``"luarm"``; 0 for the empty name.

    >>> [part_class(name) for name in ("", "hair", "rhand", "llleg")]
    [0, 1, 4, 6]
    """
    if not name:
        return 0
    side_less = name if name in PARTS or name in _FINER else name[1:]
    return PARTS.index(_FINER.get(side_less, side_less)) + 1
