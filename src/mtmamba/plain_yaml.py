"""YAML read from a file that may be anybody's."""

from typing import Any

import yaml
from omegaconf import OmegaConf

MAX_DEPTH = 64
"""No file of ours is nested deeper."""


def plain_yaml(text: str) -> Any:
    """Read YAML without aliases, few of which unfold to more than any memory, and deep nesting, which takes hours."""
    depth = 0
    for event in yaml.parse(text):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError("it holds an alias, which is not unfolded here")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise ValueError(f"it is nested more than {MAX_DEPTH} deep")
    return OmegaConf.to_container(OmegaConf.create(text), resolve=False)
