"""The datasets: a file for each, with every fact about it.

A dataset of yours is a `DatasetRecord` that your own file gives to `register`; nothing here has to know of it.
"""

from mtmamba.data.datasets import nyud, pascal_context
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
    "register",
]

for _module in (nyud, pascal_context):
    register(_module.DATASET)
