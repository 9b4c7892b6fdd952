"""Where the files of each dataset lie, what an archive holds, and what to do when it does not."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

Alternatives = tuple[str, ...]
"""Paths relative to the root with ``{id}`` in the file's place; the first that exists is read."""


class DatasetError(ValueError):
    """A dataset's folder or one of its files is not what it should be; the message names it and the remedy."""


@dataclass(frozen=True)
class Layout:
    """One dataset's folder: the lists of ids, the image and, for each task, the files its target is computed from.

    ``config`` is its file under ``configs/data``, which reads the root from the environment variable ``variable``.
    """

    name: str
    config: str
    variable: str
    lists: str
    image: str
    tasks: dict[str, tuple[Alternatives, ...]]
    counts: dict[str, int]

    def files(self, tasks: Sequence[str]) -> dict[Alternatives, list[str]]:
        """Return every kind of file that the image and these tasks need, each with the tasks that need it.

        >>> list(NYUDV2.files(["depth"]))
        [('images/{id}.png',), ('depth/{id}.npy',)]

        Raises:
            ValueError: no task, an unknown one, or one named twice.
        """
        unknown = [task for task in tasks if task not in self.tasks]
        if unknown or not tasks or len(set(tasks)) != len(tasks):
            raise ValueError(
                f"Expected distinct tasks out of {list(self.tasks)} for {self.name}, got {list(tasks)}: "
                f"set tasks=[{','.join(self.tasks)}] or some of them."
            )
        needed: dict[Alternatives, list[str]] = {(self.image,): ["the image"]}
        for task in tasks:
            for file in self.tasks[task]:
                needed.setdefault(file, []).append(task)
        return needed

    def list_path(self, root: Path, split: str) -> Path:
        """Return the text file with a split's ids, one per line."""
        return root / self.lists / f"{split}.txt"

    @property
    def remedy(self) -> str:
        """Say where the archive comes from."""
        return (
            f"Extract {self.name}.tar.gz and set data.root=/path/to/{self.name}. Its copies are linked from the "
            "READMEs of prismformore/Multi-Task-Transformer, EnVision-Research/MTMamba and innovator-zero/MTDP_Lib. "
            "To start without a download, use data=synthetic."
        )


LABEL_MAP = "pascal-context/trainval/{id}.mat"
SEMSEG_PASCAL = ("semseg/VOC12/{id}.png", "semseg/pascal-context/{id}.png")

NYUDV2 = Layout(
    name="NYUDv2",
    config="nyud",
    variable="NYUD_ROOT",
    lists="gt_sets",
    image="images/{id}.png",
    tasks={
        "semseg": (("segmentation/{id}.png",),),
        "depth": (("depth/{id}.npy",),),
        "normals": (("normals/{id}.png",),),
        "edge": (("edge/{id}.png",),),
    },
    counts={"train": 795, "val": 654},
)

PASCAL_CONTEXT = Layout(
    name="PASCALContext",
    config="pascal_context",
    variable="PASCAL_ROOT",
    lists="ImageSets/Context",
    image="JPEGImages/{id}.jpg",
    tasks={
        "semseg": (SEMSEG_PASCAL,),
        "human_parts": (("human_parts/{id}.mat",),),
        "sal": (("sal_distill/{id}.png",),),
        "normals": (("normals_distill/{id}.png",), (LABEL_MAP,)),
        "edge": ((LABEL_MAP,),),
    },
    counts={"train": 4998, "val": 5105},
)

LAYOUTS = {layout.name: layout for layout in (NYUDV2, PASCAL_CONTEXT)}


def get_layout(name: str) -> Layout:
    """Return a dataset's layout by name; ValueError names those there are."""
    if name not in LAYOUTS:
        raise ValueError(f"Expected a dataset out of {list(LAYOUTS)}, got {name!r}: set data.dataset to one of them.")
    return LAYOUTS[name]


def read_ids(root: Path, layout: Layout, split: str) -> list[str]:
    """Return a split's ids in the order of its list.

    Raises:
        DatasetError: there is no such split; its list is missing, empty, repeats an id or holds something that is no
            single name.
    """
    if split not in layout.counts:
        raise DatasetError(
            f"Expected a split among {', '.join(layout.counts)} of {layout.name}, got {split}: choose one of those; no "
            "test labels are public."
        )
    path = layout.list_path(root, split)
    if not path.is_file():
        raise DatasetError(f"Expected the {split} ids in {path}, got no such file. {layout.remedy}")
    ids = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    malformed = [name for name in ids if len(name.split()) != 1 or "/" in name or "." in name]
    repeated = [name for name, times in Counter(ids).items() if times > 1]
    if not ids:
        raise DatasetError(f"Expected {split} ids in {path}, one per line, got an empty file. {layout.remedy}")
    if malformed:
        raise DatasetError(f"Expected one plain id per line in {path}, got {malformed[0]!r}. {layout.remedy}")
    if repeated:
        raise DatasetError(f"Expected each id once in {path}, got {repeated[0]!r} twice. {layout.remedy}")
    return ids
