"""The authors' checkpoints into ours and back: every tensor, and an error for every file that is none."""

import logging
import os
import runpy
import sys
from itertools import product
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import mtmamba
from mtmamba import build, restore
from mtmamba.checkpoints import save_checkpoint
from mtmamba.config import compose
from mtmamba.models.adapters import ReleasedError, encoder_views
from mtmamba.models.skeleton import skeleton
from mtmamba.released import export_checkpoint, import_checkpoint

ROOT = Path(__file__).parents[1]
FIXTURES = Path(__file__).parent / "fixtures"
PARITY = Path(os.environ.get("PARITY", ROOT.parent / "shared/parity"))
TABLE = "stages.2.blocks.1.attn.w_msa.relative_position_bias_table"
SMALL = [  # the encoder of the stored decoders' widths
    "encoder=swin_micro",
    "encoder.embed_dim=5",
    "encoder.depths=[2,2,4,2]",
    "encoder.num_heads=[1,2,4,4]",
    "encoder.window=4",
]


def config(*overrides):
    return mtmamba.load_config(list(overrides), "import_checkpoint")


def under(tensors, prefix):
    return {key.removeprefix(prefix): x for key, x in tensors.items() if key.startswith(prefix)}


def stored_decoder(decoder):
    return load_file(FIXTURES / f"{decoder}_nyud_tiny.safetensors")


def stored_encoder():
    """The stored encoder's names, with random tensors of width 5 instead of 12."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn([n // 12 * 5 if n % 12 == 0 else n for n in x.shape], generator=generator)
        if x.is_floating_point()
        else x
        for name, x in under(load_file(FIXTURES / "swin_tiny.safetensors"), "state/").items()
    }


def released(decoder="mtmamba", prefix="module."):
    """A released state dict made of the stored tensors of the authors' program, not by our exporter."""
    state = under(stored_decoder(decoder), "state/") | stored_encoder()
    return {prefix + name: x for name, x in state.items()}


def write(folder, state, **more):
    path = folder / "released.pth.tar"
    torch.save({"model": state, **more}, path)
    return path


def ours(cfg, folder):
    """A checkpoint of a model whose every tensor has numbers of its own."""
    model = build.build_model(cfg)
    for x in model.state_dict().values():
        x.copy_(torch.randn(x.shape) if x.is_floating_point() else torch.tensor(7))
    state = {f"model.{name}": x for name, x in model.state_dict().items()}
    path = folder / "ours.ckpt"
    save_checkpoint({"state_dict": state, "mtmamba": compose.describe(cfg), "global_step": 3}, path)
    return path, state


def assert_equal(state, expected):
    assert state.keys() == expected.keys()
    for name, x in expected.items():
        assert state[name].dtype == x.dtype, name
        assert torch.equal(state[name], x), name


# What the authors' program wrote


@pytest.mark.parametrize("prefix", ["module.", ""])
@pytest.mark.parametrize("decoder", ["mtmamba", "mtmamba_plus"])
def test_a_released_file_becomes_a_model_with_its_outputs(decoder, prefix, tmp_path, caplog):
    state = released(decoder, prefix)
    cfg = config("experiment=nyud_mtmamba", f"decoder={decoder}", *SMALL)
    with caplog.at_level(logging.INFO):
        path = import_checkpoint(cfg, write(tmp_path, state, epoch=3))
    assert path == tmp_path / "released.ckpt"
    assert f"all {len(state)} tensors" in caplog.text

    model, stored = mtmamba.load_model(path), stored_decoder(decoder)
    with torch.no_grad():
        logits = model.decoder([stored[f"feature/{i}"].permute(0, 2, 3, 1) for i in (1, 2, 3, 4)])
    assert list(logits) == ["semseg", "depth", "normals", "edge"]
    for task, expected in under(stored, "output/").items():
        assert (logits[task] - expected).norm() < 1e-5 * expected.norm(), task

    encoder, theirs = model.encoder.state_dict(), stored_encoder()
    for name, expected in {
        "patch_embed.proj.weight": theirs["backbone.patch_embed.projection.weight"],
        "layers.2.blocks.3.attn.qkv.bias": theirs["backbone.stages.2.blocks.3.attn.w_msa.qkv.bias"],
        "layers.3.blocks.1.mlp.fc2.weight": theirs["backbone.stages.3.blocks.1.ffn.layers.1.weight"],
        "norms.3.bias": theirs["backbone.norm3.bias"],
    }.items():
        assert torch.equal(encoder[name], expected), name
    merged, plain = encoder["layers.1.downsample.norm.weight"], theirs["backbone.stages.0.downsample.norm.weight"]
    for channel, row, column in ((0, 0, 0), (4, 0, 1), (2, 1, 0), (3, 1, 1)):
        assert merged[(2 * column + row) * 5 + channel] == plain[4 * channel + 2 * row + column]


@pytest.mark.parametrize("decoder", ["mtmamba", "mtmamba_plus"])
def test_exporting_gives_the_released_file_back_bit_for_bit(decoder, tmp_path):
    state = released(decoder)
    path = import_checkpoint(config(f"decoder={decoder}", *SMALL), write(tmp_path, state))
    export_checkpoint(path, tmp_path / "back.pth")
    assert_equal(torch.load(tmp_path / "back.pth", weights_only=True)["model"], state)


def test_an_imported_checkpoint_is_what_the_evaluation_loads(tmp_path):
    path = import_checkpoint(config("experiment=nyud_mtmamba", *SMALL), write(tmp_path, released()))
    checkpoint = torch.load(path, weights_only=True)
    module = build.build_module(restore.config_of(checkpoint["mtmamba"]))
    module.load_state_dict(checkpoint["state_dict"])
    assert checkpoint["global_step"] == 0
    assert checkpoint["mtmamba"]["choices"]["data"] == "nyud"
    assert {p.name for p in tmp_path.iterdir()} == {"released.pth.tar", "released.ckpt"}


# Round trips


@pytest.mark.parametrize(
    ("experiment", "decoder"),
    [
        *product(["nyud_mtmamba", "pascal_mtmamba", "cityscapes_mtmamba"], ["mtmamba", "mtmamba_plus"]),
        ("nyud_mtmamba", "stm1"),  # whose names are no other decoder's
    ],
)
def test_a_round_trip_changes_nothing(experiment, decoder, tmp_path):
    cfg = config(f"experiment={experiment}", f"decoder={decoder}", "encoder=swin_micro")
    path, state = ours(cfg, tmp_path)
    export_checkpoint(path, tmp_path / "theirs.pth")
    theirs = torch.load(tmp_path / "theirs.pth", weights_only=True)["model"]
    assert all(name.startswith("module.") for name in theirs)
    back = import_checkpoint(cfg, tmp_path / "theirs.pth", tmp_path / "folder" / "back.ckpt")
    assert_equal(torch.load(back, weights_only=True)["state_dict"], state)


@pytest.mark.slow
def test_a_full_size_round_trip_changes_nothing(tmp_path):
    cfg = config("experiment=nyud_mtmamba", "encoder.pretrained=false")
    path, state = ours(cfg, tmp_path)
    assert sum(x.numel() for x in state.values()) == 307_999_137
    export_checkpoint(path, tmp_path / "theirs.pth.tar")
    cfg.encoder.pretrained = True  # never fetched: the file has the encoder
    back = import_checkpoint(cfg, tmp_path / "theirs.pth.tar")
    assert_equal(torch.load(back, weights_only=True, mmap=True)["state_dict"], state)


# Other authors' heads

HEADS = {  # what gives a released module's known answers, and what it is as a released file
    "invpt": ("invpt_nyud_tiny", ["decoder.dim=24", "decoder.extra=8"]),
    "atrc_wide": ("atrc_nyud_tiny_hrnet48_genotype", []),
    "mqtransformer": ("mqtransformer_nyud_tiny", ["decoder.dim=16"]),
}
NARROW = ["encoder=swin_micro", "encoder.embed_dim=4", "encoder.num_heads=[1,1,1,1]"]


@pytest.mark.parametrize("decoder", HEADS)
def test_a_released_head_alone_stands_behind_the_configured_encoder(decoder, tmp_path, caplog):
    file, choices = HEADS[decoder]
    if not (PARITY / f"{file}.safetensors").is_file():
        pytest.skip(f"PARITY=FOLDER with {file}.safetensors is not there")
    stored = {name: x.float() for name, x in load_file(PARITY / f"{file}.safetensors").items()}
    encoder = build.build_model(config(*NARROW)).encoder.state_dict()
    torch.save({"model": encoder}, tmp_path / "encoder.pth")
    cfg = config("experiment=nyud_mtmamba", *NARROW, f"decoder={decoder}", *choices)
    cfg.encoder.weights = str(tmp_path / "encoder.pth")
    state = {f"module.{name}": x for name, x in under(stored, "state/").items()}
    with caplog.at_level(logging.INFO):
        model = mtmamba.load_model(import_checkpoint(cfg, write(tmp_path, state)))
    assert "is a head alone: its encoder is encoder=swin_micro, as configured" in caplog.text
    assert_equal(model.encoder.state_dict(), encoder)
    with torch.no_grad():
        logits = model.decoder([stored[f"feature/{i}"].permute(0, 2, 3, 1) for i in (1, 2, 3, 4)])
    for task, expected in under(stored, "output/").items():
        assert (logits[task] - expected).norm() < 1e-5 * expected.norm(), task


@pytest.mark.parametrize("decoder", HEADS)
def test_a_whole_network_of_theirs_goes_round_and_another_is_refused_by_name(decoder, tmp_path):
    cfg = config(*NARROW, f"decoder={decoder}", *HEADS[decoder][1])
    path, state = ours(cfg, tmp_path)
    export_checkpoint(path, tmp_path / "theirs.pth")
    back = import_checkpoint(cfg, tmp_path / "theirs.pth", tmp_path / "back.ckpt")
    assert_equal(torch.load(back, weights_only=True)["state_dict"], state)
    refused(
        config(*NARROW, "decoder=stm1"), tmp_path / "theirs.pth", f"got decoder {decoder}: choose decoder={decoder}."
    )
    refused(
        config(*NARROW, f"decoder={decoder}", *HEADS[decoder][1], "tasks=[depth]"),
        tmp_path / "theirs.pth",
        "got tasks semseg, depth, normals, edge: choose experiment=nyud_mtmamba.",
    )


# What is refused


def refused(cfg, path, *fragments):
    before = set(path.parent.iterdir())
    with pytest.raises(ReleasedError) as error:
        import_checkpoint(cfg, path)
    for fragment in fragments:
        assert fragment in str(error.value)
    assert set(path.parent.iterdir()) == before, "something was written"


@pytest.mark.parametrize(
    ("overrides", "fragments"),
    [
        (
            [*SMALL, "experiment=pascal_mtmamba"],
            [
                "Expected tasks semseg, human_parts, sal, normals, edge in",
                "got tasks semseg, depth, normals, edge",
                "choose experiment=nyud_mtmamba.",
            ],
        ),
        ([*SMALL, "tasks=[semseg,depth]"], ["Expected tasks semseg, depth in", "choose experiment=nyud_mtmamba."]),
        ([*SMALL, "decoder=mtmamba_plus"], ["Expected decoder mtmamba_plus", "choose decoder=mtmamba."]),
        ([*SMALL, "decoder=stm2"], ["choose decoder=mtmamba."]),
        ([*SMALL, "experiment=pascal_mtmamba", "decoder=stm2"], ["choose experiment=nyud_mtmamba decoder=mtmamba."]),
        ([*SMALL, "encoder.window=12"], ["window 4", "encoder.window=4"]),
        (["encoder=swin_tiny"], ["Expected encoder swin_tiny", "embed_dim 5", "encoder.depths=[2,2,4,2]"]),
        (["encoder=timm"], ["Expected encoder timm", "got encoder with embed_dim 5"]),
        ([*SMALL, "ablation=g1"], ["SharedCTM", "ablation=none"]),
        (
            [*SMALL, "data.num_outputs.edge=2"],
            ["final_project.edge.weight has shape (1, 5, 1, 1), expected (2, 5, 1, 1)"],
        ),
    ],
)
def test_another_model_is_refused_with_the_choice_that_fits(overrides, fragments, tmp_path):
    refused(config(*overrides), write(tmp_path, released()), *fragments)


def test_plus_plus_weights_are_recognised(tmp_path):
    path = write(tmp_path, released("mtmamba_plus"))
    refused(config(*SMALL), path, "got decoder mtmamba_plus", "choose decoder=mtmamba_plus.")


def test_other_tasks_than_a_datasets_are_named(tmp_path):
    state = {name: x for name, x in released().items() if "normals" not in name and "edge" not in name}
    refused(config(*SMALL), write(tmp_path, state), "got tasks semseg, depth", "choose tasks=[semseg,depth].")


def test_a_known_encoder_is_named(tmp_path):
    with skeleton():
        views = encoder_views(mtmamba.build_model(config()).encoder.state_dict())
    large = {f"module.backbone.{name}": torch.zeros(1).expand(shape) for name, (_, shape) in views.items()}
    path = write(tmp_path, released() | large)
    refused(config("encoder=swin_tiny"), path, "depths [2, 2, 18, 2]", "window 12", "choose encoder=swin_large.")


@pytest.mark.parametrize(
    ("change", "fragments"),
    [
        (lambda s: s.pop("module.block_3.1.op_share.Ds"), ["missing block_3.1.op_share.Ds"]),
        (lambda s: s.pop("module.backbone.norm2.bias"), ["missing norm2.bias"]),
        (lambda s: s.pop(f"module.backbone.{TABLE}"), [f"missing {TABLE}"]),
        (lambda s: s.update({f"module.backbone.{TABLE}": torch.zeros(49)}), [f"{TABLE} has shape (49,), expected"]),
        (lambda s: s.update({"module.aux_head.weight": torch.zeros(1)}), ["unexpected aux_head.weight"]),
        (lambda s: s.update({"module.backbone.norm.weight": torch.zeros(40)}), ["unexpected norm.weight"]),
        (
            lambda s: s.update({"module.block_3.1.op_share.Ds": torch.zeros(3)}),
            ["block_3.1.op_share.Ds has shape (3,), expected (80,)"],
        ),
        (
            lambda s: s.update(
                {"module.backbone.stages.0.blocks.0.attn.w_msa.relative_position_index": torch.ones(16, 16)}
            ),
            ["position indices", "stages.0.blocks.0"],
        ),
        (lambda s: [s.pop(name) for name in list(s) if "backbone" in name], ["missing patch_embed"]),
        (lambda s: [s.pop(name) for name in list(s) if "backbone" not in name], ["no task's head", "encoder.weights"]),
    ],
)
def test_every_tensor_is_accounted_for(change, fragments, tmp_path):
    state = released()
    change(state)
    refused(config(*SMALL), write(tmp_path, state), *fragments)


@pytest.mark.parametrize(
    ("content", "fragments"),
    [
        ([1, 2], ["got", "list"]),
        ({"state_dict": {"weight": torch.zeros(1)}}, ["a dict with state_dict"]),
        ({"model": {}}, ["tensors under `model`"]),
        ({"model": {"module.norm": 1.5}}, ["tensors under `model`"]),
        ({"model": Path}, ["would run code", "Download it again"]),
        ({"state_dict": {}, "mtmamba": {}}, ["one of this program already", "export=FILE"]),
    ],
)
def test_another_file_is_refused(content, fragments, tmp_path):
    torch.save(content, tmp_path / "file.pth")
    refused(config(*SMALL), tmp_path / "file.pth", "file.pth", *fragments)


@pytest.mark.parametrize("keep", [0, 9, 1000, -100])
def test_a_file_cut_short_is_refused(keep, tmp_path):
    path = write(tmp_path, released())
    path.write_bytes(path.read_bytes()[:keep])
    refused(config(*SMALL), path, "cut short", "Download it again")


def test_absent_and_overwritten_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="source=FILE"):
        import_checkpoint(config(*SMALL), tmp_path / "absent.pth")
    path = write(tmp_path, released())
    with pytest.raises(ReleasedError, match="give output=FILE"):
        import_checkpoint(config(*SMALL), path, path)
    checkpoint = import_checkpoint(config(*SMALL), path)
    with pytest.raises(ReleasedError, match="another export=FILE"):
        export_checkpoint(checkpoint, checkpoint)


@pytest.mark.parametrize(
    ("choice", "remedy"),
    [("decoder=swin2", "decoder=mtmamba"), ("encoder=timm encoder.name=convnext_atto", "encoder=swin_large")],
)
def test_a_model_without_released_names_is_not_exported(choice, remedy, tmp_path):
    path, _ = ours(config("encoder=swin_micro", *choice.split(), "encoder.pretrained=false"), tmp_path)
    with pytest.raises(ReleasedError, match=remedy):
        export_checkpoint(path, tmp_path / "theirs.pth")
    assert not (tmp_path / "theirs.pth").exists()


# The script


def test_the_script_imports_and_says_where(tmp_path, monkeypatch, caplog):
    write(tmp_path, released())
    script = str(ROOT / "src" / "import_checkpoint.py")
    arguments = ["source=released.pth.tar", "output=a/b.ckpt", "experiment=nyud_mtmamba", *SMALL]
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    monkeypatch.chdir(tmp_path)
    with caplog.at_level(logging.INFO):
        runpy.run_path(script, run_name="__main__")
    assert "a/b.ckpt" in caplog.text
    assert {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")} == {"released.pth.tar", "a", "a/b.ckpt"}
    assert mtmamba.load_model(tmp_path / "a" / "b.ckpt").decoder.tasks == ("semseg", "depth", "normals", "edge")


def test_files_whose_names_begin_alike_are_imported_apart(tmp_path):
    for name in ("net.v1.pth.tar", "net.v2.pth.tar"):
        write(tmp_path, released()).rename(tmp_path / name)
        import_checkpoint(config(*SMALL), tmp_path / name)
    assert {path.name for path in tmp_path.glob("*.ckpt")} == {"net.v1.ckpt", "net.v2.ckpt"}


def test_no_file_is_written_over(tmp_path):
    source = write(tmp_path, released()).rename(tmp_path / "last.pth.tar")
    (tmp_path / "last.ckpt").write_text("a run's")
    with pytest.raises(ReleasedError, match=r"no file at .*/last\.ckpt, got one: .* another output=FILE"):
        import_checkpoint(config(*SMALL), source)
    made = import_checkpoint(config(*SMALL), source, tmp_path / "made.ckpt")
    with pytest.raises(ReleasedError, match=r"no file at .*/last\.ckpt, got one: .* another export=FILE"):
        export_checkpoint(made, tmp_path / "last.ckpt")
    assert (tmp_path / "last.ckpt").read_text() == "a run's"
