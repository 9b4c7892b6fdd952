"""What a run left for Weights & Biases offline, read with the messages of the library itself, for tests."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

BLOCK, HEADER, PREAMBLE = 2**15, 7, 7
"""Bytes of LevelDB's log format: of a block, of the head of each piece of a record, and before the first block's."""


def records(run_dir: Path) -> list[Record]:
    """Every record of the one ``.wandb`` file below a run's folder, in order."""
    (path,) = run_dir.rglob("*.wandb")
    found = []
    for data in _messages(path.read_bytes()):
        record = Record()
        record.ParseFromString(data)
        found.append(record)
    return found


def _messages(data: bytes) -> Iterator[bytes]:
    assert data[:4] == b":W&B"
    at, whole = PREAMBLE, b""
    while at < len(data):
        if BLOCK - at % BLOCK < HEADER:
            at += BLOCK - at % BLOCK  # the end of a block is filled up
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        whole += data[at + HEADER : at + HEADER + length]
        at += HEADER + length
        if kind in (1, 4):  # a whole record, or the last piece of one
            yield whole
            whole = b""


def items(part: Any) -> dict[str, Any]:
    """Values of a history, a summary or a configuration by name; what belongs to a picture or a table is a dict."""
    found: dict[str, Any] = {}
    for item in part:
        value = json.loads(item.value_json)
        if item.key or len(item.nested_key) == 1:
            found[item.key or item.nested_key[0]] = value
        else:
            name, field = item.nested_key
            found.setdefault(name, {})[field] = value
    return found


def history(found: list[Record], name: str) -> list[Any]:
    """What was logged under a name, in order."""
    return [values[name] for record in found if name in (values := items(record.history.item))]
