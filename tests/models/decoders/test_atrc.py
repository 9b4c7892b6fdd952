"""ATRC against its released module's numbers, its closed form, and contexts written out."""

import pytest
import torch
from torch.nn import functional as F

import mtmamba
from mtmamba.models.adapters import ReleasedError, load_released_decoder
from mtmamba.models.decoders.atrc import ATRC, KINDS, GlobalContext, LabelContext, LocalContext, pairs
from mtmamba.models.drop_path import seed_drop_path

TASKS = ("semseg", "depth", "human_parts", "sal", "normals", "edge")
OUTPUTS = {"semseg": 40, "depth": 1, "normals": 3, "edge": 1}
UNIFORM = {"genotypes": {}, "label_outputs": {"depth": 40, "normals": 40, "edge": 2}, "label_losses": {}}


def test_parity_atrc(known_answer):
    known_answer("atrc_nyud_tiny_hrnet48_genotype", "atrc_wide", intermediate="labels")


@pytest.mark.parametrize(
    ("data", "encoder", "decoder", "genotype", "parameters"),
    [
        ("nyud", "swin_large", "atrc_wide", "none", 76_767_165),
        ("nyud", "swin_large", "atrc_wide", "global", 99_640_125),
        ("nyud", "swin_large", "atrc_wide", "local", 99_640_125),
        ("nyud", "swin_large", "atrc_wide", "t_label", 133_192_247),
        ("nyud", "swin_large", "atrc_wide", "s_label", 133_192_247),
        ("nyud", "swin_large", "atrc_wide", "nyud", 113_762_247),
        ("nyud", "swin_large", "atrc_wide", "nyud_w18", 133_192_247),
        ("pascal_context", "swin_large", "atrc_wide", "pascal_context", 171_440_746),
        ("nyud", "swin_large", "atrc", "nyud", 7_938_627),
        ("nyud", "swin_tiny", "atrc", "nyud", 7_546_947),
        ("nyud", "swin_base", "atrc", "nyud", 7_677_507),
        ("pascal_context", "swin_large", "atrc", "pascal_context", 11_569_066),
    ],
)
def test_parameters_of_the_specification(counted, data, encoder, decoder, genotype, parameters):
    assert counted(decoder, data, encoder, f"decoder.genotype={genotype}") == parameters
    if genotype == data:
        assert counted(decoder, data, encoder) == parameters


@pytest.mark.parametrize(
    ("decoder", "genotype", "expected", "digits"),
    [
        ("atrc_wide", "none", 1237.9, 1),
        ("atrc_wide", "global", 1672.8, 1),
        ("atrc_wide", "t_label", 1991.0, 1),
        ("atrc_wide", "nyud", 1748.9, 1),
        ("atrc_wide", "nyud_w18", 2002.8, 1),
        ("atrc", "nyud", 110.95, 2),
    ],
)
def test_multiply_adds_of_the_specification(gmacs, decoder, genotype, expected, digits):
    assert round(gmacs(decoder, "swin_large", f"decoder.genotype={genotype}"), digits) == expected


@pytest.mark.parametrize("tasks", [1, 2, 4])
@pytest.mark.parametrize("genotype", KINDS)
def test_parts_have_the_closed_forms_of_their_parameters(tasks, genotype):
    total, outputs = 60, dict(list(OUTPUTS.items())[:tasks])
    decoder = ATRC((4, 8, 16, 32), outputs, genotype=genotype, **UNIFORM)
    found = {name: 0 for name, _ in decoder.parts()}
    for name, module in decoder.parts():
        found[name] += sum(p.numel() for p in module.parameters())
    d, a, k = total // 4, total // 8, 0 if genotype == "none" else tasks
    context = 3 * d * a + 2 * a**2 + 10 * a
    mix = k * a * d + 2 * d**2 + 4 * d if k else d**2 + 2 * d
    expected = {
        "neck": 0,
        "features": tasks * (9 * total * d + 2 * d),
        "head": (d + 1) * sum(outputs.values()),
        "contexts": tasks * (k * context + mix),
    }
    if "label" in genotype:
        classes = {"semseg": 40, **UNIFORM["label_outputs"]}
        expected["labels"] = sum(total**2 + 2 * total + (total + 1) * classes[task] for task in outputs)
    assert found == expected
    assert sum(found.values()) == sum(p.numel() for p in decoder.parameters())


def test_global_context_is_attention_without_a_softmax():
    torch.manual_seed(0)
    context = GlobalContext(8, 4).double()
    q, k, v = (torch.rand(2, 4, 3, 5, dtype=torch.float64) for _ in range(3))
    weights = torch.einsum("baij,bakl->bijkl", q, k)
    weights = weights / weights.sum((3, 4), keepdim=True)
    torch.testing.assert_close(context.attend(q, k, v), torch.einsum("bijkl,bakl->baij", weights, v))
    assert (context.query(torch.randn(2, 8, 3, 5, dtype=torch.float64)) > 0).all()


def test_local_context_equals_a_loop_over_pixels():
    """Beyond the border, a logit of 0 takes its share of the softmax."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 4, 6, 11, dtype=torch.float64) for _ in range(3))
    found = LocalContext(8, 4).attend(q, k, v)
    for y in range(6):
        for x in range(11):
            logits, values = [], []
            for i in range(y - 4, y + 5):
                for j in range(x - 4, x + 5):
                    inside = 0 <= i < 6 and 0 <= j < 11
                    logits.append(q[0, :, y, x] @ k[0, :, i, j] / 2 if inside else torch.zeros((), dtype=q.dtype))
                    values.append(v[0, :, i, j] if inside else torch.zeros(4, dtype=q.dtype))
            expected = torch.stack(logits).softmax(0) @ torch.stack(values)
            torch.testing.assert_close(found[0, :, y, x], expected)


def test_label_context_equals_attention_to_means_over_labels():
    torch.manual_seed(0)
    context = LabelContext(8, 4).double()
    source, labels = (torch.randn(2, n, 3, 5, dtype=torch.float64) for n in (8, 6))
    labels = labels.flatten(2).softmax(2)
    vectors = context.read(source, labels)
    for m in range(6):
        expected = sum(labels[:, None, m, p] * source.flatten(2)[..., p] for p in range(15))
        torch.testing.assert_close(vectors[:, :, m, 0], expected)
    q, k, v = (torch.randn(2, 4, *size, dtype=torch.float64) for size in ((3, 5), (6, 1), (6, 1)))
    tokens = [x.flatten(2).mT for x in (q, k, v)]
    expected = F.scaled_dot_product_attention(*tokens).mT.unflatten(2, (3, 5))
    torch.testing.assert_close(context.attend(q, k, v), expected)


def test_labels_are_the_targets_or_the_sources():
    torch.manual_seed(0)
    kinds = {"semseg": {"depth": "t_label"}, "depth": {"edge": "s_label"}, "edge": {}}
    outputs = {"semseg": 5, "depth": 1, "edge": 1}
    settings = UNIFORM | {"genotypes": {"mine": kinds}}
    decoder = ATRC((4, 8, 16, 32), outputs, genotype="mine", **settings)
    features = [torch.randn(2, 64 // s, 96 // s, s, requires_grad=True) for s in (4, 8, 16, 32)]
    decoder(features)
    labels = decoder.auxiliary["labels"]
    assert {task: x.shape for task, x in labels.items()} == {"semseg": (2, 5, 16, 24), "edge": (2, 2, 16, 24)}
    assert torch.autograd.grad(sum(x.sum() for x in labels.values()), features, allow_unused=True) == (None,) * 4
    for target, chosen in {"semseg": "semseg", "depth": "edge"}.items():
        torch.nn.init.ones_(decoder.relate[target].project[1].weight)
        weights = [decoder.label_predict[task].weight for task in labels]
        gradients = torch.autograd.grad(decoder(features)[target].sum(), weights, allow_unused=True)
        assert [task for task, x in zip(labels, gradients, strict=True) if x is not None and x.any()] == [chosen]


@pytest.mark.parametrize(
    ("data", "genotype", "codes"),
    [
        ("nyud", "nyud", "3004 4114 4114 3333"),
        ("nyud", "nyud_w18", "3344 4344 4334 3313"),
        ("pascal_context", "pascal_context", "33404 33434 33343 33334 33313"),
    ],
)
def test_genotypes_are_the_published_ones(data, genotype, codes):
    cfg = mtmamba.load_config([f"data={data}", "decoder=atrc"])
    found = pairs(genotype, cfg.decoder.genotypes, cfg.tasks)
    kinds = ["none", "global", "local", "t_label", "s_label"]
    written = ["".join(str(kinds.index(found[t].get(s, "none"))) for s in cfg.tasks) for t in cfg.tasks]
    assert " ".join(written) == codes


def test_genotypes_leave_out_tasks_that_are_not_chosen():
    table = {"a": {"b": "global", "c": "none"}, "b": {"b": "local", "a": "none"}, "c": {"a": "t_label"}}
    assert pairs("mine", {"mine": table}, ["a", "b"]) == {"a": {"b": "global"}, "b": {"b": "local"}}
    assert pairs("local", {}, ["a", "b"]) == {t: {"a": "local", "b": "local"} for t in ("a", "b")}
    assert pairs("none", {}, ["a"]) == {"a": {}}
    with pytest.raises(ValueError, match=r"among mine, with a target d, or a kind .* got mine"):
        pairs("mine", {"mine": table}, ["a", "d"])
    with pytest.raises(ValueError, match=r"Expected kinds .* in decoder\.genotypes\.mine, got far"):
        pairs("mine", {"mine": {"a": {"a": "far"}}}, ["a"])


def test_training_begins_with_the_baseline():
    """What a target has found is multiplied by 0 at first, and logits are near 0."""
    torch.manual_seed(0)
    decoder = ATRC((4, 8, 16, 32), OUTPUTS, genotype="global", **UNIFORM).eval()
    features = [torch.randn(1, 64 // s, 96 // s, s) for s in (4, 8, 16, 32)]
    before = decoder(features)
    for relate in decoder.relate.values():
        assert not relate.project[1].weight.any()
        for context in relate.contexts.values():
            torch.nn.init.normal_(context.value[0].weight)
    torch.testing.assert_close(decoder(features), before)
    assert decoder.predict["semseg"].weight.std().item() == pytest.approx(0.01, rel=0.1)


def test_channels_are_dropped_by_image():
    torch.manual_seed(0)
    decoder = ATRC((4, 8, 16, 32), {"depth": 1}, genotype="none", **UNIFORM).train()
    seed_drop_path(decoder, [3, 4], torch.device("cpu"))
    factors = decoder.drop.seeded
    assert factors.shape == (15, 2)
    features = [torch.randn(2, 32 // s, 32 // s, s) for s in (4, 8, 16, 32)]
    mixed = decoder.relate["depth"]({"depth": decoder.features(decoder.joined(features))}, {})
    expected = decoder.predict["depth"](mixed * factors.T[..., None, None])
    torch.testing.assert_close(
        decoder(features)["depth"], F.interpolate(expected, scale_factor=4, mode="bilinear", align_corners=False)
    )


@pytest.mark.parametrize("tasks", [None, 1, 2])
def test_any_tasks_of_both_datasets(exercised, tasks):
    idle = [f"relate.{task}.{name}" for task in TASKS for name in ("contexts", "project.0")]
    exercised("atrc", "decoder.neck=[4,8,12,16]", tasks=tasks, auxiliary=None, idle=idle)


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
@pytest.mark.parametrize("genotype", ["nyud", "local", "s_label"])
def test_a_training_step_adds_the_labels_losses(stepped, genotype):
    module, loss, final = stepped(
        "atrc", "decoder.neck=[4,8,12,16]", f"decoder.genotype={genotype}", "model.checkpointing=blocks"
    )
    labels = module.model.decoder.auxiliary.get("labels", {})
    assert list(labels) == {"nyud": ["semseg", "edge"], "local": [], "s_label": list(OUTPUTS)}[genotype]
    assert loss > final if labels else loss.isfinite()


def test_released_heads_have_no_neck():
    decoder = mtmamba.build_decoder(mtmamba.load_config(["decoder=atrc", "data=nyud"]), (4, 8, 16, 32))
    with pytest.raises(ReleasedError, match=r"choose decoder\.neck=null"):
        load_released_decoder(decoder, {})
