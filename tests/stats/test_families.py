"""The table of timm's model families."""

import pytest
import timm

from mtmamba.stats.families import attempt, families, row


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
