"""The datasets: a file for each, with every fact about it.

A dataset of yours is a `DatasetRecord` that your own file gives to `register`; nothing here has to know of it.
"""

from collections.abc import Mapping
from typing import Any

from mtmamba.data.datasets import cityscapes, nyud, pascal_context
from mtmamba.data.datasets.record import (
    SPLITS,
    DatasetRecord,
    Reader,
    Source,
    all_datasets,
    from_file,
    get_dataset,
    register,
)

__all__ = [
    "SPLITS",
    "DatasetRecord",
    "Reader",
    "Source",
    "all_datasets",
    "from_file",
    "get_dataset",
    "open_dataset",
    "register",
]


def open_dataset(name: str, description: Mapping[str, Any] | None = None) -> DatasetRecord:
    """Return the record of a registered dataset, or of a folder that a description is of (`data=folder`).

    Raises:
        ValueError: there is no dataset of this name; DatasetError where the description cannot be.
    """
    if description is None:
        return get_dataset(name)
    from mtmamba.data.datasets import folder  # which loads torch

    return folder.record_of(description)


for _module in (nyud, pascal_context, cityscapes):
    register(_module.DATASET)
