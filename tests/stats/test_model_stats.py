"""Sizes and costs: the published and measured integers, a count by hand, and the script that compares them."""

import runpy
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

import mtmamba
from mtmamba.models.skeleton import skeleton
from mtmamba.paper import MTMAMBA, SIZED, Row
from mtmamba.stats import tables
from mtmamba.stats.flops import model_stats
from mtmamba.stats.speed import measure_speed
from mtmamba.stats.tables import agrees, floored, network_stats

SCRIPT = Path(__file__).parents[2] / "src" / "model_stats.py"

NETWORKS = {
    "decoder=swin2 tasks=[semseg]": (222_203_440, 270_155_888_640),
    "decoder=swin2 tasks=[depth]": (222_195_913, 268_183_369_728),
    "decoder=swin2 tasks=[normals]": (222_196_299, 268_284_524_544),
    "decoder=swin2 tasks=[edge]": (222_195_913, 268_183_369_728),
    "decoder=swin2": (303_187_953, 466_356_013_056),
    "decoder=stm1": (252_518_817, 354_130_457_472),
    "decoder=stm2": (276_485_025, 435_479_830_272),
    "decoder=stm3": (300_451_233, 516_829_203_072),
    "": (307_999_137, 540_815_086_944),
    "ablation=mfe_wmsa": (451_812_651, 884_616_726_528),
    "ablation=gate_wmsa": (345_336_825, 659_298_932_064),
    "ablation=g0": (294_258_081, 502_560_180_864),
    "ablation=g1": (290_226_081, 473_734_736_352),
    "encoder=swin_tiny": (57_589_575, 135_067_373_152),
    "encoder=swin_small": (78_907_479, 158_237_503_072),
    "encoder=swin_base encoder.window=7": (138_539_109, 257_146_181_312),
    "encoder=swin_base": (138_674_469, 265_827_923_648),
    "data=pascal_context": (335_858_326, 631_589_570_048),
    "decoder=mtmamba_plus": (315_021_249, 523_906_427_520),
    "decoder=mtmamba_plus data=pascal_context": (343_231_606, 609_566_053_792),
}
PARTS = {
    "": {
        "encoder": 195_201_204,
        "expand": 24_783_360,
        "fuse": 6_198_528,
        "STM": 2 * 23_966_208,
        "CTM": 31_514_112,
        "head": 0,
        "head expand": 2_360_832,
        "head project": 8_685,
    },
    "data=pascal_context": {
        "encoder": 195_201_204,
        "expand": 30_979_200,
        "fuse": 7_748_160,
        "STM": 2 * 29_957_760,
        "CTM": 39_056_640,
        "head": 0,
        "head expand": 2_951_040,
        "head project": 6_562,
    },
}


@cache
def build(overrides):
    cfg = mtmamba.load_config(overrides.split(), "model_stats")
    with skeleton():
        return mtmamba.build_model(cfg)


ONE_TASK = [f"decoder=swin2 tasks=[{task}]" for task in ("depth", "normals", "edge")]  # beside segmentation's network


@pytest.mark.parametrize(
    "overrides", [pytest.param(network, marks=[pytest.mark.slow] * (network in ONE_TASK)) for network in NETWORKS]
)
def test_every_network_has_the_size_and_cost_of_the_authors(overrides):
    stats = network_stats(overrides)
    assert (stats.total_parameters, stats.total_flops) == NETWORKS[overrides]
    assert sum(stats.part_flops().values()) == sum(stats.operator_flops().values()) == stats.total_flops
    assert set(stats.part_flops()) <= set(stats.parameters)


def test_the_tables_show_every_network():
    rows = [*sum(SIZED.values(), ()), *tables.UNPUBLISHED]
    assert {network for row in rows for network in row.networks} == set(NETWORKS)


@pytest.mark.parametrize("overrides", PARTS)
def test_parameters_by_part(overrides):
    assert network_stats(overrides).parameters == PARTS[overrides]


def test_mtmamba_plus_by_part():
    parameters = network_stats("decoder=mtmamba_plus").parameters
    assert parameters["SCTM"] == 40_236_672
    assert sum(count for part, count in parameters.items() if part.startswith("head")) == 669_069


def test_mtmamba_by_operator():
    stats = network_stats("")
    in_giga = {operator: round(flops / 1e9, 4) for operator, flops in stats.operator_flops().items()}
    assert in_giga == {
        "linear": 403.0999,
        "einsum": 41.2191,
        "matmul": 8.5359,
        "conv": 3.6462,
        "layer_norm": 2.5489,
        "scan": pytest.approx(81.1551 + 0.5636, abs=1.1e-4),
        "resize": 0.0464,
    }
    assert round(stats.part_flops()["encoder"] / 1e9, 4) == 202.8170


def test_other_conventions():
    assert model_stats(build(""), (448, 576), "exact").total_flops == 540_817_606_656
    multiply_adds = model_stats(build(""), (448, 576), "macs")
    assert multiply_adds.total_flops // 10**7 == 45650
    assert set(multiply_adds.operator_flops()) == {"linear", "einsum", "matmul", "conv"}


def count_by_hand(height, width):
    """Swin (12 channels, 1, 1, 2, 1 blocks, window 4) and 1*STM for depth: multiply-adds, and everything else."""

    def pixels(stride, multiple=1):
        rows, columns = (-(-side // stride // multiple) * multiple for side in (height, width))
        return rows * columns

    products, others = pixels(4) * 48 * 12, 5 * pixels(4) * 12
    for stride, c, depth in ((4, 12, 1), (8, 24, 1), (16, 48, 2), (32, 96, 1)):
        n, padded = pixels(stride), pixels(stride, multiple=4)
        products += depth * (padded * (3 * c * c + 2 * 16 * c + c * c) + n * 8 * c * c)  # qkv, attention, out; MLP
        others += (2 * depth + 1) * 5 * n * c  # two norms of each block, one of the output
        if stride > 4:
            products, others = products + n * 2 * c * c, others + 5 * n * 2 * c  # patch merging
    for stride, d in ((16, 48), (8, 24), (4, 12)):
        n, e, r, states = pixels(stride), 2 * d, -(-d // 16), 16
        products += n * (2 * d * d + 2 * d * d)  # expand (on a quarter of the pixels), fuse
        products += n * (3 * d * e + 9 * e)  # in, gate, out; depthwise convolution
        products += n * 4 * e * ((r + 2 * states) + r)  # time step, B, C; time step to all channels
        others += n * (5 * d + 5 * d + 5 * e)  # norms of expand, block and MFE
        others += n * 4 * e * (9 * states + 1)  # scan
    products += pixels(4) * 12 * 16 * 12 + pixels(1) * 12
    others += 5 * pixels(1) * 12 + 4 * pixels(1)
    return products, others


@pytest.mark.parametrize("size", [(64, 96), (96, 160), (128, 32)])
def test_a_small_model_counted_by_hand_at_several_sizes(size):
    encoder = "encoder=swin_micro encoder.embed_dim=12 encoder.depths=[1,1,2,1] encoder.window=4"
    model = build(f"{encoder} decoder=stm1 tasks=[depth]")
    products, others = count_by_hand(*size)
    assert model_stats(model, size, "macs").total_flops == products
    assert model_stats(model, size, "exact").total_flops == products + others


def test_other_sizes_cost_what_their_padding_costs():
    model = build("data=synthetic encoder=swin_micro")
    odd, padded = (model_stats(model, size, "exact") for size in ((70, 90), (96, 96)))
    logits = 40 + 1 + 3 + 1
    assert padded.total_flops - odd.total_flops == 4 * logits * (96 * 96 - 70 * 90)


def test_counting_allocates_nothing_and_leaves_no_hook():
    model = build("data=synthetic encoder=swin_micro")
    assert all(p.is_meta for p in model.parameters())
    first = model_stats(model, (64, 64))
    assert model_stats(model, (64, 64)) == first
    assert not nn.modules.module._global_forward_hooks
    assert not nn.modules.module._global_forward_pre_hooks


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(((64, 64), "flops"), "paper, exact, macs, got flops"), (((64,),), "height and a width, got \\[64\\]")],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        model_stats(build("data=synthetic encoder=swin_micro"), *arguments)


def test_single_task_figures_are_sums_of_floors():
    networks = [NETWORKS[f"decoder=swin2 tasks=[{task}]"] for task in ("semseg", "depth", "normals", "edge")]
    assert floored((parameters for parameters, _ in networks), 10**6) == "888.77"
    assert floored((flops for _, flops in networks), 10**9) == "1074.79"
    assert floored([sum(parameters for parameters, _ in networks)], 10**6) == "888.79"


def test_a_row_that_differs_in_the_last_digit_does_not_agree():
    assert agrees(MTMAMBA)
    assert agrees(Row("no figures", [""]))
    assert not agrees(MTMAMBA._replace(parameters="308.00"))
    assert not agrees(MTMAMBA._replace(flops="540.82"))


def script(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments])
    runpy.run_path(str(SCRIPT), run_name="__main__")


@pytest.mark.slow  # of which one process of several would count every network anew
def test_script_shows_both_figures_and_ends_well(monkeypatch, capsys):
    script(monkeypatch, "table=all")
    printed = capsys.readouterr().out
    for text in ("Table 2", "Table 3", "Table 4", "888.77", "1074.79", *(f"{n:,}" for n in NETWORKS[""])):
        assert text in printed
    assert "≠" not in printed


def test_script_fails_where_a_figure_differs(monkeypatch, capsys):
    wrong = MTMAMBA._replace(flops="540.82")
    monkeypatch.setattr("mtmamba.stats.report.SIZED", {"4": (wrong,)})
    with pytest.raises(SystemExit) as stopped:
        script(monkeypatch, "table=4")
    assert stopped.value.code == 1
    assert "540.81 ≠" in capsys.readouterr().out


def test_script_shows_the_decoders_of_table_1(monkeypatch, capsys):
    assert len({row.networks[0] for row in tables.PEERS}) == len(tables.PEERS)
    assert tables.PEERS[0].name == "Cross-Stitch (NYUDv2)"
    chosen = [row for row in tables.PEERS if row.name.startswith("InvPT")]
    monkeypatch.setattr("mtmamba.stats.report.PEERS", chosen)
    script(monkeypatch, "table=1")
    printed = capsys.readouterr().out
    assert "InvPT (PASCAL-Context)" in printed
    assert "341,655,618" in printed
    assert "376,300,316" in printed


def test_script_shows_a_composed_model(monkeypatch, capsys):
    model = ("encoder=swin_micro", "data=synthetic")
    script(monkeypatch, *model, "image_size=[64,64]", "convention=exact", "measure=true")
    printed = capsys.readouterr().out
    stats = model_stats(build(" ".join(model)), (64, 64), "exact")
    for text in ("CTM", "einsum", "64x64", f"{stats.total_flops:,}", f"{stats.total_parameters:,}", "images/s", "MiB"):
        assert text in printed


class Twice(nn.Module):
    """Hold a MiB of weights, and give back 4 MiB for a batch of two images of 3 x 256 x 256."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2**18))

    def forward(self, images):
        return torch.cat([images, images[:, :1]], dim=1) + self.weight[0]


def test_speed_and_memory_of_a_known_module():
    speed = measure_speed(Twice(), (256, 256), batch_size=2, repeats=3)
    assert speed.throughput == pytest.approx(2 / speed.latency)
    assert 0 < speed.latency < 1
    mib = 2**20
    assert speed.peak_memory == pytest.approx((1 + 1.5 + 2 + 2) * mib, abs=1024)  # weights, images, both results
