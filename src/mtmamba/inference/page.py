"""The demonstration page: a photograph in, every task over it, raw results out; needs gradio (``mtmamba[demo]``)."""

import html
import sys
import time
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any

from PIL import Image

from mtmamba.inference.images import Photo, read_photo
from mtmamba.inference.overlay import HEAD, overlay
from mtmamba.inference.predictor import Predictor
from mtmamba.inference.sources import SourceError, find_examples

WAITING = 16
"""How many visitors may wait in the queue."""
KEPT = 600
"""Seconds that visitors' photographs and results stay on the disk."""


def launch(predictor: Predictor, *, host: str, port: int | None, examples: str | None, block: bool = True) -> Any:
    """Serve the page.

    Args:
        predictor: of the model.
        host: whose network may see it; ``127.0.0.1`` is this machine alone.
        port: a free one from 7860 on by default.
        examples: a folder of images to pick from.
        block: serve until Ctrl-C; else return the running page.

    Raises:
        SourceError: gradio is missing, or the folder has no images.
    """
    try:
        import gradio
    except ImportError as error:
        raise SourceError("Expected gradio for the page, got none: pip install 'mtmamba[demo]'.") from error
    page = build(gradio, predictor, examples)
    served = page.queue(max_size=WAITING).launch(
        server_name=host, server_port=port, prevent_thread_lock=True, head=HEAD, quiet=True
    )
    if block:
        sys.stdout.write(f"The page is at {served[1]}; Ctrl-C ends it.\n")
        sys.stdout.flush()
        page.block_thread()
    return served


def build(gradio: Any, predictor: Predictor, examples: str | None) -> Any:
    """Return the page, not served yet; visitors' archives lie in a folder that goes with it."""
    folder = TemporaryDirectory(prefix="mtmamba_")

    def answer(photograph: str | Image.Image | None) -> tuple[str, str | None]:
        if photograph is None:
            return "", None
        try:
            return predicted(predictor, read_photo(photograph), Path(folder.name))
        except SourceError as error:
            text = str(error).replace(str(photograph), Path(str(photograph)).name)  # visitors know no folder of ours
            return f'<p role="alert">{html.escape(text)}</p>', None

    with gradio.Blocks(title="MTMamba", delete_cache=(KEPT, KEPT)) as page:  # gradio's own copies
        titles = ", ".join(task.title.lower() for task in predictor.tasks)
        gradio.Markdown(f"# MTMamba\nA photograph in: {titles} out. Point at a picture to read its values.")
        with gradio.Row():
            photograph = gradio.Image(type="pil", label="Photograph", elem_id="photograph", height=320, min_width=320)
            download = gradio.File(label="Raw results", elem_id="download", min_width=320)
            decoded = photograph.preprocess  # it answers a broken file with "Error" alone
            photograph.preprocess = lambda sent: sent.path if sent and sent.path else decoded(sent)
        found = gradio.HTML(elem_id="found")
        if examples is not None:
            gradio.Examples(find_examples(examples), inputs=photograph)
        photograph.change(answer, photograph, [found, download])
    return page


def predicted(predictor: Predictor, photo: Photo, folder: Path) -> tuple[str, str]:
    """Return what the page shows of a photograph, and an archive of the raw results, pictures and the sheet.

    Args:
        predictor: of the model.
        photo: the photograph.
        folder: for archives; those older than `KEPT` are removed.
    """
    for old in folder.glob("*/results.zip"):
        if time.time() - old.stat().st_mtime > KEPT:
            old.unlink()
            old.parent.rmdir()
    result = next(predictor.photos([("photograph", photo)]))
    archive = Path(mkdtemp(dir=folder)) / "results.zip"
    with TemporaryDirectory(dir=folder) as files, zipfile.ZipFile(archive, "w") as file:
        for path in result.save(files):
            file.write(path, path.relative_to(files))
    return overlay(result), str(archive)
