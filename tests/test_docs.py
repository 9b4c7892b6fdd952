"""What the documents show works as it stands there."""

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import mtmamba
from mtmamba.export.program import Deployed
from mtmamba.models.skeleton import skeleton
from mtmamba.shipped import config_dir
from mtmamba.stats.flops import model_stats

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def test_the_examples_of_the_evaluation_page_run():
    blocks = re.findall(r"^```python\n(.*?)^```", (DOCS / "evaluation.md").read_text(encoding="utf-8"), re.M | re.S)
    assert len(blocks) == 3
    exec("\n".join(blocks), {})


def test_the_example_of_the_exporting_page_gives_what_predict_does(tmp_path, monkeypatch):
    """Its runtime is PyTorch here, so that nothing is exported; its image has borders of odd widths."""
    model = mtmamba.load_model("rooms_micro")
    height, width = model.description["values"]["data"]["crop_size"]

    class Session:
        def __init__(self, path):
            self.network = Deployed(model, normalise=True)

        def get_outputs(self):
            return [SimpleNamespace(name=task) for task in self.network(torch.zeros(1, 3, 32, 32))]

        @torch.no_grad()
        def run(self, _, inputs):
            return [x.numpy() for x in self.network(torch.from_numpy(inputs["images"])).values()]

    monkeypatch.setitem(sys.modules, "onnxruntime", SimpleNamespace(InferenceSession=Session))
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (height - 45, width - 31, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("photo.jpg")
    Path("net.onnx.json").write_text(json.dumps({"training_size": [height, width]}))
    (block,) = re.findall(r"^```python\n(.*?)^```", (DOCS / "exporting.md").read_text(encoding="utf-8"), re.M | re.S)
    found = {}
    exec(block, found)
    expected = mtmamba.Predictor(model, device="cpu")("photo.jpg")
    assert (found["classes"] == expected["semseg"]).mean() > 0.999
    for name, task in {"metres": "depth", "normals": "normals", "boundaries": "edge"}.items():
        np.testing.assert_allclose(found[name], expected[task], atol=1e-4)


@pytest.mark.slow
def test_the_page_on_decoders_has_the_sizes_and_costs_that_are_counted():
    page = (DOCS / "decoders.md").read_text(encoding="utf-8")
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("| `")]
    rows = {cells[0].strip("`"): cells[3:] for cells in lines if not cells[0].startswith("`decoder=")}
    decoders = {path.stem for path in (config_dir() / "decoder").glob("*.yaml")}
    assert rows.keys() == decoders - {"stm1", "stm2", "stm3", "swin2"}
    for decoder, figures in rows.items():
        for i, data in enumerate(("nyud", "pascal_context")):
            cfg = mtmamba.load_config([f"decoder={decoder}", f"data={data}"], "model_stats")
            with skeleton():
                stats = model_stats(mtmamba.build_model(cfg), cfg.image_size, "macs")
            found = [f"{stats.total_parameters:,}", f"{stats.total_flops / 1e9:.1f}"]
            assert figures[i::2] == found, (decoder, data)


@pytest.mark.parametrize(
    "page", [*DOCS.glob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=lambda path: path.name
)
def test_the_files_that_a_page_names_exist(page):
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"(?<![\w/.])(?:configs|docs|notebooks|src|tests)/[\w/]+(?:\.\w+)?", text)
    assert [name for name in named if not (ROOT / name).exists()] == []
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_files_that_the_architecture_page_names_exist():
    page, _, _ = (DOCS / "architecture.md").read_text(encoding="utf-8").partition("## Files one must touch")
    named = re.findall(r"`((?:[\w]+/)*\w+(?:\.(?:py|yaml|md)|/))`", page)
    named = [name for name in named if "NAME" not in name and not name.startswith(("DIR", "pictures", "predictions"))]
    assert len(named) > 20
    assert [name for name in named if not any((base / name).exists() for base in (ROOT, ROOT / "src/mtmamba"))] == []


def test_the_architecture_page_says_what_each_module_holds():
    page = (DOCS / "architecture.md").read_text(encoding="utf-8")
    rows = "".join(line for line in page.splitlines() if line.startswith("| `"))
    listed = set(re.findall(r"`(\w+(?:\.py|/))`", rows))
    package = ROOT / "src/mtmamba"
    modules = {path.name for path in package.glob("*.py")} | {f"{path.parent.name}/" for path in package.glob("*/*.py")}
    assert modules - listed == {"__init__.py"}
