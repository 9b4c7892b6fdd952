"""The notebooks: that their code fits the package, and that they run."""

import ast
import importlib
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from fake_runs import PAPER, paper_scores, write_logs, write_run

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
SCENES = "data.scenes={train: 3, val: 2, size: [64, 96], seed: 0}"
FEW = {
    "comparing_runs": {},
    "dataset": {"SETTINGS": ["data=synthetic", SCENES, "data.crop_size=[64, 96]"], "SHOWN": 2, "COUNTED": 2},
    "prediction": {"SETTINGS": ["data=synthetic", SCENES, "data.crop_size=[64, 96]"], "SCORED": 2},
}
"""By notebook, what replaces its parameters in these tests."""


def code(notebook):
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def executed(name, **parameters):
    """Run a notebook's cells with other parameters, in its own folder; return what it printed and how often it drew."""
    path = next(path for path in NOTEBOOKS if path.stem == name)
    notebook = nbformat.read(path, 4)
    (place,) = (i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", ()))
    other = "\n".join(f"{key} = {value!r}" for key, value in (FEW[name] | parameters).items())
    notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(other))
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(path.parent)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    printed = "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")
    return printed, [output.data for output in outputs if "data" in output]


def test_every_notebook_has_parameters_that_these_tests_replace():
    assert [path.stem for path in NOTEBOOKS] == sorted(FEW)
    for path in NOTEBOOKS:
        (cell,) = (cell for cell in nbformat.read(path, 4).cells if "parameters" in cell.metadata.get("tags", ()))
        names = {
            target.id
            for node in ast.parse(cell.source).body
            for target in ast.walk(node)
            if isinstance(target, ast.Name)
        }
        assert FEW[path.stem].keys() <= names


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_small_holds_no_output_and_imports_what_is_there(path):
    notebook = nbformat.read(path, 4)
    nbformat.validate(notebook)
    assert path.stat().st_size < 30_000
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)
    tree = ast.parse("\n".join(code(notebook)))
    imported = [
        (node.module, name.name) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for name in node.names
    ]
    ours = [(module, name) for module, name in imported if module.split(".")[0] == "mtmamba"]
    assert len(ours) > 3
    for module, name in ours:
        assert not name.startswith("_")
        if not hasattr(importlib.import_module(module), name):
            importlib.import_module(f"{module}.{name}")
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert {name for name in used if name.startswith("_") and not name.endswith("__")} == set()


@pytest.mark.slow
def test_the_dataset_notebook_shows_images_classes_depth_and_augmentation(tmp_path, monkeypatch):
    monkeypatch.setenv("MTMAMBA_CACHE", str(tmp_path))
    printed, drawn = executed("dataset")
    assert "NYUDv2: 3 images to train with, 2 to validate" in printed
    assert printed.count("100.0 % of the pixels are labelled") == 4
    assert sum("image/png" in data for data in drawn) == 4  # labels, classes, depth, augmentation


@pytest.mark.slow
def test_the_prediction_notebook_puts_gates_and_directions_together_again(tmp_path, monkeypatch):
    monkeypatch.setenv("MTMAMBA_CACHE", str(tmp_path))  # its own assertions compare the parts with the network's output
    printed, drawn = executed("prediction")
    assert "STM, STM, CTM" in printed
    shares = [line for line in printed.splitlines() if ": rows " in line]
    assert len(shares) == 4
    for line in shares:
        assert sum(int(word) for word in line.replace("%", "").split() if word.isdigit()) == pytest.approx(100, abs=3)
    assert sum("image/png" in data for data in drawn) == 5  # the prediction, features twice, gates, directions


@pytest.mark.slow
def test_the_comparison_notebook_draws_ones_own_runs_beside_the_papers(tmp_path):
    scores = paper_scores("semseg depth normals edge", "55.00 0.5100 18.70 78.00")
    write_run(tmp_path / "mine", PAPER, scores)
    write_logs(tmp_path / "mine")
    printed, drawn = executed("comparing_runs", RUNS=[str(tmp_path)])
    assert "'semseg mIoU': 55.0, 'depth RMSE': 0.51, 'normals mErr': 18.7, 'edge odsF': 78.0" in printed
    assert any("<svg" in data.get("text/html", "") for data in drawn)
    assert "| mtmamba |" in next(data["text/markdown"] for data in drawn if "text/markdown" in data)
    assert sum("image/png" in data for data in drawn) == 10  # costs, differences, seven tables, the small budget
