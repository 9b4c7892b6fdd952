"""What balancing costs: the curves that are kept, and the table that is made of them."""

import csv
from pathlib import Path

import pytest

import toy_network  # noqa: F401 - registers encoder=toy
from mtmamba.benchmarks.balancing import curve, methods, table

DOCS = Path(__file__).parents[2] / "docs"


def test_the_table_says_how_much_longer_a_step_takes_than_without():
    points = [
        {"balancing": "none", "step": 10, "ms": 20.0, "depth": 2.0},
        {"balancing": "none", "step": 20, "ms": 30.0, "depth": 1.5},
        {"balancing": "mine", "step": 10, "ms": 90.0, "depth": 2.0},
        {"balancing": "mine", "step": 20, "ms": 60.0, "depth": 1.25},
    ]
    head = ["|  | a step takes | depth |", "| --- | --- | --- |"]
    assert list(table(points)) == [*head, "| `none` | 1.00 | 1.500 |", "| `mine` | 3.00 | 1.250 |"]


def test_the_page_has_the_table_of_the_curves_that_are_kept():
    with (DOCS / "balancing.csv").open(encoding="utf-8") as file:
        points = list(csv.DictReader(file))
    assert list(dict.fromkeys(point["balancing"] for point in points)) == methods()
    assert "\n".join(table(points)) in (DOCS / "training.md").read_text(encoding="utf-8")


def test_a_curve_falls_and_starts_where_every_other_does(tmp_path):
    settings = ["encoder=toy", "decoder=toy", "trainer.max_steps=30", "optimizer.lr=0.05", f"cache_dir={tmp_path}"]
    settings += ["data.crop_size=[32,64]", "data.scenes.size=[32,64]", "data.scenes.train=8", "data.scenes.val=1"]
    settings += ["tasks=[depth,edge]", "data.num_workers=0"]
    plain, weighted = (curve(method, settings) for method in ("none", "rlw"))
    assert [point["step"] for point in plain] == [10, 20, 30]
    assert list(plain[0]) == ["balancing", "step", "ms", "depth", "edge"]
    assert plain[-1]["depth"] < plain[0]["depth"]
    assert plain[0]["ms"] > 0
    assert weighted[0]["depth"] == pytest.approx(plain[0]["depth"], rel=0.5)
    assert weighted != plain
