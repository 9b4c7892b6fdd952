"""From a raw sample to the fields of a ``Batch``: training augmentation, normalisation, centred padding, ignore marks.

albumentations does the work. Its stock transforms normalise and pad; where they would give wrong labels (the scale
leaves depth as it is, the flip leaves n_x) they are subclassed, and what they lack (a crop redrawn by its classes, the
photometric distortion on uint8) is written here. Nothing is resized to the crop's size: it is cropped or padded.

A raw sample is a dict of numpy arrays on one grid ``(h, w)``, the targets those of the selected tasks:

* ``image (h, w, 3)`` uint8 RGB;
* each task's target ``(h, w)`` or ``(h, w, channels)`` in the type that its record names, 255 where there is no truth;
* ``id`` a string.
"""

import os
import random
from typing import Any

import cv2
import numpy as np
import torch

from mtmamba.data.dense import RawSample
from mtmamba.data.photometric import Array, Distortion, distort, draw_distortion
from mtmamba.padding import resize_image
from mtmamba.tasks import all_tasks
from mtmamba.types import IGNORE, IMAGENET_MEAN, IMAGENET_STD

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # its import would ask the network for a newer release
import albumentations as A
from albumentations.core.type_definitions import Targets
from albumentations.pytorch import ToTensorV2

Sample = dict[str, torch.Tensor | str]

SCALE = (0.5, 2.0)
"""Range of the random scale."""
CROP_REDRAWS = 10
"""How often a crop of too few classes is drawn again."""
CROP_SHARE = 0.75
"""Share of the valid pixels that a crop's largest class must stay below."""


class RandomScale(A.RandomScale):
    """Resize by s ~ U(scale) to ``int(side * s)``: image bilinear, labels nearest; depth (`Task.nearer`) falls by s."""

    def __init__(self, scale: tuple[float, float] = SCALE) -> None:
        limits = scale[0] - 1, scale[1] - 1
        super().__init__(limits, interpolation=cv2.INTER_LINEAR, mask_interpolation=cv2.INTER_NEAREST, p=1)

    def apply_with_params(self, params: dict[str, Any], *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Resize every map of the sample; depth is divided on the source's grid, where it is the same and smaller."""
        for name, task in all_tasks().items():
            if task.nearer and name in kwargs:
                kwargs[name] = np.where(kwargs[name] == IGNORE, kwargs[name], kwargs[name] / params["scale"])
        return super().apply_with_params(params, *args, **kwargs)


class RandomCrop(A.DualTransform):
    """Crop a window drawn evenly, again (10 times at most) until its classes vary enough.

    Without a target that guides the crop (`Task.guides_crop`) the window is drawn once.

    A side shorter than the crop is kept whole.

    Args:
        crop_size: height and width.
    """

    _targets = (Targets.IMAGE, Targets.MASK)

    def __init__(self, crop_size: tuple[int, int]) -> None:
        super().__init__(p=1)
        self.crop_size = crop_size

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """Draw the window, two slices."""
        shape = params["shape"][:2]
        guide = next((data[name] for name, task in all_tasks().items() if task.guides_crop and name in data), None)
        window = self._draw(shape)
        if guide is None or (shape[0] <= self.crop_size[0] and shape[1] <= self.crop_size[1]):
            return {"window": window}
        for _ in range(CROP_REDRAWS):
            if has_varied_classes(guide[window]):
                break
            window = self._draw(shape)
        return {"window": window}

    def apply(self, img: Array, window: tuple[slice, slice], **_: Any) -> Array:
        """Cut the window out of an image or a label map."""
        return img[window]

    def _draw(self, shape: tuple[int, int]) -> tuple[slice, ...]:
        starts = [self.random_generator.integers(max(n - c, 0) + 1) for n, c in zip(shape, self.crop_size, strict=True)]
        return tuple(slice(start, start + c) for start, c in zip(starts, self.crop_size, strict=True))


class HorizontalFlip(A.HorizontalFlip):
    """Mirror every map with probability 0.5; the channels of `Task.mirrored` change their sign."""

    def __init__(self) -> None:
        super().__init__(p=0.5)

    def apply_with_params(self, params: dict[str, Any], *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Mirror every map of the sample."""
        flipped = super().apply_with_params(params, *args, **kwargs)
        for name, task in all_tasks().items():
            for channel in task.mirrored if name in flipped else ():
                x = flipped[name][..., channel]
                np.negative(x, out=x, where=x != IGNORE)
        return flipped


class PhotometricDistortion(A.ImageOnlyTransform):
    """Distort brightness, contrast, saturation and hue of the uint8 image."""

    def __init__(self) -> None:
        super().__init__(p=1)

    def get_params(self) -> dict[str, Any]:
        """Draw the distortion."""
        return {"distortion": draw_distortion(self.random_generator)}

    def apply(self, img: Array, distortion: Distortion, **_: Any) -> Array:
        """Distort the image."""
        return distort(img, distortion)


class ResizedImage(A.ImageOnlyTransform):
    """Resize the image alone to a height and width, bilinearly as Pillow does it: over all pixels that one covers."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__(p=1)
        self.size = size

    def apply(self, img: Array, **_: Any) -> Array:
        """Resize the image."""
        return resize_image(img, self.size)


class ValTransform:
    """Normalise with ImageNet's mean and standard deviation, pad to the crop's size, mark what is ignored.

    The padding is centred (the smaller half first); it holds 0 in the normalised image and 255 in every label.
    Each target has its task's last step first (``Task.finish_target``).

    Args:
        crop_size: height and width of the padded grid ``H, W``.
    """

    def __init__(self, crop_size: tuple[int, int]) -> None:
        self.crop_size = crop_size
        height, width = crop_size
        pad = A.PadIfNeeded(height, width, border_mode=cv2.BORDER_CONSTANT, fill=0, fill_mask=IGNORE)
        steps = [A.Normalize(IMAGENET_MEAN, IMAGENET_STD), pad, ToTensorV2(transpose_mask=True)]
        self._steps = A.Compose(steps, additional_targets=dict.fromkeys(all_tasks(), "mask"))

    def __call__(self, sample: RawSample, rng: np.random.Generator) -> Sample:
        """Turn a raw sample into the fields of a ``Batch`` without the batch axis; nothing is drawn from ``rng``.

        Raises:
            ValueError: a map has another shape or type than a raw sample's, or the image is larger than ``crop_size``.
        """
        height, width = sample["image"].shape[:2]
        if height > self.crop_size[0] or width > self.crop_size[1]:
            raise ValueError(
                f"Expected images of at most {self.crop_size}, got {(height, width)} for sample {sample['id']}: "
                "set crop_size to at least the largest height and the largest width among the images."
            )
        return _fields(self._steps, sample)


class ResizeTransform:
    """Resize the image bilinearly, and nothing else: targets keep the size of their files. Normalise as `ValTransform`.

    Args:
        size: height and width of the image for the network.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        steps = [ResizedImage(size), A.Normalize(IMAGENET_MEAN, IMAGENET_STD), ToTensorV2(transpose_mask=True)]
        self._steps = A.Compose(steps, additional_targets=dict.fromkeys(all_tasks(), "mask"))

    def __call__(self, sample: RawSample, rng: np.random.Generator) -> Sample:
        """Turn a raw sample into the fields of a ``Batch`` without the batch axis; nothing is drawn from ``rng``.

        Raises:
            ValueError: a map has another shape or type than a raw sample's.
        """
        return _fields(self._steps, sample)


class TrainTransform:
    """Random scale, crop, flip and photometric distortion, in this order; then as ``ValTransform``.

    Args:
        crop_size: height and width of the crop, and of the padded grid ``H, W``.
        scale: least and greatest factor of the random scale.
    """

    def __init__(self, crop_size: tuple[int, int], scale: tuple[float, float] = SCALE) -> None:
        steps = [RandomScale(scale), RandomCrop(crop_size), HorizontalFlip(), PhotometricDistortion()]
        self.augment = A.Compose(steps, additional_targets=dict.fromkeys(all_tasks(), "mask"))
        self.finish = ValTransform(crop_size)

    def __call__(self, sample: RawSample, rng: np.random.Generator) -> Sample:
        """Augment a raw sample with draws from ``rng`` alone; the sample itself is left as it is.

        Raises:
            ValueError: a map has another shape or type than a raw sample's.
        """
        check_sample(sample)
        self.seed_from(rng)
        return self.finish(self.augment(**sample), rng)

    def seed_from(self, rng: np.random.Generator) -> None:
        """Make ``rng`` the source of the next sample's draws (albumentations wants one of Python's beside numpy's)."""
        self.augment.set_random_state(rng, random.Random(int(rng.integers(2**63))))


def _fields(steps: A.Compose, sample: RawSample) -> Sample:
    """Return what steps make of a raw sample, after its targets' last step; ``size`` is that of the targets."""
    check_sample(sample)
    tasks = all_tasks()
    finished = {name: tasks[name].finish_target(target) for name, target in sample.items() if name in tasks}
    fields = steps(**{**sample, **finished})
    maps = {name: x.contiguous() for name, x in fields.items() if isinstance(x, torch.Tensor)}
    return {**fields, **maps, "size": torch.tensor(sample["image"].shape[:2])}


def has_varied_classes(semseg: Array) -> bool:
    """Whether a crop shows more than one class, the largest on less than 75 % of the valid pixels.

    Example:
        >>> has_varied_classes(np.array([[3, 3, 7, 255]], np.uint8))
        True
    """
    counts = cv2.calcHist([semseg], [0], None, [IGNORE], [0, IGNORE])
    return bool(np.count_nonzero(counts) > 1 and counts.max() < CROP_SHARE * counts.sum())


def check_sample(sample: RawSample) -> None:
    """Check names, shapes and types of a raw sample's maps.

    Raises:
        ValueError: naming the sample, the map, what was expected and what came.
    """
    grid = sample["image"].shape[:2]
    layout: dict[str, tuple[str, tuple[int, ...]]] = {"image": ("uint8", (3,))}  # type, and what follows (h, w)
    layout |= {name: (task.dtype, (task.channels,) if task.channels else ()) for name, task in all_tasks().items()}
    for name, values in sample.items():
        if name == "id":
            continue
        if name not in layout:
            raise ValueError(f"Expected the maps of a sample to be among {', '.join(layout)}, got {name}: rename it.")
        dtype, tail = layout[name]
        if values.shape != grid + tail or values.dtype != dtype:
            raise ValueError(
                f"Expected {name} of sample {sample['id']} as {dtype} {grid + tail}, got {values.dtype} "
                f"{values.shape}: every map lies on the image's grid; compare the sample's files."
            )
