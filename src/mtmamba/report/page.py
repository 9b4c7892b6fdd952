"""One HTML file with everything in it: tables, curves, pictures. It opens from disk and asks nothing of the network."""

import base64
import io
import warnings
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

import mtmamba
from mtmamba.report.curves import COLOURS, charts, read_curves
from mtmamba.report.groups import Group
from mtmamba.report.runs import Run
from mtmamba.report.tables import Column, TextTable
from mtmamba.tasks import all_tasks

JPEG_QUALITY = 82


class Picture(NamedTuple):
    """A picture panel: where it lies, and as a ``data:`` URL or why not."""

    path: Path
    url: str | None
    reason: str = ""


class PictureError(ValueError):
    """A file that is not shown; the message says why."""


class Section(NamedTuple):
    """A configuration's part of the page."""

    group: Group
    charts: Sequence[tuple[str, Markup]]
    picture: Picture | None


def html(
    paper: Sequence[TextTable],
    tables: Sequence[TextTable],
    groups: Sequence[Group],
    sources: Sequence[str],
    about: str,
    *,
    picture_width: int,
    max_megabytes: float,
) -> str:
    """Return the page.

    Args:
        paper: the paper's tables.
        tables: all others.
        groups: the configurations whose curves and pictures to show.
        sources: where runs were looked for.
        about: how to read the tables.
        picture_width: pixels to which wider pictures are scaled down.
        max_megabytes: of pictures in the page; those beyond are only named.
    """
    sections = _sections(groups, picture_width, max_megabytes)
    return rendered(
        "page.html.jinja",
        paper=paper,
        tables=tables,
        sections=sections,
        comparable=sum(s.picture is not None and s.picture.url is not None for s in sections) > 1,
        sources=sources,
        about=about,
        colours=COLOURS,
    )


def rendered(template: str, **values: object) -> str:
    """Return a page of one of this package's templates."""
    environment = Environment(
        loader=PackageLoader("mtmamba.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(version=mtmamba.__version__, heads=_heads, **values)


def curves_of(run: Run) -> dict[str, list[tuple[int, float]]]:
    """Read a training run's curves, without the last validation: that scores the best checkpoint, at the last step."""
    curves = read_curves(run.folder)
    return {name: points[:-1] if name.startswith("val/") else points for name, points in curves.items()}


def newest_picture(folder: Path) -> Path | None:
    """Return a run's panel of the best checkpoint, else its last one; None where there is none."""
    found = sorted((folder / "pictures").glob("*.png"))
    return next((path for path in found if path.stem == "best"), found[-1] if found else None)


def embedded(path: Path, width: int) -> str:
    """Return a picture as a JPEG in a ``data:`` URL, scaled down to a width.

    Raises:
        PictureError: it is no picture, or holds too many pixels.
    """
    if not path.is_file():
        raise PictureError("it is no file")
    try:
        with warnings.catch_warnings(action="error", category=Image.DecompressionBombWarning), Image.open(path) as file:
            picture = file.convert("RGB")
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise PictureError("its pixels are too many") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise PictureError("it cannot be read as a picture") from error
    if picture.width > width:
        picture = picture.resize((width, max(1, round(picture.height * width / picture.width))), Image.Resampling.BOX)
    encoded = io.BytesIO()
    picture.save(encoded, "JPEG", quality=JPEG_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(encoded.getvalue()).decode()}"


def _sections(groups: Sequence[Group], width: int, max_megabytes: float) -> list[Section]:
    room = max_megabytes * 10**6
    sections = []
    for group in groups:
        curves = [curves_of(run) for run in group.runs if not run.is_evaluation]
        headlines = {task: all_tasks()[task].headline for task in group.network.tasks}
        path = newest_picture(group.runs[0].folder)
        picture = None if path is None else _picture(path, width, room)
        room -= len(picture.url) if picture and picture.url else 0
        sections.append(Section(group, charts(curves, headlines), picture))
    return sections


def _picture(path: Path, width: int, room: float) -> Picture:
    try:
        url = embedded(path, width)
    except PictureError as error:
        return Picture(path, None, str(error))
    return Picture(path, url) if len(url) <= room else Picture(path, None, "the page has no room left (max_megabytes)")


def _heads(columns: Sequence[Column]) -> list[tuple[str, int]]:
    """Return the headings that columns share, with how many columns each spans."""
    return [(group, len(list(same))) for group, same in groupby(column.group for column in columns)]
