"""Whether a dataset's folder is there, and that dataset's; it is told without PyTorch."""

from pathlib import Path

from omegaconf import DictConfig

from mtmamba.data.datasets.record import DatasetRecord, all_datasets, get_dataset, read_lines
from mtmamba.data.layouts import DESCRIPTION, DatasetError
from mtmamba.files import WEB, what_is

MOST_NAMES = 10
"""Names of a folder's contents that are said at most, where it is no dataset's."""


def check_root(cfg: DictConfig) -> None:
    """Refuse a ``data.root`` that cannot be read, of a dataset of ours whose files should be there already.

    Raises:
        DatasetError: there is none, or it is another dataset's.
    """
    if "description" in cfg.data:
        find_description(cfg.data.root)
    elif not (cfg.data.get("scenes") or cfg.extensions or cfg.data.root is None):
        require_layout(Path(cfg.data.root).expanduser(), get_dataset(cfg.data.dataset))


def check_ids(cfg: DictConfig) -> None:
    """Refuse ``ids`` and ``boundary_ids`` that are no lists of ids.

    Raises:
        DatasetError: a file is not there, or no text.
    """
    for path in filter(None, (cfg.ids, cfg.boundary_ids)):
        read_lines(Path(path), "Correct the path.")


def check_source(cfg: DictConfig) -> None:
    """Refuse what no dataset can be made of: a ``source`` of archives, the ``data.root`` of a folder of one's own.

    Raises:
        DatasetError: it is not there, or holds the dataset.yaml that is to be written.
    """
    if "description" in cfg.data:
        if cfg.data.root is None or not Path(cfg.data.root).expanduser().is_dir():
            raise DatasetError(
                f"Expected data.root=FOLDER with your images and labels, got {cfg.data.root}: correct it."
            )
        path = Path(cfg.data.root).expanduser() / DESCRIPTION
        if path.exists() and not cfg.check:
            raise DatasetError(
                f"Expected no {path} before a first one is written, got one: check=true checks it, or move it away."
            )
    elif isinstance(cfg.source, str):
        require_source(cfg.source)


def require_source(source: str) -> None:
    """Raise DatasetError where a source is neither an address nor there."""
    if not source.startswith(WEB) and not Path(source).expanduser().exists():
        raise DatasetError(f"Expected source to be a file, a folder or a URL, got {source}: correct the path.")


def find_description(root: str | Path | None) -> Path:
    """Return the dataset.yaml of a folder of one's own.

    Raises:
        DatasetError: there is none.
    """
    if root is None:
        raise DatasetError(
            f"Expected data.root=FOLDER with data=folder, got none: name the folder with your {DESCRIPTION}."
        )
    path = Path(root).expanduser() / DESCRIPTION
    if not path.is_file():
        got = what_is(path) if path.parent.is_dir() else "no such folder"
        remedy = f"python src/prepare_data.py data=folder data.root={root} writes a first one"
        raise DatasetError(f"Expected {path}, got {got}: {remedy if got == 'no such file' else 'correct data.root'}.")
    return path


def require_layout(root: Path, record: DatasetRecord) -> None:
    """Refuse a folder that is not there, or of another layout.

    Raises:
        DatasetError: the message says what the folder seems to be.
    """

    def holds(folder: Path, other: DatasetRecord) -> bool:
        return other.layout.lists is not None and (folder / other.layout.lists).is_dir()

    layout = record.layout
    lists = "" if layout.lists is None else f"{layout.lists}/train.txt and "
    expected = f"Expected {record.title} in {root}, with {lists}{' or '.join(layout.images)}, got "
    if not root.is_dir():
        raise DatasetError(
            f"{expected}no such folder: set data.root=FOLDER"
            f"{f' or the environment variable {record.variable}' if record.variable else ''}. {record.remedy}"
        )
    below = sorted(folder for folder in root.iterdir() if folder.is_dir())
    if found := record.recognise([root, *below]):
        raise DatasetError(f"{expected}{found}. {record.remedy}")
    if layout.lists is None or holds(root, record):
        return
    nested = next((folder for folder in below if holds(folder, record)), None)
    if nested:
        raise DatasetError(f"{expected}it one level deeper: set data.root={nested}")
    if above := next((folder for folder in root.parents[:2] if holds(folder, record)), None):
        raise DatasetError(f"{expected}a folder inside it: set data.root={above}")
    other = next((other for other in all_datasets().values() if holds(root, other)), None)
    if other:
        raise DatasetError(f"{expected}{other.title}: choose data={other.name}, or set data.root to {record.title}.")
    names = ", ".join(folder.name for folder in below[:MOST_NAMES]) or "nothing"
    raise DatasetError(f"{expected}a folder that holds {names}. {record.remedy}")
