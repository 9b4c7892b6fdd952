"""A dataset from an archive, a folder, a server or official files, and a check of every file."""

import logging
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from omegaconf import DictConfig

from mtmamba import build
from mtmamba.config import compose
from mtmamba.data.datasets import DatasetRecord, folder, get_dataset
from mtmamba.data.layouts import DESCRIPTION, DatasetError
from mtmamba.data.preparation.archives import ArchiveError, lift, unpack
from mtmamba.data.preparation.download import DownloadError, download
from mtmamba.data.preparation.inspection import inspect
from mtmamba.data.roots import check_source, require_source
from mtmamba.data.validation import validate
from mtmamba.extensions import load_extensions
from mtmamba.files import WEB, remove_partial, replacing, sha256, write_text
from mtmamba.report.dataset import show_inspection, write_page
from mtmamba.runs.folder import speak

log = logging.getLogger(__name__)

MANIFEST = "SHA256SUMS"
"""The file in a prepared folder that ``sha256sum -c`` takes."""
_THREADS = 8


def prepare(cfg: DictConfig, run_dir: Path) -> None:
    """Get the dataset where it is not there, and check it.

    Args:
        cfg: from the script's configuration.
        run_dir: where to leave ``dataset_report.html``.

    Raises:
        DatasetError: the source is not the dataset, or files are missing or broken.
        ArchiveError, DownloadError: no whole archive could be had.
    """
    speak()
    load_extensions(cfg.extensions)
    if "description" in cfg.data:
        _prepare_folder(cfg)
    elif cfg.data.get("scenes") is not None:
        build.build_datamodule(compose.checked(cfg)).prepare_data()
        log.info("Scenes: %s", cfg.data.root)
    else:
        _prepare_archive(cfg)
    if cfg.check:
        check(cfg, run_dir)


def check(cfg: DictConfig, run_dir: Path) -> None:
    """Read every file of a dataset, print a table, and write ``dataset_report.html``.

    Raises:
        DatasetError: files are missing or broken, or have changed since the manifest was written.
    """
    cfg = compose.checked(cfg)
    record, root, tasks = compose.dataset_record(cfg), Path(cfg.data.root).expanduser(), list(cfg.tasks)
    workers = build.build_datamodule(cfg).loading()["num_workers"]
    found = inspect(record, root, tasks, cache_dir=Path(cfg.cache_dir), workers=workers)
    changed = _changed(root)
    show_inspection(record, found)
    page = run_dir / "dataset_report.html"
    write_page(page, record, root, found, tasks, Path(cfg.cache_dir), changed)
    log.info("Report: %s", page)
    wrong = sum(len(part.missing) + len(part.broken) for parts in found.values() for part in parts.values())
    if wrong or changed:
        raise DatasetError(
            f"Expected every file of {record.title} in {root} whole, got {wrong} missing or broken and {len(changed)} "
            f"changed since {MANIFEST}: see {page}."
        )


def _prepare_folder(cfg: DictConfig) -> None:
    check_source(cfg)
    root = Path(cfg.data.root).expanduser()
    if cfg.check and (root / DESCRIPTION).is_file():
        return
    path = folder.write_draft(root)
    log.info("%s\n%s", path, path.read_text(encoding="utf-8"))


def _prepare_archive(cfg: DictConfig) -> None:
    record, root, cache = (
        get_dataset(cfg.data.dataset),
        Path(cfg.data.root).expanduser(),
        Path(cfg.cache_dir).expanduser(),
    )
    if root.is_dir() and any(root.iterdir()):
        if cfg.source is not None:
            raise DatasetError(
                f"Expected no {root} to make {record.title} in, got one: move it away, or leave source out."
            )
        if not cfg.check:
            log.info(validate(root, record, list(cfg.tasks), cache_dir=cache).summary())
        return
    given = [cfg.source] if isinstance(cfg.source, str) else list(cfg.source or record.mirrors)
    reasons = []
    remove_partial(root.parent, root.name)
    for source in given:
        try:
            _make(record, source, root, cfg.tasks, cache)
            break
        except (ArchiveError, DownloadError, DatasetError) as error:
            if len(given) == 1 and cfg.source is not None:
                raise
            reasons.append(f"{source}: {error}")
    else:
        raise DatasetError(
            f"Expected {record.title} from source=FILE, FOLDER or URL, got none of {len(given)} mirrors "
            f"({'; '.join(reasons)}): download the archive in a browser and give source=FILE. {record.remedy}"
        )


def _make(record: DatasetRecord, source: str, root: Path, tasks: Sequence[str], cache: Path) -> None:
    """Make a dataset's folder of one source, whole or not at all."""
    require_source(source)
    fetched = source.startswith(WEB)
    path = download(source, cache / "downloads") if fetched else Path(source).expanduser()
    try:
        with replacing(root, folder=True) as partial:
            if not record.convert(path, partial):
                if path.is_dir():
                    own = shutil.ignore_patterns(partial.name)  # where the target lies inside the source
                    shutil.copytree(path, partial, dirs_exist_ok=True, ignore=own)
                else:
                    unpack(path, partial)
                lists = record.layout.lists or "."
                if not lift(partial, lambda inner: (inner / lists).is_dir()):
                    below = [partial, *(p for p in partial.iterdir() if p.is_dir())]
                    other = record.recognise(below) or "a folder without them"
                    raise DatasetError(
                        f"Expected {record.title} with {lists} in {source}, got {other}. {record.remedy}"
                    )
            _require_some(record, partial, tasks, cache, root)
            _write_manifest(partial)
    except (ArchiveError, DatasetError) as error:
        if fetched:
            path.unlink()  # another try shall not find it again
        raise type(error)(str(error).replace(str(partial), source)) from error  # that folder is gone
    except shutil.Error as error:  # of copytree; a full disk has been told apart
        file, _, reason = error.args[0][0]
        raise DatasetError(f"Expected files that can be copied in {path}, got {file} ({reason}).") from error
    log.info("%s: %s", record.title, root)


def _require_some(record: DatasetRecord, root: Path, tasks: Sequence[str], cache: Path, final: Path) -> None:
    """Say of which tasks not all files are there, and refuse a dataset where that is so of every task.

    Args:
        record: the dataset's.
        root: its folder.
        tasks: to look at.
        cache: for what is derived of files.
        final: what ``root`` will be called, and is in what is said.
    """
    try:
        validate(root, record, tasks, cache_dir=cache)
        return
    except DatasetError as error:
        whole, usable = error, []
    for task in tasks:
        try:
            validate(root, record, [task], cache_dir=cache)
            usable.append(task)
        except DatasetError as error:
            log.warning("%s cannot be used: %s", task, str(error).replace(str(root), str(final)))
    if not usable:
        raise whole
    log.warning("Train with tasks=[%s].", ",".join(usable))


def _write_manifest(root: Path) -> None:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    with ThreadPoolExecutor(_THREADS) as pool:
        lines = [
            f"{digest}  {p.relative_to(root).as_posix()}\n"
            for digest, p in zip(pool.map(sha256, files), files, strict=True)
        ]
    write_text(root / MANIFEST, "".join(lines))


def _changed(root: Path) -> list[str]:
    """Return the files of the manifest, where there is one, that are not as it says."""
    if not (root / MANIFEST).is_file():
        return []
    lines = [line.split("  ", 1) for line in (root / MANIFEST).read_text(encoding="utf-8").splitlines()]

    def differs(line: Sequence[str]) -> bool:
        path = root / line[1]
        return not path.is_file() or sha256(path) != line[0]

    with ThreadPoolExecutor(_THREADS) as pool:
        return [line[1] for line, wrong in zip(lines, pool.map(differs, lines), strict=True) if wrong]
