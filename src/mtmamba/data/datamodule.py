"""The LightningDataModule: checks a dataset, and serves it from any optimiser step on."""

import copy
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from mtmamba.data.datasets import open_dataset
from mtmamba.data.dense import DenseDataset, Transform
from mtmamba.data.layouts import DatasetError
from mtmamba.data.loader import ResumableLoader, loading_options
from mtmamba.data.preparation.inspection import inspect
from mtmamba.data.sampler import GlobalBatchSampler, accumulation, evaluation_batches
from mtmamba.data.transforms import SCALE, ResizeTransform, TrainTransform, ValTransform
from mtmamba.data.validation import listed_problems, validate

_log = logging.getLogger(__name__)


class DenseDataModule(LightningDataModule):
    """A registered dataset, or synthetic scenes in its layout, for training and evaluation.

    The images of optimiser step n, and their augmentation, are a function of the seed and n alone, so resuming needs
    only ``trainer.global_step``, in the middle of an epoch too. The Trainer needs ``use_distributed_sampler=False`` and
    ``accumulate_grad_batches`` from the method of that name.

    Args:
        dataset: the name of a registered dataset, whose layout the folder has.
        root: the dataset's folder.
        tasks: whose targets to load.
        crop_size: height and width of the grid that images are cropped, padded or resized to.
        batch_size: images in a global batch, over all devices and accumulated micro-batches.
        device_batch_size: images that a device takes at once; its whole share of the batch when None.
        val_batch_size: images that a device takes at once in evaluation.
        num_workers: loading processes of each device; its share of the machine's cores, at most 16, when None.
        scale: least and greatest factor of the random scale in training.
        seed: of the order and the augmentation.
        cache_dir: folder for what is slow to compute from PASCAL-Context's files.
        scenes: ``train`` and ``val`` (numbers of images), ``size`` (height, width) and ``seed`` of synthetic scenes to
            write into ``root``; None for a dataset that is there.
        partial: whether images may lack labels, or which are drawn: `mtmamba.data.partial.find_labels`. Batches then
            hold ``labels``.
        description: what the dataset.yaml of a folder of one's own says; None for a registered dataset.
        resize: whether images, all of one size, are resized instead, in training without augmentation; targets keep
            their size.
        invalid: what pixels without truth hold: `mtmamba.data.datasets.Source`.
        check: what is decoded before anything is computed: ``samples``, eight images of each split with their targets;
            ``all`` in ``setup``, shared out among the devices' processes, which stop together.

    Raises:
        DatasetError: from ``prepare_data`` and ``setup``, when the folder is not what it should be; there are fewer
            validation images than devices.
        ValueError: sizes of batches that do not divide; a crop smaller than the images; a checkpoint that cannot be
            resumed exactly.
    """

    def __init__(
        self,
        *,
        dataset: str,
        root: str | Path,
        tasks: Sequence[str],
        crop_size: Sequence[int],
        batch_size: int,
        device_batch_size: int | None = None,
        val_batch_size: int = 1,
        num_workers: int | None = None,
        scale: Sequence[float] = SCALE,
        seed: int = 0,
        cache_dir: str | Path = "~/.cache/mtmamba",
        scenes: Mapping[str, Any] | None = None,
        partial: bool | str = False,
        description: Mapping[str, Any] | None = None,
        resize: bool = False,
        invalid: str = "ignored",
        check: str = "samples",
    ) -> None:
        super().__init__()
        self.record = open_dataset(dataset, description)  # an unknown dataset or task is refused before all else
        self.record.check_tasks(tasks)
        if scenes is not None and self.record.scenes is None:
            raise ValueError(f"Expected data.scenes=null for {self.record.title}, which has no synthetic scenes.")
        self.root, self.tasks = Path(root).expanduser(), tuple(tasks)
        self.crop_size, self.scale = (crop_size[0], crop_size[1]), (scale[0], scale[1])
        self.batch_size, self.device_batch_size, self.val_batch_size = batch_size, device_batch_size, val_batch_size
        self.num_workers, self.seed, self.cache_dir, self.scenes = num_workers, seed, Path(cache_dir), scenes
        self.partial, self.resize, self.invalid = partial, resize, invalid
        self.train_dataset: DenseDataset | None = None
        self.val_dataset: DenseDataset | None = None
        self._test: tuple[str, tuple[str, ...] | None] = ("val", None)
        self._prepared, self._unchecked = False, check == "all"

    def accumulate_grad_batches(self, world_size: int) -> int:
        """Return the micro-batches of each of ``world_size`` devices in a global batch."""
        return accumulation(self.batch_size, self._share(world_size), world_size)

    def prepare_data(self) -> None:
        """Generate the scenes where asked to, then check the folder; runs in one process only, and once."""
        if self._prepared:
            return
        counts = None
        if self.scenes is not None:
            from mtmamba.data.synthetic import generate  # slow to import, and only the synthetic datasets need it

            assert self.record.scenes is not None
            generate(self.root, layout=self.record.scenes, **self.scenes)
            counts = {split: self.scenes[split] for split in ("train", "val")}
        report = validate(
            self.root, self.record, self.tasks, cache_dir=self.cache_dir, counts=counts, partial=self.partial
        )
        _log.info("%s%s", "" if self.scenes is None else "Synthetic scenes in the layout of ", report.summary())
        if self.resize:
            if len(report.sizes) > 1:
                raise DatasetError(
                    f"Expected images of one size in {self.root} with data.resize=true, got {sorted(report.sizes)[:2]} "
                    "among others: batches hold targets of one size."
                )
        elif report.largest[0] > self.crop_size[0] or report.largest[1] > self.crop_size[1]:
            raise ValueError(
                f"Expected data.crop_size of at least {report.largest}, the images' greatest height and width, got "
                f"{self.crop_size}: evaluation pads whole images to it."
            )
        self._prepared = True

    def setup(self, stage: str | None = None) -> None:
        """Open both splits."""
        plain = self._plain()
        transforms = {"train": plain if self.resize else TrainTransform(self.crop_size, self.scale), "val": plain}
        settings: dict[str, Any] = {name: getattr(self, name) for name in ("seed", "cache_dir", "partial", "invalid")}
        self.train_dataset, self.val_dataset = (
            DenseDataset(self.record, self.root, split, self.tasks, transform, **settings)
            for split, transform in transforms.items()
        )
        if self._unchecked:
            self._check_all()

    def _check_all(self) -> None:
        """Read this process's share of all images and targets, and stop where any process found one broken."""
        rank, world_size = self._place()
        workers = self.loading()["num_workers"]
        share = {"workers": workers, "rank": rank, "world_size": world_size}
        found = inspect(self.record, self.root, self.tasks, cache_dir=self.cache_dir, **share)
        mine = [line for parts in found.values() for part in parts.values() for line in part.broken]
        every = [mine] * world_size
        if world_size > 1:
            torch.distributed.all_gather_object(every, mine)
        if problems := [line for lines in every for line in lines]:
            _stop_all(listed_problems(self.record, self.root, problems), rank)
        self._unchecked = False
        _log.info("Every image and target of %s was read.", self.record.title)

    def train_dataloader(self) -> ResumableLoader:
        """Return the loader of this process's micro-batches, beginning at the trainer's ``global_step``."""
        dataset = self.dataset_of("train")
        rank, world_size = self._place()
        sampler = GlobalBatchSampler(
            len(dataset),
            self.batch_size,
            self._share(world_size),
            rank=rank,
            world_size=world_size,
            seed=self.seed,
            first_step=self._global_step,
            labelled=dataset.labelled,
        )
        self._check_trainer(sampler.accumulate)
        return ResumableLoader(dataset, batch_sampler=sampler, **self.loading(keep=True))

    def plain_dataloader(self, split: str) -> DataLoader[dict[str, Any]]:
        """Return a loader of a split's images as they are, without augmentation, each once and in order."""
        dataset = copy.copy(self.dataset_of(split))
        dataset.transform = self._plain()
        return DataLoader(
            dataset, batch_sampler=evaluation_batches(len(dataset), self.val_batch_size), **self.loading()
        )

    def choose_test(self, split: str, ids: Sequence[str] | None = None) -> None:
        """Choose the images that ``test`` means: a split's, or those named among them; at first the validation images.

        Neither dataset has public test labels.
        """
        self._test = (split, None if ids is None else tuple(ids))

    def dataset_of(self, split: str) -> DenseDataset:
        """Return the dataset of ``train``, ``val`` or, without augmentation, ``test``, once ``setup`` has opened it.

        Raises:
            DatasetError: ``choose_test`` named images that are not in its split.
        """
        if split == "test":
            return self._test_dataset()
        dataset = {"train": self.train_dataset, "val": self.val_dataset}[split]
        assert dataset is not None, "setup() comes first"
        return dataset

    def val_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Return the loader of this process's share of the validation images, each once, in order."""
        return self._shared_loader(self.dataset_of("val"), keep=True)

    def test_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Return the loader of this process's share of the images that `choose_test` chose, each once, in order."""
        return self._shared_loader(self.dataset_of("test"))

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Move a batch, except for keys and labels: they are read on the CPU, which would wait for them."""
        moved = super().transfer_batch_to_device(batch, device, dataloader_idx)
        return moved | {name: batch[name] for name in ("key", "labels") if name in batch}

    def _plain(self) -> Transform:
        """Return what makes samples without augmentation."""
        return ResizeTransform(self.crop_size) if self.resize else ValTransform(self.crop_size)

    def _test_dataset(self) -> DenseDataset:
        split, ids = self._test
        dataset = copy.copy(self.dataset_of(split))
        dataset.transform = self._plain()
        if ids is not None:
            if unknown := sorted(set(ids) - set(dataset.ids)):
                raise DatasetError(
                    f"Expected ids of the {split} split, got {len(unknown)} others, such as {unknown[0]}: correct the "
                    "list, or split."
                )
            dataset.keep(set(ids))
        return dataset

    def _shared_loader(self, dataset: DenseDataset, keep: bool = False) -> DataLoader[dict[str, Any]]:
        rank, world_size = self._place()
        if len(dataset) < world_size:
            too_few = DatasetError(
                f"Expected a {dataset.split} image for each of {world_size} devices, got {len(dataset)} in "
                f"{self.root}: set trainer.devices={len(dataset)} or less."
            )
            _stop_all(too_few, rank)
        batches = evaluation_batches(len(dataset), self.val_batch_size, rank=rank, world_size=world_size)
        return DataLoader(dataset, batch_sampler=batches, **self.loading(keep))

    def _share(self, world_size: int) -> int:
        return self.device_batch_size or max(1, self.batch_size // world_size)

    def _place(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _global_step(self) -> int:
        return self.trainer.global_step if self.trainer else 0

    def loading(self, keep: bool = False) -> dict[str, Any]:
        """Return the options of every loader: worker processes, which it may keep from epoch to epoch, and memory."""
        devices = self.trainer.num_devices if self.trainer else 1
        return loading_options(self.num_workers, devices, keep)

    def _check_trainer(self, accumulate: int) -> None:
        """Refuse a trainer, or a checkpoint that it has restored, whose steps are not these global batches."""
        if not self.trainer:
            return
        if self.trainer.accumulate_grad_batches != accumulate:
            raise ValueError(
                f"Expected Trainer(accumulate_grad_batches={accumulate}) for batches of {self.batch_size}, got "
                f"{self.trainer.accumulate_grad_batches}: take it from the data module's accumulate_grad_batches()."
            )
        made = self.trainer.fit_loop.epoch_loop.batch_progress.state_dict()["current"]["processed"]
        if self.trainer.fit_loop.restarting and made % accumulate:
            raise ValueError(
                f"Expected a checkpoint written after an optimiser step, got one after micro-batch {made % accumulate} "
                f"of {accumulate}: resume from another checkpoint."
            )


def _stop_all(error: DatasetError, rank: int) -> NoReturn:
    """End what every process has found alike: the first says why."""
    if rank:
        sys.exit(1)
    raise error
