"""A result as a piece of a web page: each task over the photograph, a slider, a legend, values under the pointer."""

import base64
import html
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mtmamba.inference.result import Result
from mtmamba.tasks import Task
from mtmamba.tasks.legends import Legend
from mtmamba.tasks.pictures import Picture

LONGER_SIDE = 640
"""Longer side of what the page shows, in pixels; downloads have the image's own size."""

HEAD = Path(__file__).with_name("overlay.html").read_text(encoding="utf-8")
"""Styles, and what sliders and pointers call; it belongs into the page's head."""


def overlay(result: Result) -> str:
    """Return the tasks of a result side by side as HTML: the photograph, and over it each task's picture."""
    photo = _address(_shown(result.image), ".jpg")
    return f'<div class="mtmamba-tasks">{"".join(_task(result, task, photo) for task in result.tasks)}</div>'


def _task(result: Result, task: Task, photo: str) -> str:
    code, values = _code(result, task)
    name = html.escape(task.name)
    return (
        f'<div class="mtmamba-task" id="mtmamba-{name}"><b>{html.escape(task.title)}</b>'
        '<span class="mtmamba-value">&nbsp;</span>'
        f'<div class="mtmamba-figure" data-code="{html.escape(json.dumps(code))}" '
        'onmousemove="mtmambaRead(event, this)" ontouchmove="mtmambaRead(event.touches[0], this)">'
        f'<img src="{photo}" alt="photograph"><img class="mtmamba-over" alt="{html.escape(task.title)}" '
        f'src="{_address(_shown(result.picture(task.name)), ".png")}" style="opacity:0.8">'
        f'<img class="mtmamba-values" alt="" style="display:none" src="{_address(values, ".png")}"></div>'
        '<input type="range" min="0" max="1" step="0.01" value="0.8" oninput="mtmambaFade(this)" '
        f'aria-label="opacity of {html.escape(task.title)}">{_legend(result.legend(task.name))}</div>'
    )


def _code(result: Result, task: Task) -> tuple[Mapping[str, Any], NDArray[np.uint8]]:
    """Return a task's values as a picture that a page can read, and how to read it."""
    values = result[task.name]
    if values.ndim == 3:  # vectors, a component a channel
        return {"kind": "vector"}, _shown(
            np.rint((np.moveaxis(values, 0, -1) + 1) * 127.5).clip(0, 255).astype(np.uint8)
        )
    if values.dtype == np.uint8:
        names = [word.replace("_", " ") for word in result.classes.get(task.name, ())]
        return {"kind": "class", "names": names}, _shown(np.repeat(values[..., None], 3, axis=-1))
    low, high = float(values.min()), float(values.max())
    steps = np.rint((values - low) / max(high - low, 1e-12) * 65535).astype(np.uint16)
    channels = np.dstack((steps >> 8, steps & 255, np.zeros_like(steps))).astype(np.uint8)
    return {"kind": "number", "low": low, "high": high, "unit": task.units[task.headline]}, _shown(channels)


def _shown(picture: Picture) -> Picture:
    """Return a picture at the page's size; by the nearest pixel, so that codes stay what they are."""
    scale = min(1.0, LONGER_SIDE / max(picture.shape[:2]))
    size = [max(1, round(side * scale)) for side in picture.shape[1::-1]]
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_NEAREST), np.uint8)


def _address(picture: Picture, suffix: str) -> str:
    """Return a picture as an address that holds it."""
    encoded = cv2.imencode(suffix, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1].tobytes()
    kind = "jpeg" if suffix == ".jpg" else "png"
    return f"data:image/{kind};base64,{base64.b64encode(encoded).decode()}"


def _legend(legend: Legend) -> str:
    colours = [f"rgb{colour}" for _, colour in legend.entries]
    if legend.bar:
        places = ((word, 100 * i / (len(colours) - 1)) for i, (word, _) in enumerate(legend.entries) if word)
        ticks = "".join(
            f'<span style="left:{at:.4g}%;transform:translateX(-{at:.4g}%)">{html.escape(word)}</span>'
            for word, at in places
        )
        bar = f'<div class="mtmamba-bar" style="background:linear-gradient(to right,{",".join(colours)})"></div>'
        return f'{bar}<div class="mtmamba-ticks">{ticks}</div>'
    words = (word for word, _ in legend.entries)
    squares = (
        f'<span><i style="background:{c}"></i>{html.escape(w)}</span>' for w, c in zip(words, colours, strict=True)
    )
    return f'<div class="mtmamba-legend">{"".join(squares)}</div>'
