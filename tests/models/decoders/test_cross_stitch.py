"""Cross-Stitch: sizes, units and the way through T encoders against loops, learning rates, and single-task starts."""

import pytest
import torch

import mtmamba
from mtmamba import build, restore
from mtmamba.config import compose
from mtmamba.models.decoders.cross_stitch import CrossStitchUnit
from mtmamba.models.encoders.efficientnet_lite import EfficientNetLite
from mtmamba.models.encoders.encoder import pretrained_parameters
from mtmamba.models.encoders.timm import TimmEncoder
from mtmamba.models.pretrained import WeightsError
from mtmamba.models.skeleton import skeleton

MICRO = ("data=nyud", "decoder=cross_stitch", "decoder.head_width=8")


def images():
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))


def model_of(*overrides):
    torch.manual_seed(0)
    return mtmamba.build_model(mtmamba.load_config([*MICRO, *overrides]))


@pytest.mark.parametrize(
    ("data", "encoder", "units"),
    [
        ("nyud", "swin_tiny", 23_040),
        ("nyud", "swin_large", 46_080),
        ("pascal_context", "swin_tiny", 36_000),
        ("pascal_context", "swin_large", 72_000),
    ],
)
def test_parameters_of_the_specification(data, encoder, units):
    one = {"swin_tiny": 27_520_698, "swin_large": 195_201_204}[encoder]
    with skeleton():
        model = model_of(f"data={data}", f"encoder={encoder}")
    assert sum(p.numel() for p in model.encoder.units.parameters()) == units
    assert sum(p.numel() for p in model.encoder.parameters()) == len(model.decoder.tasks) * one + units


@pytest.mark.parametrize(
    ("encoder", "width", "total"),
    [("swin_large", "null", 814_192_701), ("swin_large", 256, 783_814_653), ("swin_tiny", "null", 118_482_357)],
)
def test_parameters_of_the_whole_network(encoder, width, total):
    with skeleton():
        model = model_of(f"encoder={encoder}", f"decoder.head_width={width}")
    assert sum(p.numel() for p in model.parameters()) == total


@pytest.mark.parametrize(("tasks", "alpha", "beta"), [(1, 1.0, 0.0), (2, 0.9, 0.1), (4, 0.8, 0.2 / 3)])
def test_a_units_sums(tasks, alpha, beta):
    """They start as means of the tasks, mostly of the own one."""
    start = model_of(f"tasks=[{','.join(['semseg', 'depth', 'normals', 'edge'][:tasks])}]").encoder.units[0].weight
    expected = torch.full((tasks, tasks), beta).fill_diagonal_(alpha)
    torch.testing.assert_close(start, expected[..., None].expand_as(start))
    unit, x = CrossStitchUnit(tasks, 3, 0.5, 0.2), torch.randn(tasks, 2, 4, 5, 3)
    unit.weight.data.normal_()
    for i, got in enumerate(unit(x)):
        torch.testing.assert_close(got, sum(unit.weight[i, j] * x[j] for j in range(tasks)))


@torch.no_grad()
@pytest.mark.parametrize(
    "encoder", [("encoder=swin_micro", "encoder.depths=[2,1,2,1]"), ("encoder=efficientnet_lite0",)]
)
def test_units_that_mix_nothing_leave_the_encoders_maps(encoder):
    """With units of identity every copy gives what the encoder alone does: stages are its own, whole."""
    extra = (*encoder, "encoder.pretrained=false")
    stitched, alone = model_of(*extra).eval(), model_of(*extra, "decoder=concat_head").eval()
    for unit in stitched.encoder.units:
        unit.weight.copy_(torch.eye(4)[..., None].expand_as(unit.weight))
    for got, expected in zip(stitched.encoder(images()), alone.encoder(images()), strict=True):
        for own in got:
            torch.testing.assert_close(own, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_stitched_result_goes_on_and_out():
    model = model_of("tasks=[semseg,depth]").eval()
    for p in model.encoder.parameters():
        p.add_(0.1 * torch.randn(p.shape))
    copies, units = model.encoder.copies, model.encoder.units
    x = [images(), images()]
    for s, got in enumerate(model.encoder(images())):
        own = [copy.stage(s, y) for copy, y in zip(copies, x, strict=True)]
        x = [sum(units[s].weight[i, j] * own[j] for j in range(2)) for i in range(2)]
        for t in range(2):
            torch.testing.assert_close(got[t], copies[t].norms[s](x[t]), rtol=1e-4, atol=1e-5)


def test_copies_start_alike_and_share_nothing():
    encoder = model_of("tasks=[semseg,depth]").encoder
    first, second = (dict(copy.named_parameters()) for copy in encoder.copies)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not {p.data_ptr() for p in first.values()} & {p.data_ptr() for p in second.values()}


def test_units_learn_faster_and_do_not_decay():
    cfg = mtmamba.load_config(
        [*MICRO, "optimizer=paper", "optimizer.lr=0.001", "encoder.lr_scale=0.1", "decoder.lr_scale=20"]
    )
    module = build.build_module(cfg)
    groups = module.optimizer(module.parameter_groups()).param_groups
    names = {p: name for name, p in module.model.named_parameters()}
    found = {names[p]: i for i, group in enumerate(groups) for p in group["params"]}
    assert found.keys() == set(names.values())
    optimizer = module.configure_optimizers()["optimizer"]
    assert [round(group["lr"], 9) for group in optimizer.param_groups] == [0.001, 0.0001, 0.02]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [1e-5, 1e-5, 0]
    for name, group in found.items():
        fresh = name.startswith("decoder") or ".norms." in name
        assert group == (2 if ".units." in name else 0 if fresh else 1), name


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
@pytest.mark.parametrize(
    "choice", [("data=nyud",), ("data=pascal_context",), ("tasks=[depth]",), ("tasks=[semseg,normals]",)]
)
def test_a_training_step_has_the_final_losses_alone(stepped, choice):
    _, loss, final = stepped("cross_stitch", "decoder.head_width=8", *choice)
    torch.testing.assert_close(loss, final)


def test_freezing_goes_by_the_blocks_of_every_copy():
    model = model_of("tasks=[semseg,depth]", "encoder.freeze=1")
    for copy in model.encoder.copies:
        assert not any(p.requires_grad for p in (*copy.patch_embed.parameters(), *copy.layers[0].parameters()))
        assert all(p.requires_grad for p in copy.layers[1].blocks.parameters())
    everything = model_of("tasks=[semseg,depth]", "encoder.freeze=all")
    trained = {name for name, p in everything.encoder.named_parameters() if p.requires_grad}
    assert trained == {
        name for name, _ in everything.encoder.named_parameters() if "units" in name or ".norms." in name
    }
    assert not {id(p) for p in pretrained_parameters(everything.encoder)} & {
        id(p) for p in everything.encoder.parameters() if p.requires_grad
    }


def test_tasks_may_start_from_their_own_runs(tmp_path):
    files, singles = {}, {}
    for seed, task in enumerate(("semseg", "depth")):
        torch.manual_seed(seed)
        cfg = mtmamba.load_config(["data=nyud", "decoder=concat_head", "decoder.head_width=8", f"tasks=[{task}]"])
        singles[task] = build.build_model(cfg).eval()
        files[task] = tmp_path / f"{task}.ckpt"
        state = {f"model.{name}": x for name, x in singles[task].state_dict().items()}
        torch.save({"state_dict": state | {"metrics.x": torch.zeros(1)}}, files[task])
    given = f"decoder.weights={{semseg: {files['semseg']}, depth: {files['depth']}}}"
    model = model_of("tasks=[semseg,depth]", given, "decoder.alpha=1").eval()
    with torch.no_grad():
        for task, x in model(images()).items():
            torch.testing.assert_close(x, singles[task](images())[task], rtol=1e-4, atol=1e-5)
    cfg = mtmamba.load_config([*MICRO, "tasks=[semseg,depth]", given])
    assert restore.config_of(compose.describe(cfg)).decoder.weights is None  # a checkpoint of it needs them no more
    with pytest.raises(WeightsError, match=r"decoder\.weights of every task, got none of \['normals'\]"):
        model_of("tasks=[semseg,depth,normals]", given)
    with pytest.raises(WeightsError, match=r"tasks=\[semseg\] decoder=concat_head .* got another network's"):
        model_of("tasks=[semseg,depth]", given, "decoder.head_width=9")


def test_what_cannot_be_stitched_is_refused():
    with pytest.raises(ValueError, match=r"runs stage by stage .* got TimmEncoder: choose encoder=swin"):
        model_of("tasks=[semseg,depth]").decoder.adapt(TimmEncoder("resnet18", drop_path=0))
    with pytest.raises(ValueError, match=r"decoder\.alpha above 0 and up to 1, .* got 0\.8 with 1: choose null"):
        model_of("tasks=[depth]", "decoder.alpha=0.8")
    decoder = model_of("tasks=[semseg,depth]").decoder
    with pytest.raises(ValueError, match=r"maps \(T, B, h, w, c\) of each task, got \[\(2, 16, 24, 96\)"):
        decoder(EfficientNetLite(0, pretrained=False)(images()))
