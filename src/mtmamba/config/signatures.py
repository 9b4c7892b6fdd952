"""What functions and classes take: settings of a ``_target_`` are checked against it before that is built."""

from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from pkgutil import resolve_name
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from mtmamba.config.settings import ConfigError
from mtmamba.rules import is_number, is_whole, shown

SCALARS = {
    int: ("a whole number", is_whole),
    float: ("a number", is_number),
    bool: ("true or false", lambda value: isinstance(value, bool)),
    str: ("a name", lambda value: isinstance(value, str)),
    NoneType: ("null", lambda value: value is None),
}
"""Types that are compared: in words, and as tests of a plain value."""


def check_types(node: Mapping[str, Any], key: str) -> None:
    """Refuse settings of other types than the parameters that they are given to, at any depth.

    Annotations that are no numbers, names, switches, choices or lists of such take any value but null.

    Args:
        node: plain values with a ``_target_``.
        key: where it stands in the configuration, for errors.

    Raises:
        ConfigError: the message names the setting and what it may be.
    """
    hints = _hints(str(node["_target_"]))
    for name, value in node.items():
        if isinstance(value, Mapping) and "_target_" in value:
            check_types(value, f"{key}.{name}")
        elif name in hints and not _fits(value, hints[name]):
            raise ConfigError(f"Expected {key}.{name} to be {_words(hints[name])}, got {shown(value)}: correct it.")


def takes(function: Callable[..., Any], number: int) -> bool:
    """Return whether a function can be called with that many arguments by position.

    >>> takes(lambda x, y=0: x, 2), takes(lambda x, *, y=0: x, 2)
    (True, False)
    """
    try:
        signature(function).bind(*range(number))
    except TypeError:
        return False
    return True


def _hints(target: str) -> Mapping[str, Any]:
    """Return a function's or a class's parameters with their annotations; none of what has none that can be read."""
    try:
        found = resolve_name(target)
        return get_type_hints(found.__init__ if isinstance(found, type) else found)  # type: ignore[misc]
    except (ImportError, AttributeError, NameError, TypeError):  # whoever builds it says so of the first two
        return {}


def _fits(value: Any, hint: Any) -> bool:
    kind, arguments = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, UnionType):
        return any(_fits(value, argument) for argument in arguments)
    if kind is Literal:
        return value in arguments
    if kind in (Sequence, list):
        return isinstance(value, list) and all(_fits(x, argument) for x in value for argument in arguments)
    return SCALARS[kind][1](value) if kind in SCALARS else value is not None or kind is Any


def _words(hint: Any) -> str:
    kind, arguments = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, UnionType):
        return " or ".join(dict.fromkeys(map(_words, arguments)))
    if kind is Literal:
        return "|".join(map(str, arguments))
    if kind in (Sequence, list):
        return "a list"
    return SCALARS[kind][0] if kind in SCALARS else "given"
