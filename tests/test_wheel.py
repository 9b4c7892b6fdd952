"""The wheel holds what the package reads: configurations, CUDA sources, the report's template."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from mtmamba.cli import OF_THE_REPOSITORY

ROOT = Path(__file__).parents[1]
USE = """
import importlib.util, json
from pathlib import Path
import mtmamba
from mtmamba.report import page
from mtmamba.scan import cuda_operators, available_backends
model = mtmamba.build_model(mtmamba.load_config(["decoder=stm1"]))
sources = {name: cuda_operators.source(name).count("__global__") for name in ("ss2d_forward", "ss2d_backward", "steps")}
template = Path(page.__file__).with_name("page.html.jinja").stat().st_size
print(json.dumps([mtmamba.__file__, sources, template > 0, sum(p.numel() for p in model.parameters()) > 0]))
"""


def test_the_wheel_is_whole(tmp_path):
    pytest.importorskip("hatchling", reason="pip install hatchling")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    installed = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(installed)
    for folder, inside in ((ROOT / "src/mtmamba", "mtmamba"), (ROOT / "configs", "mtmamba/configs")):
        files = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
        wanted = {path for path in files if "__pycache__" not in path.parts}
        assert {path for path in wanted if not (installed / inside / path).is_file()} == set()
    commands = {path.name for path in (ROOT / "src").glob("*.py")} - {f"{name}.py" for name in OF_THE_REPOSITORY}
    assert {path.name for path in (installed / "mtmamba/scripts").iterdir()} == commands
    for name in ("nyud_lite", "rooms_micro"):
        assert (installed / f"mtmamba/released_models/{name}/model.safetensors").is_file()
    environment = os.environ | {"PYTHONPATH": str(installed)}
    done = subprocess.run(
        [sys.executable, "-c", USE], cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
    )
    file, sources, *rest = json.loads(done.stdout)
    assert Path(file).is_relative_to(installed)
    assert sources == {"ss2d_forward": 1, "ss2d_backward": 1, "steps": 1}
    assert rest == [True, True]
    call = [sys.executable, "-m", "mtmamba.cli"]
    helped = subprocess.run(
        [*call, "--help"], cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
    )
    assert "  train               Train a model\n" in helped.stdout
    wrong = [*call, "train", "encoder=swin_tinny"]
    refused = subprocess.run(wrong, cwd=tmp_path, env=environment, check=False, capture_output=True, text=True)
    assert (refused.returncode, "did you mean swin_tiny?" in refused.stderr) == (1, True)
    missing = subprocess.run(
        [*call, "tran"], cwd=tmp_path, env=environment, check=False, capture_output=True, text=True
    )
    assert "did you mean train?" in missing.stderr
