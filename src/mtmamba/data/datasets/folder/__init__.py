"""A dataset of one's own: a folder with a dataset.yaml. Importing this package loads torch, for the tasks' records."""

from mtmamba.data.datasets.folder.checks import check
from mtmamba.data.datasets.folder.draft import write_draft
from mtmamba.data.datasets.folder.ids import find_images
from mtmamba.data.datasets.folder.record import read_description, record_of, settings

__all__ = ["check", "find_images", "read_description", "record_of", "settings", "write_draft"]
