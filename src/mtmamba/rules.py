"""What a setting may be: rules of plain values, in words and as tests."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple


class ConfigError(ValueError):
    """A configuration that makes no sense; the message names the keys and the remedy."""


class Rule(NamedTuple):
    """What a setting may be: in words, as a test of a plain value, and a value that is right."""

    words: str
    holds: Callable[[Any], bool]
    example: str


def is_whole(value: Any) -> bool:
    """Return whether a value is an integer, and no truth value."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Return whether a value is a finite number, and no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")


def whole(low: int, example: int) -> Rule:
    """Return the rule of whole numbers from a lowest one on."""
    return Rule(f"a whole number of at least {low}", lambda value: is_whole(value) and value >= low, str(example))


def pair(words: str, holds: Callable[[Any], bool], example: str) -> Rule:
    """Return the rule of two values in a list that a test holds for."""
    return Rule(words, lambda value: isinstance(value, list) and len(value) == 2 and holds(value), example)


def or_null(rule: Rule) -> Rule:
    """Return a rule that ``null`` obeys, too."""
    return Rule(f"{rule.words}, or null", lambda value: value is None or rule.holds(value), rule.example)


def like(value: Any) -> Rule:
    """Return the rule of values of one's own kind: switches, numbers, names, lists and groups of such.

    >>> like([1]).holds([8, 2]), like([1]).holds(8), like([1]).holds([0])
    (True, False, False)
    """
    if isinstance(value, dict):
        own = {key: like(item) for key, item in value.items()}
        return Rule(
            f"a group of {', '.join(own)}",
            lambda v: isinstance(v, dict) and v.keys() == own.keys() and all(own[key].holds(v[key]) for key in own),
            "{KEY:VALUE}",
        )
    if isinstance(value, list):
        one = like(value[0])
        return Rule(
            f"a list, each {one.words}",
            lambda v: isinstance(v, list) and bool(v) and all(map(one.holds, v)),
            shown(value),
        )
    if is_whole(value):
        return whole(1, value)
    return SWITCH if isinstance(value, bool) else TEXT._replace(example=str(value))


def is_by_name(value: Any, holds: Callable[[Any], bool]) -> bool:
    """Return whether a value is a mapping from names to values that a test holds for."""
    return isinstance(value, dict) and all(isinstance(key, str) and holds(item) for key, item in value.items())


def shown(value: Any) -> str:
    """Return a value as on the command line.

    >>> shown(None), shown([1, None]), shown(True)
    ('null', '[1,null]', 'true')
    """
    if isinstance(value, list):
        return "[" + ",".join(shown(item) for item in value) + "]"
    text = "null" if value is None else str(value)
    return text.lower() if isinstance(value, bool) else text


TEXT = Rule("a name", lambda value: isinstance(value, str) and bool(value.strip()), "NAME")
SWITCH = Rule("true or false", lambda value: isinstance(value, bool), "true")
POSITIVE = Rule("a number above 0", lambda value: is_number(value) and value > 0, "1.0")
NOT_NEGATIVE = Rule("a number of at least 0", lambda value: is_number(value) and value >= 0, "0.0")
SHARE = Rule("a number from 0 to below 1", lambda value: is_number(value) and 0 <= value < 1, "0.1")
SIZE = pair("height and width, two whole numbers above 0", lambda v: all(is_whole(x) and x > 0 for x in v), "[448,576]")
INPUT_SIZE = Rule(
    "auto, native, max:PIXELS (at least 32) or [HEIGHT,WIDTH]",
    lambda v: bool(re.fullmatch(r"auto|native|max:0*(3[2-9]|[4-9]\d|[1-9]\d{2,})", str(v))) or SIZE.holds(v),
    "[448,576]",
)
GROUP = Rule("a group of settings", lambda value: isinstance(value, dict), "{KEY:VALUE}")
TASKS = Rule(
    "a list of the dataset's tasks",
    lambda value: isinstance(value, list) and bool(value) and all(isinstance(task, str) for task in value),
    "[TASK,TASK]",
)
SCALES = Rule(
    "a list of numbers above 0", lambda v: isinstance(v, list) and bool(v) and all(map(POSITIVE.holds, v)), "[0.75,1]"
)
DEVICES = Rule(
    "a number of devices, a list of their indices, or auto",
    lambda v: v == "auto" or (isinstance(v, str | list) and bool(v)) or (is_whole(v) and (v > 0 or v == -1)),
    "2",
)
