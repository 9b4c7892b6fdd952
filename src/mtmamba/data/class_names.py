"""The names of the datasets' classes, in the order of their numbers in memory."""

from collections.abc import Mapping
from types import MappingProxyType

NYU_CLASSES = tuple(
    """wall floor cabinet bed chair sofa table door window bookshelf picture counter blinds desk shelves curtain dresser
    pillow mirror floor_mat clothes ceiling books refrigerator television paper towel shower_curtain box whiteboard
    person night_stand toilet sink lamp bathtub bag otherstructure otherfurniture otherprop""".split()  # noqa: SIM905 - a line each would hide the rest
)
VOC_CLASSES = tuple(
    """background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person
    pottedplant sheep sofa train tvmonitor""".split()  # noqa: SIM905 - as above
)
PART_CLASSES = ("background", "head", "torso", "upper_arms", "lower_arms", "upper_legs", "lower_legs")

CLASS_NAMES: Mapping[str, Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "NYUDv2": {"semseg": NYU_CLASSES},
        "PASCALContext": {"semseg": VOC_CLASSES, "human_parts": PART_CLASSES},
    }
)
"""Class names by the dataset's layout and the task."""
