"""The contracts of decoders and encoders: what is added by one file works with every part of the program."""

import json

import pytest
import torch
from torch.nn import functional as F

import mtmamba
import toy_network
from fake_data import write_nyud
from mtmamba import build
from mtmamba.benchmarks.cases import block_cases, network_on_meta
from mtmamba.benchmarks.network_cases import random_batch
from mtmamba.config import compose
from mtmamba.evaluation.checkpoint import evaluate
from mtmamba.stats.flops import model_stats
from mtmamba.tasks import select_tasks
from mtmamba.training.train import train

TOY = ("encoder=toy", "decoder=toy")
TASKS = ("semseg", "depth", "normals", "edge")


def module_of(*overrides):
    torch.manual_seed(0)
    cfg = mtmamba.load_config([*TOY, *overrides])
    return build.build_module(cfg).train(), compose.num_outputs(cfg)


def batch_of(outputs, size=2, image_size=(32, 64)):
    torch.manual_seed(1)
    return random_batch(outputs, size, image_size, torch.device("cpu"))


def test_a_decoder_and_an_encoder_of_one_file_train_and_are_evaluated(tmp_path):
    root = write_nyud(tmp_path / "NYUDv2", train=4, val=2, size=(32, 48))
    common = ["trainer.accelerator=cpu", "data.num_workers=0", f"cache_dir={tmp_path}/cache", f"log_dir={tmp_path}"]
    choices = [
        *TOY, "data=nyud", f"data.root={root}", "data.crop_size=[32,64]", "data.batch_size=2", "logger=csv",
        "trainer.max_steps=2", "trainer.val_check_interval=2", "baseline=false", *common,
    ]  # fmt: skip
    (tmp_path / "run").mkdir()
    train(mtmamba.load_config(choices), tmp_path / "run")
    evaluate(mtmamba.load_config([f"ckpt={tmp_path}/run", "boundaries=null", *common], "eval"), tmp_path / "evaluation")
    stored = json.loads((tmp_path / "evaluation/metrics.json").read_text())
    assert stored["tasks"].keys() == set(TASKS)
    assert stored["choices"]["decoder"] == "toy"
    assert isinstance(mtmamba.load_model(tmp_path / "run").decoder, toy_network.ToyDecoder)


def test_its_parameters_and_flops_are_counted_by_part():
    cfg = mtmamba.load_config(TOY)
    with torch.device("meta"):
        stats = model_stats(mtmamba.build_model(cfg), (32, 64))
    fine = 45 * (6 + 1)  # 40 + 1 + 3 + 1 logits of six channels, and biases
    coarse = 45 * (48 + 1)
    assert stats.parameters == {"encoder": (3 + 1) * (6 + 12 + 24 + 48), "decoder": coarse, "fine heads": fine}
    encoder = 3 * sum(32 * 64 // stride**2 * c for stride, c in ((4, 6), (8, 12), (16, 24), (32, 48)))
    assert stats.flops == {("encoder", "linear"): encoder, ("fine heads", "linear"): 8 * 16 * 6 * 45}


def test_its_blocks_are_recomputed():
    model, runs = mtmamba.build_model(mtmamba.load_config([*TOY, "model.checkpointing=blocks"])), []
    for name, block in {"encoder": next(model.encoder.blocks()), "decoder": next(model.decoder.blocks())}.items():
        forward = block.forward.args[0]  # what is recomputed
        block.forward = type(block.forward)(block.forward.func, lambda x, f=forward, n=name: (runs.append(n), f(x))[1])
    sum(x.sum() for x in model(torch.randn(1, 3, 32, 32)).values()).backward()
    assert sorted(runs) == ["decoder", "decoder", "encoder", "encoder"]


def test_benchmarks_take_the_blocks_that_map_tasks_maps_and_leave_out_others():
    settings = compose.load_config(["cpu.blocks.networks=[any]"], name="benchmark").cpu.blocks
    assert not list(block_cases(settings, {"any": " ".join(TOY)}, "auto"))
    names = {case.name.partition("_b")[0] for case in block_cases(settings, {"any": "data.crop_size=[32,64]"}, "auto")}
    sizes = ("48_2x4", "24_4x8", "12_8x16")
    assert names == {f"{kind}_any_t4_{size}" for kind in ("stm", "ctm") for size in sizes}
    assert network_on_meta(" ".join(TOY))[1].encoder.channels == (6, 12, 24, 48)


@pytest.mark.parametrize("weight", [1.0, 0.25])
@pytest.mark.parametrize("image_size", [(32, 64), (40, 50)])
def test_auxiliary_losses_are_added_to_their_tasks(weight, image_size):
    """Under the log loss, the logarithm is of the sum; auxiliary logits cover the padded image."""
    module, outputs = module_of(f"decoder.aux_weight={weight}")
    batch = batch_of(outputs, image_size=image_size)
    total = module.training_step(batch, 0)
    logits = module.model(batch["image"])
    coarse = module.model.decoder.auxiliary["coarse"]
    padded, expected = [-(-side // 32) * 32 for side in image_size], 0
    for task in select_tasks(outputs):
        resized = F.interpolate(coarse[task.name], padded, mode="bilinear")[..., : image_size[0], : image_size[1]]
        own, auxiliary = (task.loss(x, batch[task.name]) for x in (logits[task.name], resized))
        expected = expected + (own + weight * auxiliary + 1e-8).log().mean()
    torch.testing.assert_close(total, expected)
    total.backward()
    assert all(p.grad.any() for p in module.model.decoder.coarse.parameters())


def test_an_auxiliary_may_have_a_loss_of_its_own():
    module, outputs = module_of("decoder=toy_loss", "tasks=[depth]", "loss=weighted", "decoder.aux_weight=0.5")
    batch = batch_of(outputs)
    (task,) = select_tasks(["depth"])
    expected = 0.5 * 100 + task.loss(module.model(batch["image"])["depth"], batch["depth"]).mean()
    torch.testing.assert_close(module.training_step(batch, 0), expected)


def test_evaluation_has_no_auxiliaries():
    module, outputs = module_of()
    images = batch_of(outputs)["image"]
    assert module.outputs(images)[1].keys() == {"coarse"}
    assert module.eval().outputs(images)[1] == {}


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
def test_auxiliary_losses_under_cuda_graphs(graph_device, replays):
    gradients = []
    for graphed in (False, True):
        module, outputs = module_of()
        module.to(graph_device)
        if graphed:
            module.use_cuda_graphs()
        for _ in range(2):
            batch = random_batch(outputs, 2, (32, 64), torch.device("cpu"))
            module.zero_grad()
            module.training_step(
                {k: x.to(graph_device) if k in ("image", *outputs) else x for k, x in batch.items()}, 0
            ).backward()
        gradients.append([p.grad.clone() for p in module.model.decoder.parameters()])
    assert len(replays) == 4
    for plain, graphed in zip(*gradients, strict=True):
        assert plain.any()
        torch.testing.assert_close(graphed, plain)
