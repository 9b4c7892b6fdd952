"""Test-time augmentation: one prediction from several views of an image."""

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from mtmamba.models.cuda_graphs import GraphedModel
from mtmamba.padding import resized
from mtmamba.tasks import Task


class Views:
    """Predict from an image at several scales, each also mirrored where asked to.

    Every view's maps are brought back to the image's grid and averaged as they are right for the task: probabilities
    of classes, of saliency and of boundaries; metres; unit normals, whose mean is normalised again. A mirrored view's
    normals are turned back (n_x changes sign). Depth is multiplied by the view's scale, since training divides it by
    the scale: an enlarged image looks as if taken from nearer.

    Args:
        model: images ``(B, 3, H, W)`` → ``{task: logits (B, n, H, W)}``, of any size.
        tasks: to predict.
        flip: add each view's mirror image.
        scales: factors of the image's height and width; images are resized bilinearly, as in training.
        cuda_graph: replay batches of the first one's shape from a CUDA graph.

    Raises:
        ValueError: no scale, one that is not positive, or one given twice.
    """

    def __init__(
        self,
        model: nn.Module,
        tasks: Sequence[Task],
        *,
        flip: bool = False,
        scales: Sequence[float] = (1,),
        cuda_graph: bool = False,
    ) -> None:
        if not scales or not all(s > 0 and math.isfinite(s) for s in scales) or len(set(scales)) < len(scales):
            raise ValueError(f"Expected different positive tta.scales, got {list(scales)}: give [1] for none.")
        self.model, self.tasks, self.flip, self.scales = model, tasks, flip, tuple(scales)
        self._network = GraphedModel(model) if cuda_graph else model

    def __call__(self, images: Tensor, grid: Sequence[int] | None = None) -> dict[str, Tensor]:
        """Return what each task's metric takes, ``{task: prediction}``, for images ``(B, 3, H, W)``.

        Args:
            images: normalised.
            grid: height and width of the predictions; the images' by default.
        """
        maps = self.maps(images, grid)
        return {task.name: task.decide(maps[task.name]) for task in self.tasks}

    def maps(self, images: Tensor, grid: Sequence[int] | None = None) -> dict[str, Tensor]:
        """Return each task's activated maps ``(B, m, *grid)``, the mean of all views; the images' grid by default."""
        grid = images.shape[-2:] if grid is None else grid
        total: dict[str, Tensor] = {}
        for scale in self.scales:
            for mirrored in (False, True)[: 1 + self.flip]:
                for name, maps in self._view(images, grid, scale, mirrored).items():
                    total[name] = total[name] + maps if name in total else maps
        count = len(self.scales) * (1 + self.flip)
        return {name: maps / count for name, maps in total.items()}

    def _view(self, images: Tensor, grid: Sequence[int], scale: float, mirrored: bool) -> dict[str, Tensor]:
        """Return the activated maps of one view, on a grid; those of the image itself are activated there."""
        height, width = images.shape[-2:]
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
        view = images if scale == 1 else F.interpolate(images, size, mode="bilinear", align_corners=False)
        logits = self._network(view.flip(-1) if mirrored else view)
        found = {}
        for task in self.tasks:
            own = logits[task.name]
            maps = task.activate(resized(own, grid) if scale == 1 else own)
            if mirrored:
                maps = maps.flip(-1)
                maps[:, list(task.mirrored)] *= -1
            maps = resized(maps, grid)
            found[task.name] = maps * scale if task.nearer else maps
        return found
