"""The table of timm's model families."""

import re
from pathlib import Path

import pytest
import timm

from mtmamba.stats.families import attempt, families, row, table

PAGE = (Path(__file__).parents[2] / "docs/training.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet18", ("its own maps", 0.1, "")),
        ("pvt_v2_b0", ("neck", 0.1, "")),
        ("vgg11", ("neck", 0.0, "")),
        ("vit_tiny_patch16_224", ("feature pyramid of a plain ViT", 0.1, "")),
        ("coatnet_nano_rw_224", ("", 0.0, "takes images of one size")),
        ("visformer_tiny", ("", 0.0, "has maps at strides (8, 16, 32), without [4]")),
        ("legacy_xception", ("", 0.0, "has a map of (103, 151) at stride 4 of (416, 608), not (104, 152)")),
    ],
)
def test_a_model_is_tried(name, expected):
    trial = attempt(name)
    assert (trial.name, trial[1:]) == (name, expected)


def test_a_row_counts_and_gives_the_reason():
    trials = [attempt(name) for name in ("resnet18", "bat_resnext26ts", "vgg11")]
    assert row("mixed", trials) == (
        "| mixed | 2 of 3 | `resnet18` | its own maps; neck; `encoder.drop_path=0`; "
        "`bat_resnext26ts` takes images of one size |"
    )


def test_every_model_has_its_family():
    found = families(0)
    assert sorted(name for names in found.values() for name in names) == sorted(timm.list_models())
    assert "vit_tiny_patch16_224" in found["vision_transformer"]


def rows_of_the_page():
    lines = PAGE.partition("| family | work |")[2].partition("\n\n")[0].splitlines()[2:]
    return {line.split(" | ")[0].removeprefix("| "): line for line in lines}


same_timm = pytest.mark.skipif(f"timm {timm.__version__}," not in PAGE, reason="the page is of another timm")


@same_timm
def test_the_page_has_a_row_of_every_family():
    found, rows = families(), rows_of_the_page()
    assert {family: re.search(r"of (\d)", line)[1] for family, line in rows.items()} == {
        family: str(len(names)) for family, names in found.items()
    }
    for family in ("mambaout", "selecsls", "visformer", "xception"):
        assert row(family, [attempt(name) for name in found[family]]) == rows[family]


@same_timm
@pytest.mark.slow
def test_the_page_has_the_table():
    assert list(table())[2:] == list(rows_of_the_page().values())
