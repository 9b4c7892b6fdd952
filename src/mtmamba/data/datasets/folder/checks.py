"""What a dataset.yaml may say: a sentence for whatever cannot be."""

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

from mtmamba.data.datasets.folder.kinds import SUFFIXES, class_count, kind_of
from mtmamba.data.datasets.record import SPLITS
from mtmamba.data.layouts import DatasetError
from mtmamba.rules import POSITIVE, SHARE, SIZE, SWITCH, TEXT, Rule, shown, whole
from mtmamba.tasks import Task, all_tasks
from mtmamba.tasks.files import ClassFile

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")

_SHARE = Rule("a share of the images, above 0 and below 1", lambda v: SHARE.holds(v) and v > 0, "0.9")
_PROTOCOL = {
    "max_dist": Rule("a share of the diagonal, above 0 and below 1", _SHARE.holds, "0.0075"),
    "thresholds": Rule(
        "how many, or a rising list of numbers above 0 and below 1",
        lambda v: (
            whole(1, 99).holds(v) or (isinstance(v, list) and all(map(_SHARE.holds, v)) and sorted(set(v)) == v != [])
        ),
        "99",
    ),
    "suppress": SWITCH,
}
_KEYS = ("name", "images", "splits", "tasks", "crop_size")
_OPTIONAL = ("delta_m_base", "boundary_protocol")


def check(description: Any, where: str | Path) -> None:
    """Refuse a description that cannot be of a dataset.

    Args:
        description: the content of a dataset.yaml.
        where: it stands, for errors.

    Raises:
        DatasetError: the message names the key, what it may be, what it is, and the right form.
    """
    checks = _Checks(where)
    found = checks.mapping("", description, _KEYS, _OPTIONAL)
    checks.plain(found)
    checks.rule("name", found["name"], TEXT._replace(example="my_rooms"))
    checks.patterns("images", found["images"], IMAGE_SUFFIXES, "images/{id}.jpg")
    checks.rule("crop_size", found["crop_size"], SIZE)
    checks.splits(found["splits"])
    tasks = all_tasks()
    entries = checks.mapping("tasks", found["tasks"], (), tuple(tasks))
    if not entries:
        checks.wrong("tasks", "one task or more", entries, f"{next(iter(tasks))}: {{file: …}}")
    for name, entry in entries.items():
        checks.task(tasks[name], entry, entries)
    for key, value in checks.mapping(
        "boundary_protocol", found.get("boundary_protocol", {}), (), tuple(_PROTOCOL)
    ).items():
        checks.rule(f"boundary_protocol.{key}", value, _PROTOCOL[key])
    for name, base in checks.mapping("delta_m_base", found.get("delta_m_base", {}), (), tuple(entries)).items():
        for metric, value in checks.mapping(f"delta_m_base.{name}", base, (), tuple(tasks[name].all_units)).items():
            checks.rule(f"delta_m_base.{name}.{metric}", value, POSITIVE)


class _Checks:
    """The parts of a check; ``where`` is named in every error."""

    def __init__(self, where: str | Path) -> None:
        self.where = where

    def wrong(self, key: str, words: str, value: Any, example: str) -> NoReturn:
        raise DatasetError(f"Expected {key} in {self.where} to be {words}, got {shown(value)}: write {key}: {example}.")

    def rule(self, key: str, value: Any, rule: Rule) -> None:
        if not rule.holds(value):
            self.wrong(key, rule.words, value, rule.example)

    def mapping(self, key: str, value: Any, needed: Iterable[str], optional: Iterable[str] = ()) -> dict[str, Any]:
        """Return a mapping whose keys are the needed ones and some of the optional ones."""
        known = [*needed, *optional]
        within = f"{key} of {self.where}" if key else str(self.where)
        if not isinstance(value, dict):
            raise DatasetError(f"Expected {within} to map {', '.join(known)}, got {shown(value)}: write KEY: VALUE.")
        if unknown := [str(name) for name in value if name not in known]:
            near = difflib.get_close_matches(unknown[0], known, 1)
            meant = f"did you mean {near[0]}?" if near else "take it out."
            raise DatasetError(f"Expected keys of {within} among {', '.join(known)}, got {unknown[0]}: {meant}")
        if missing := [name for name in needed if name not in value]:
            raise DatasetError(f"Expected {', '.join(needed)} in {within}, got no {missing[0]}: add it.")
        return value

    def plain(self, value: Any) -> None:
        """Refuse text that configurations would act on."""
        if isinstance(value, dict | list):
            for item in value.values() if isinstance(value, dict) else value:
                self.plain(item)
        elif isinstance(value, str) and ("${" in value or value == "???"):
            raise DatasetError(f"Expected plain values in {self.where}, got {value}: write it without $ and ???.")

    def patterns(self, key: str, value: Any, suffixes: Iterable[str], example: str) -> None:
        def holds(pattern: Any) -> bool:
            if not isinstance(pattern, str) or "{id}" not in pattern or {*"{}"} & {*pattern.replace("{id}", "")}:
                return False
            path = PurePosixPath(pattern)
            return not path.is_absolute() and ".." not in path.parts and path.suffix.lower() in suffixes

        words = f"a path below the folder with {{id}} for the image's id, ending in {', '.join(suffixes)}, or a list"
        patterns = value if isinstance(value, list) else [value]
        self.rule(key, value, Rule(words, lambda _: bool(patterns) and all(map(holds, patterns)), example))

    def splits(self, value: Any) -> None:
        splits = self.mapping("splits", value, SPLITS, ("seed",))
        if isinstance(splits["train"], str):
            for name in self.mapping("splits", value, SPLITS):
                self.rule(
                    f"splits.{name}",
                    splits[name],
                    TEXT._replace(words="a list of ids below the folder", example="val.txt"),
                )
            return
        for name in SPLITS:
            self.rule(f"splits.{name}", splits[name], _SHARE)
        self.rule("splits.seed", splits.get("seed", 0), whole(0, 0))
        if (total := splits["train"] + splits["val"]) > 1 + 1e-9:
            self.wrong("splits", "shares of 1 in all at most", total, "{train: 0.9, val: 0.1}")

    def task(self, task: Task, value: Any, entries: Mapping[str, Any]) -> None:
        key, kind = f"tasks.{task.name}", kind_of(task)
        if kind is None:
            raise DatasetError(
                f"Expected tasks with a file format of ours in {self.where}, got {task.name} with "
                f"{type(task.file).__name__}: register a dataset in Python for it (docs/architecture.md)."
            )
        if task.boundaries and isinstance(value, dict) and "from" in value:
            source = self.mapping(key, value, ["from"])["from"]
            classes = [
                name
                for name, entry in entries.items()
                if isinstance(all_tasks()[name].file, ClassFile) and isinstance(entry, dict) and "file" in entry
            ]
            self.rule(f"{key}.from", source, Rule("a task of classes in this file", lambda v: v in classes, "semseg"))
            return
        classes = ["classes"] if "classes" in kind.options else []
        entry = self.mapping(key, value, ["file", *classes], [name for name in kind.options if name not in classes])
        self.patterns(f"{key}.file", entry["file"], SUFFIXES, f"{task.name}/{{id}}.png")
        for name in entry.keys() - {"file"}:
            self.rule(f"{key}.{name}", entry[name], kind.options[name])
        if "palette" in entry and len(entry["palette"]) != class_count(entry):
            words = f"as many colours as the {class_count(entry)} classes"
            self.wrong(f"{key}.palette", words, len(entry["palette"]), kind.options["palette"].example)
