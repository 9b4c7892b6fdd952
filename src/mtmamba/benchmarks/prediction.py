"""How fast photographs become files of predictions, end to end, and where the time goes."""

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path

import torch
from PIL import Image

from mtmamba import build
from mtmamba.benchmarks.cases import network_config, require
from mtmamba.data.synthetic.render import render
from mtmamba.inference.images import read_photo
from mtmamba.inference.predict import written
from mtmamba.inference.predictor import Predictor
from mtmamba.inference.sources import find_images

SCENES = 4
"""Different synthetic photographs; more would look alike to a clock."""


def benchmark_prediction(
    *,
    networks: Mapping[str, str],
    model: str | None,
    network: str | None,
    device: torch.device,
    images: int,
    size: Sequence[int],
    batch_size: int,
    save: Sequence[str],
) -> dict[str, float]:
    """Measure what ``predict.py`` does with a folder of JPEG files, and its parts each alone.

    Args:
        networks: overrides of the training configuration, by name.
        model: what predicts, as `Predictor.from_pretrained` takes it; None for a network with random weights.
        network: which of them that is. Its results are noise, whose files take several times as long to write.
        device: where.
        images: how many files.
        size: height and width of each, in pixels.
        batch_size: images at once.
        save: of ``raw``, ``picture`` and ``sheet``.

    Returns:
        ``images_per_second`` from the files to written results, decoding, network and writing side by side; and the
        milliseconds of one image, each part alone: ``decode_ms`` and ``write_ms`` in one thread, ``network_ms`` in
        batches, from pixels to predictions in the computer's memory.

    Raises:
        ConfigError: there is no such network.
    """
    if model is not None:
        predictor = Predictor.from_pretrained(model, device=str(device))
    else:
        require("predict.network", [network], networks)
        predictor = Predictor(build.build_model(network_config(networks[str(network)])).eval(), device=str(device))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        _photographs(folder / "in", images, (size[0], size[1]))
        items = find_images(folder / "in")
        photos = [(item.name, read_photo(item.source)) for item in items]
        results = list(predictor.photos(photos[:batch_size], batch_size))  # warms up, captures
        some = results[:SCENES]
        record = {
            "decode_ms": _ms(lambda: [read_photo(item.source) for item in items[:SCENES]]) / len(some),
            "write_ms": _ms(lambda: [result.save(folder / "once", save) for result in some]) / len(some),
            "network_ms": _ms(lambda: [None for _ in predictor.photos(photos, batch_size)]) / images,
        }
        seconds = _ms(lambda: list(written(predictor.files(items, batch_size), folder / "out", save, show=False))) / 1e3
    return {"images_per_second": images / seconds, **record}


def _photographs(folder: Path, count: int, size: tuple[int, int]) -> None:
    """Write synthetic scenes as JPEG files, as often as it takes."""
    folder.mkdir()
    scenes = [Image.fromarray(render("nyud", size, seed=0, split="val", index=i)[0]) for i in range(SCENES)]
    for index, scene in enumerate(islice(cycle(scenes), count)):
        scene.save(folder / f"{index:05d}.jpg", quality=92)


def _ms(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - start)
