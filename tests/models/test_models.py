"""The whole network at a micro width: every decoder, ablation and choice of tasks trains, at any size and batch."""

from functools import cache

import pytest
import torch

import mtmamba
from mtmamba.losses import LogTotal
from mtmamba.models.decoders.mtmamba.decoder import MTMambaDecoder
from mtmamba.models.drop_path import seed_drop_path
from mtmamba.tasks import select_tasks
from mtmamba.types import IGNORE

DECODERS = ("mtmamba", "stm1", "stm2", "stm3", "swin2", "mtmamba_plus")
VARIANTS = [
    *((decoder, "none") for decoder in DECODERS),
    *(("mtmamba", ablation) for ablation in ("g0", "g1", "mfe_wmsa", "gate_wmsa")),
    *((stm, ablation) for stm in ("stm1", "stm2", "stm3") for ablation in ("mfe_wmsa", "gate_wmsa")),
]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@cache
def config(*overrides):
    return mtmamba.load_config(overrides)


def build(decoder="mtmamba", ablation="none", *overrides):
    return mtmamba.build_model(config(f"decoder={decoder}", f"ablation={ablation}", *overrides))


def images(batch=2, height=32, width=64):
    return torch.randn(batch, 3, height, width)


def error(got, expected):
    return ((got - expected).norm() / expected.norm()).item()


def random_batch(model, image):
    """Random targets for a model's tasks, a pixel in eight without truth."""
    size, outputs = (len(image), *image.shape[2:]), {task: x.shape[1] for task, x in model(image).items()}
    batch = {"image": image}
    for task, n in outputs.items():
        if task == "depth":
            batch[task] = torch.rand(size) * 10
        elif task == "normals":
            batch[task] = torch.nn.functional.normalize(torch.randn(size[0], 3, *size[1:]), dim=1)
        else:
            batch[task] = torch.randint(max(2, n), size, dtype=torch.uint8)
        hole = torch.rand(size) < 1 / 8
        batch[task].masked_fill_(hole[:, None] if task == "normals" else hole, IGNORE)
    return batch


@pytest.mark.parametrize(("decoder", "ablation"), VARIANTS)
def test_every_parameter_gets_a_gradient(decoder, ablation):
    model = build(decoder, ablation, "encoder.drop_path=0", "decoder.drop_path=0")
    logits = model(images())
    assert {task: tuple(x.shape) for task, x in logits.items()} == {
        "semseg": (2, 40, 32, 64),
        "depth": (2, 1, 32, 64),
        "normals": (2, 3, 32, 64),
        "edge": (2, 1, 32, 64),
    }
    torch.autograd.backward(list(logits.values()), [torch.randn_like(x) for x in logits.values()])
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    ("decoder", "ablation", "data", "tasks"),
    [
        pytest.param(*variant, *some, marks=[pytest.mark.slow] * (i % 2 != j))  # every second variant, of each
        for i, variant in enumerate(VARIANTS)
        for j, some in enumerate([("synthetic", "depth"), ("synthetic_pascal", "edge,human_parts,sal")])
    ],
)
def test_two_steps_of_training_stay_finite(decoder, ablation, data, tasks):
    model = build(decoder, ablation, f"data={data}", f"tasks=[{tasks}]")
    records, batch = select_tasks(tasks.split(",")), random_batch(model, images(2, 32, 32))
    assert list(model(batch["image"])) == [task.name for task in records]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    before = [p.detach().clone() for p in model.parameters()]
    for _ in range(2):
        logits = model(batch["image"])
        loss = LogTotal()({task.name: task.loss(logits[task.name], batch[task.name]) for task in records})
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert loss.isfinite()
    assert all(p.isfinite().all() for p in model.parameters())
    assert all(not torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_batch_of_two_equals_two_singles(decoder):
    model, pair = build(decoder).eval(), images()
    with torch.no_grad():
        both, singles = model(pair), [model(pair[i : i + 1]) for i in range(2)]
    for task, x in both.items():
        torch.testing.assert_close(x, torch.cat([single[task] for single in singles]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("decoder", ["mtmamba", "swin2", "mtmamba_plus"])
@pytest.mark.parametrize("size", [(33, 70), (1, 31)])
def test_any_size_is_padded_and_cropped_back(decoder, size):
    model, image = build(decoder).eval(), images(1, *size)
    height, width = (-(-n // 32) * 32 for n in size)
    padded = torch.zeros(1, 3, height, width)
    padded[..., : size[0], : size[1]] = image
    with torch.no_grad():
        logits, expected = model(image), model(padded)
    assert all(torch.equal(x, expected[task][..., : size[0], : size[1]]) for task, x in logits.items())


@pytest.mark.parametrize("decoder", ["stm2", "swin2"])
def test_tasks_that_never_meet_are_the_single_task_models(decoder):
    """Every parameter of the decoder is a stack over tasks: a slice of it is a network of one task."""
    model, image = build(decoder).eval(), images()
    for t, task in enumerate(model.decoder.tasks):
        single = build(decoder, "none", f"tasks=[{task}]").eval()
        state = {}
        for name, own in single.state_dict().items():
            theirs = model.state_dict()[name]
            state[name] = theirs if theirs.shape == own.shape else theirs[t : t + 1]
        single.load_state_dict(state)
        with torch.no_grad():
            torch.testing.assert_close(single(image)[task], model(image)[task], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("decoder", DECODERS)
def test_recomputed_blocks_change_neither_outputs_nor_gradients(decoder):
    results, image = [], images(2, 32, 32)
    plain, recomputing = build(decoder), build(decoder, "none", "model.checkpointing=blocks")
    recomputing.load_state_dict(plain.state_dict())
    for model in (plain.train(), recomputing.train()):
        seed_drop_path(model, [11, 12], torch.device("cpu"))
        logits = model(image)
        sum(x.square().sum() for x in logits.values()).backward()
        results.append({**logits, **{name: p.grad for name, p in model.named_parameters()}})
    assert results[0].keys() == results[1].keys()
    for name, x in results[0].items():
        assert torch.equal(results[1][name], x), name


def test_seeded_draws_follow_an_image_through_the_batch():
    model, image = build("mtmamba", "none", "decoder.drop_path=0.5", "encoder.drop_path=0.5").train(), images(3)
    with torch.no_grad():
        seed_drop_path(model, [1, 2, 3], torch.device("cpu"))
        three = model(image)
        seed_drop_path(model, [3, 1], torch.device("cpu"))
        two = model(image[[2, 0]])
        seed_drop_path(model, [4, 5], torch.device("cpu"))
        other = model(image[[2, 0]])
    for task, x in three.items():
        torch.testing.assert_close(x[[2, 0]], two[task], rtol=1e-4, atol=1e-5)
        assert error(other[task], two[task]) > 1e-2


@pytest.mark.parametrize(
    ("decoder", "ablation"),
    [*((decoder, "none") for decoder in DECODERS), ("mtmamba", "mfe_wmsa"), ("mtmamba", "gate_wmsa")],
)
def test_bfloat16_autocast_stays_close(decoder, ablation):
    model, image = build(decoder, ablation).eval(), images()
    with torch.no_grad():
        expected = model(image)
        with torch.autocast("cpu", torch.bfloat16):
            got = model(image)
    assert all(error(got[task].float(), x) < 0.03 for task, x in expected.items())


@pytest.mark.parametrize(
    ("decoder", "slots"), [("stm1", 3), ("stm2", 6), ("stm3", 9), ("swin2", 6), ("mtmamba", 9), ("mtmamba_plus", 9)]
)
def test_stochastic_depth_falls_linearly_over_the_decoders_blocks(decoder, slots):
    blocks = list(build(decoder, "none", "decoder.drop_path=0.2").decoder.blocks())
    assert len(blocks) == slots
    for i, block in enumerate(blocks):
        rates = [module.rate for module in block.modules() if hasattr(module, "rate")]
        assert rates == pytest.approx([0.2 * (slots - 1 - i) / (slots - 1)] * len(rates))


def test_the_head_of_mtmamba_plus_starts_small():
    weight = build("mtmamba_plus").decoder.head.conv.weight
    assert weight.std().item() == pytest.approx(0.02, rel=0.05)


def test_wrong_inputs_are_named():
    model = build()
    with pytest.raises(ValueError, match=r"\(B, 3, H, W\), got \(3, 32, 32\)"):
        model(torch.zeros(3, 32, 32))
    with pytest.raises(ValueError, match=r"twice the one before, got \[8, 16, 32, 60\]"):
        mtmamba.build_decoder(mtmamba.load_config(), [8, 16, 32, 60])
    with pytest.raises(ValueError, match="at least one task"):
        MTMambaDecoder([8, 16, 32, 64], {}, own=list, cross=list, head=list)
