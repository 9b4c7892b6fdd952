"""The benchmarks' settings, and how a dataset's labels become true boundaries."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mtmamba.metrics.boundary.thinning import thin

Mask = NDArray[np.bool_]

THRESHOLDS = (0.001, *(k / 100 for k in range(1, 100)), 0.999)
"""The 101 thresholds of the multi-task literature."""


@dataclass(frozen=True)
class BoundaryProtocol:
    """What a published number was measured with.

    Attributes:
        name: of the benchmark; belongs beside each number.
        max_dist: the farthest that a match may be, as a share of the image's diagonal.
        thresholds: a pixel is predicted where its probability exceeds the threshold.
        suppress: whether non-maximum suppression precedes the thresholds.
        thin: whether each binary map is thinned.
        empty_precision: at a threshold where nothing is predicted in the whole set: 0 in the Berkeley benchmark, 1 in
            SEISM. Only AP depends on it.
        truth: labels are a ``segmentation``, whose regions' borders are thinned, or ``boundaries`` as they are.
        images: how many images the published numbers are measured on; None where none are published.
        ids: which these are.
    """

    name: str
    max_dist: float
    thresholds: tuple[float, ...]
    suppress: bool
    thin: bool
    empty_precision: float
    truth: Literal["segmentation", "boundaries"]
    images: int | None = None
    ids: str = ""

    @property
    def settings(self) -> dict[str, Any]:
        """The keyword arguments of `evaluate_boundaries`."""
        return {key: getattr(self, key) for key in ("max_dist", "thresholds", "suppress", "thin", "empty_precision")}

    def describe(self, images: int) -> str:
        """One line to print beside a number that was measured on so many images."""
        treatment = [word for word, done in (("suppressed", self.suppress), ("thinned", self.thin)) if done]
        subset = "" if self.images in (None, images) else f", not the {self.images} of published numbers ({self.ids})"
        return (
            f"{self.name}: maxDist {self.max_dist:g}, {len(self.thresholds)} thresholds, prediction "
            f"{' and '.join(treatment) or 'as it is'}, truth from {self.truth}, {images} images{subset}"
        )


_PROTOCOLS = {
    record.name: record
    for record in (
        BoundaryProtocol("nyud", 0.011, THRESHOLDS, True, True, 1.0, "segmentation", 654, "all validation images"),
        BoundaryProtocol("pascal", 0.0075, THRESHOLDS, True, True, 1.0, "segmentation", 2498, "the list test_new"),
        BoundaryProtocol(
            "bsds", 0.0075, THRESHOLDS[1:-1], False, True, 0.0, "boundaries", 200, "the test images of BSDS500"
        ),
    )
}


def protocol(name: str | BoundaryProtocol) -> BoundaryProtocol:
    """Return the benchmark's settings.

    ``nyud`` and ``pascal`` are those of the multi-task literature: prismformore/Boundary-Detection-Evaluation-Tools, a
    fork of SEISM (Pont-Tuset and Marques, PAMI 2016). In ``nyud`` the edge map itself, 0 and 255, is the segmentation.
    ``bsds`` is the Berkeley benchmark's (Arbeláez et al., PAMI 2011), which expects predictions of suppressed
    non-maxima.

    Args:
        name: ``nyud``, ``pascal`` or ``bsds``; or settings of one's own, which are returned as they are.

    Raises:
        ValueError: another name.
    """
    if isinstance(name, BoundaryProtocol):
        return name
    if name not in _PROTOCOLS:
        raise ValueError(f"Expected a protocol among {', '.join(_PROTOCOLS)}, got {name}: choose one of those.")
    return _PROTOCOLS[name]


def segmentation_boundaries(labels: NDArray[Any]) -> Mask:
    """Where a segmentation's pixel differs from the one to the east, south or south-east: ``(H, W)`` → ``(H, W)``.

    Lines are about one pixel wide, half a pixel towards the origin from the regions' border (seg2bmap of BSDS).

    >>> segmentation_boundaries(np.array([[1, 1, 2], [1, 1, 2]])).astype(int)
    array([[0, 1, 0],
           [0, 1, 0]])
    """
    found = np.zeros(labels.shape, bool)
    found[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    found[:-1] |= labels[:-1] != labels[1:]
    found[:-1, :-1] |= labels[:-1, :-1] != labels[1:, 1:]
    return found


def boundary_truth(labels: NDArray[Any], protocol: BoundaryProtocol) -> list[Mask]:
    """Return each annotator's boundaries, as `evaluate_boundaries` takes them.

    Args:
        labels: of ``nyud``, the edge map ``(H, W)``; of ``pascal``, the LabelMap of 459 classes ``(H, W)``; of
            ``bsds``, the annotators' boundaries ``(annotators, H, W)`` of 0 and 1, as `read_bsds` gives them.
        protocol: the benchmark.

    Raises:
        ValueError: labels of another shape or kind.
    """
    dimensions = 2 if protocol.truth == "segmentation" else 3
    if labels.ndim != dimensions or labels.dtype.kind not in "buif":
        raise ValueError(
            f"Expected labels of {dimensions} dimensions for protocol {protocol.name}, got {labels.dtype} of shape "
            f"{labels.shape}: pass {'a map of classes' if dimensions == 2 else 'one map per annotator'}."
        )
    if protocol.truth == "segmentation":
        return [thin(segmentation_boundaries(labels))]
    return [annotation != 0 for annotation in labels]


def read_bsds(path: Path) -> NDArray[np.uint8]:
    """Return the boundaries in a ground-truth file of BSDS500: ``(annotators, H, W)`` of 0 and 1.

    Raises:
        ValueError: the file holds something else.
    """
    from scipy.io import loadmat  # here: nobody waits for SciPy who reads no such file

    try:
        cells = loadmat(path, variable_names=["groundTruth"])["groundTruth"]
        return np.stack([cell["Boundaries"][0, 0] for cell in cells.ravel()]).astype(np.uint8)
    except (KeyError, IndexError, TypeError, ValueError, NotImplementedError) as error:
        raise ValueError(
            f"Expected groundTruth with Boundaries in {path}, got {type(error).__name__}: {error}: pass a .mat file of "
            "BSDS500's groundTruth folder."
        ) from error
