"""Settings of other types than the parameters they go to: one sentence, whatever they belong to."""

import pytest

import mtmamba
from mtmamba import build
from mtmamba.config.checks import ConfigError
from mtmamba.config.signatures import check_types
from mtmamba.models.skeleton import skeleton


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ("decoder=concat_head decoder.head_width=2.5", r"decoder\.head_width to be a whole number or null, got 2\.5: "),
        ("decoder=concat_head decoder.head_width=true", "a whole number or null, got true"),
        ("decoder=pad_net decoder.dim=null", r"decoder\.dim to be a whole number, got null"),
        ("decoder=pap decoder.beta=much", r"decoder\.beta to be a number, got much"),
        ("decoder=atrc decoder.neck=4", r"decoder\.neck to be a list or null, got 4"),
        ("decoder=fcn decoder.neck=[4,4,4,b]", r"decoder\.neck to be a list or null, got \[4,4,4,b\]"),
        ("decoder=stm1 decoder.own.depth=few", r"decoder\.own\.depth to be a whole number, got few"),
        ("decoder=mtmamba decoder.head=null", r"decoder\.head to be given, got null"),
        ("encoder.embed_dim=12.5", r"encoder\.embed_dim to be a whole number, got 12\.5"),
        ("encoder.depths=2", r"encoder\.depths to be a list, got 2"),
    ],
)
def test_a_setting_of_another_type_is_named(choices, message):
    cfg = mtmamba.load_config(["encoder=swin_micro", *choices.split()])
    with pytest.raises(ConfigError, match=f"^Expected {message}" if message[0] != "a" else message):
        build.build_model(cfg)


def make(size: int | list[int], name: str = "", other=None, **more):
    """What people's own modules may look like."""


def test_what_has_no_annotations_takes_anything():
    node = {"_target_": f"{__name__}.make", "_partial_": True, "size": [1, 2], "name": "x", "other": None, "width": 2.5}
    check_types(node, "decoder")
    check_types(node | {"_target_": "nowhere.Decoder", "size": 0.5}, "decoder")
    with pytest.raises(ConfigError, match=r"size to be a whole number or a list, got 0\.5"):
        check_types(node | {"size": 0.5}, "decoder")


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ("decoder=atrc decoder.neck=[1,1,1,1]", "at least 8 channels"),
        ("decoder=atrc decoder.genotype=t_label decoder.label_outputs.depth=0", "decoder.label_outputs of at least 1"),
        ("decoder=cross_stitch decoder.lr_scale=-1", "decoder.lr_scale of at least 0, got -1"),
        ("decoder=stm1 decoder.own.depth=-1", "depth of at least 0, got -1"),
        ("decoder=fcn encoder.depths=[2,2,2]", r"four depths .* got \[2, 2, 2\]"),
        ("decoder=fcn encoder.depths=[1,1,1,1,1] encoder.num_heads=[1,1,1,1,1]", "four depths"),
        ("decoder=fcn encoder.embed_dim=5", "numbers of heads that divide"),
    ],
)
def test_networks_that_cannot_be_are_refused_when_they_are_built(choices, message):
    cfg = mtmamba.load_config(["data=nyud", "encoder=swin_micro", *choices.split()])
    with skeleton(), pytest.raises(ValueError, match=f"^Expected .*{message}"):
        build.build_model(cfg)


def test_a_decoder_needs_four_maps():
    with pytest.raises(ValueError, match=r"channels of four maps, .* got \[8, 16, 32\]"):
        build.build_decoder(mtmamba.load_config(["decoder=fcn"]), (8, 16, 32))


@pytest.mark.parametrize("choice", ["data.num_outputs.semseg=0", "data.num_outputs.depth=1.5", "encoder.lr_scale=-1"])
def test_settings_without_sense_are_refused_before_anything_is_built(choice):
    key, _, value = choice.partition("=")
    with pytest.raises(ConfigError, match=rf"^Expected {key} to be a .*, got {value}:"):
        mtmamba.load_config(["data=nyud", choice])


def test_as_many_outputs_as_a_datasets_classes_have_names():
    with pytest.raises(ConfigError, match=r"num_outputs\.semseg to be 40, the number of semseg classes .*, got 13"):
        mtmamba.load_config(["data=nyud", "data.num_outputs.semseg=13"])


@pytest.mark.parametrize(("name", "meant"), [("NYUDv2", "nyud"), ("PASCALContext", "pascal_context")])
def test_an_older_spelling_of_a_dataset_becomes_its_name(name, meant):
    cfg = mtmamba.load_config([f"data={meant}", f"data.dataset={name}", "decoder=atrc"])
    assert (cfg.data.dataset, cfg.decoder.genotype) == (meant, meant)
