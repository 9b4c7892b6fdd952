"""What ``predict.py`` is asked for, checked before PyTorch is imported: the inputs, and a folder for results."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from mtmamba.files import remove_partial
from mtmamba.inference.sources import Item, find_images, find_videos, is_video


@dataclass(frozen=True)
class Request:
    """What is to be predicted, and where results go.

    Attributes:
        images: files and addresses.
        videos: films, cameras and streams.
        folder: for results; nothing is made yet.
    """

    images: list[Item]
    videos: list[Item]
    folder: Path


def read_request(cfg: DictConfig) -> Request:
    """Find what ``cfg.source`` means, and look at ``cfg.save_dir``.

    Args:
        cfg: of ``configs/predict.yaml``.

    Raises:
        SourceError: a source means nothing.
        FileExistsError: the folder holds files and ``overwrite`` is false, or is a file.
    """
    sources = [str(source) for source in (cfg.source if OmegaConf.is_list(cfg.source) else [cfg.source])]
    images = [source for source in sources if not is_video(source)]
    videos = find_videos(source for source in sources if is_video(source))
    return Request([] if videos and not images else find_images(images), videos, _folder(cfg))


def _folder(cfg: DictConfig) -> Path:
    if cfg.save_dir is None:
        return Path(cfg.log_dir).expanduser() / "predict" / f"{datetime.now():%Y-%m-%d_%H-%M-%S-%f}"
    folder = Path(cfg.save_dir).expanduser()
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"Expected a folder in save_dir, got the file {folder}: choose another.")
    require_new(folder, cfg.overwrite)
    remove_partial(folder)
    return folder


def require_new(folder: Path, overwrite: bool) -> None:
    """Raise FileExistsError where a folder holds files that nobody allowed to be replaced."""
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise FileExistsError(f"Expected a new or empty save_dir, got {folder} with files in it: add overwrite=true.")
