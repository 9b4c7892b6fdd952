"""Where a dataset's files lie in its folder."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

Alternatives = tuple[str, ...]
"""Paths relative to the root with ``{id}`` in the file's place; the first that exists is read."""
DESCRIPTION = "dataset.yaml"
"""In a folder of one's own: what says where its files lie."""


class DatasetError(ValueError):
    """A dataset's folder or one of its files is not what it should be; the message names it and the remedy."""


@dataclass(frozen=True)
class Layout:
    """A dataset's folder.

    Attributes:
        lists: the folder of the splits' lists of ids; None where the record finds the ids itself.
        image: the image, with ``{id}`` in the file's place, or alternatives of it.
        tasks: for each task the files that its target is computed from, the target's own first.
    """

    lists: str | None
    image: str | Alternatives
    tasks: Mapping[str, tuple[Alternatives, ...]]

    def files(self, tasks: Sequence[str]) -> dict[Alternatives, list[str]]:
        """Return every kind of file that the image and these tasks need, each with the tasks that need it.

        >>> list(Layout("lists", "{id}.png", {"heat": (("heat/{id}.npy",),)}).files(["heat"]))
        [('{id}.png',), ('heat/{id}.npy',)]
        """
        needed: dict[Alternatives, list[str]] = {self.images: ["the image"]}
        for task in tasks:
            for file in self.tasks[task]:
                needed.setdefault(file, []).append(task)
        return needed

    @property
    def images(self) -> Alternatives:
        """The image's alternatives."""
        return (self.image,) if isinstance(self.image, str) else self.image

    def image_path(self, root: Path, name: str) -> Path:
        """Return where an image lies."""
        return find_file(root, self.images, name)

    def path(self, root: Path, task: str, name: str) -> Path:
        """Return the file of an image's target."""
        return find_file(root, self.tasks[task][0], name)

    def exists(self, root: Path, task: str, name: str) -> bool:
        """Return whether an image has every file that a task's target is computed from."""
        return all(os.path.lexists(find_file(root, patterns, name)) for patterns in self.tasks[task])

    def list_path(self, root: Path, split: str) -> Path:
        """Return the text file with a split's ids, one per line."""
        assert self.lists is not None, "its record finds the ids itself"
        return root / self.lists / f"{split}.txt"


def find_file(root: Path, patterns: Alternatives, name: str) -> Path:
    """Return the first alternative that exists, if only as a link that leads nowhere, else the last."""
    paths = [root / pattern.format(id=name) for pattern in patterns]
    return next((path for path in paths if os.path.lexists(path)), paths[-1])
