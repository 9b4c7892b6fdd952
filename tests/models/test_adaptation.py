"""Layer-wise decay and low-rank adaptation of encoders."""

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import fake_training
import mtmamba
from fake_data import write_nyud
from mtmamba import build
from mtmamba.benchmarks.network_cases import random_batch
from mtmamba.checkpoints import read_checkpoint
from mtmamba.config import compose
from mtmamba.config.checks import ConfigError
from mtmamba.models.encoders import by_depth, pretrained_parameters
from mtmamba.models.encoders.lora import add_lora, merge_lora
from mtmamba.sharing import save_pretrained
from mtmamba.shipped import config_dir

SWIN = ["encoder=swin_micro", "encoder.pretrained=false"]
ENCODERS = {
    "swin": SWIN,
    "efficientnet": ["encoder=efficientnet_lite0", "encoder.pretrained=false", "encoder.width=16"],
    "vit": ["encoder=timm", "encoder.name=vit_tiny_patch16_224", "encoder.pretrained=false", "encoder.width=16"],
}


def model_of(*options):
    torch.manual_seed(0)
    return mtmamba.build_model(mtmamba.load_config(["decoder=stm1", "backend=torch", *options]))


class Chain(nn.Module):
    """A stem, three blocks with something between, a norm, and a neck that starts at random."""

    fresh = ("neck",)

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(2, 2)
        self.first, self.second = nn.Linear(2, 2), nn.Linear(2, 2)
        self.between = nn.Linear(2, 2)
        self.third = nn.Linear(2, 2)
        self.norm = nn.LayerNorm(2)
        self.neck = nn.Linear(2, 2)

    def blocks(self):
        yield from (self.first, self.second, self.third)


def test_layer_wise_decay_goes_by_the_number_of_blocks_that_follow():
    chain = Chain()
    names = {id(p): name for name, p in chain.named_parameters() if name.endswith("weight")}
    found = {names[id(p)]: s for s, parameters in by_depth(chain, 0.5).items() for p in parameters if id(p) in names}
    assert found == {
        "stem.weight": 1 / 16, "first.weight": 1 / 8, "second.weight": 1 / 4, "between.weight": 1 / 4,
        "third.weight": 1 / 2, "norm.weight": 1,
    }  # fmt: skip


def test_the_optimisers_rates_are_decayed_and_scaled():
    options = [*SWIN, "encoder.layer_decay=0.5", "encoder.lr_scale=0.1", "optimizer.lr=1", "backend=torch"]
    module = build.build_module(mtmamba.load_config(options))
    rates = {id(p): g["lr"] for g in module.configure_optimizers()["optimizer"].param_groups for p in g["params"]}
    assert len(rates) == len(list(module.parameters()))
    encoder = module.model.encoder
    blocks = list(encoder.blocks())
    for number, block in enumerate(blocks, 1):
        expected = 0.1 * 0.5 ** (len(blocks) + 1 - number)
        assert [rates[id(p)] for p in block.parameters()] == pytest.approx([expected] * len(list(block.parameters())))
    first = next(encoder.parameters())
    assert rates[id(first)] == pytest.approx(0.1 * 0.5 ** (len(blocks) + 1))
    assert {rates[id(p)] for p in module.model.decoder.parameters()} == {1}


@pytest.mark.parametrize("options", ENCODERS.values(), ids=ENCODERS)
def test_lora_begins_as_the_encoder_and_merges_into_it(options):
    plain = model_of(*options).eval()
    model = model_of(*options, "encoder.lora.rank=2")
    state = model.state_dict()
    model.load_state_dict(
        {name: plain.state_dict().get(name.replace("base_layer.", ""), x) for name, x in state.items()}
    )
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        expected = plain(images)["depth"]
        torch.testing.assert_close(model.eval()(images)["depth"], expected)
    base = {name: p for name, p in model.encoder.named_parameters() if "lora_" not in name}
    fresh = {id(p) for p in model.encoder.parameters()} - {id(p) for p in pretrained_parameters(model.encoder)}
    assert {name for name, p in base.items() if p.requires_grad} == {name for name, p in base.items() if id(p) in fresh}
    before = {name: p.clone() for name, p in model.encoder.state_dict().items()}
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.02)
    model.train()
    for _ in range(2):
        optimizer.zero_grad()
        model(images)["depth"].square().mean().backward()
        optimizer.step()
    after = model.encoder.state_dict()
    updates = [name for name in after if "lora_B" in name]
    assert {name for name in updates if after[name].norm() == 0} == set(), "also where a weight is read directly"
    frozen = [
        name
        for name in before
        if name in after and "lora_" not in name and not any(f in name for f in model.encoder.fresh)
    ]
    assert all(torch.equal(before[name], after[name]) for name in frozen), "batch norms' averages too"
    with torch.no_grad():
        adapted = model.eval()(images)["depth"]
        assert (adapted - expected).abs().max() > 1e-3
        merge_lora(model)
        torch.testing.assert_close(model(images)["depth"], adapted, rtol=1e-3, atol=1e-4)
    assert model.state_dict().keys() == plain.state_dict().keys()


def test_a_run_with_lora_loads_merged(tmp_path):
    dataset = write_nyud(tmp_path / "NYUDv2", train=10, val=3, size=(32, 48))
    options = [*SWIN, "decoder=stm1", "encoder.lora.rank=4", "trainer.max_steps=2", "optimizer.lr=0.01"]
    fake_training.run(dataset, tmp_path / "run", *options)
    model = mtmamba.load_model(tmp_path / "run")
    assert not [name for name in model.state_dict() if "lora" in name]
    assert model.description["values"]["encoder"]["lora"]["rank"] is None
    state = read_checkpoint(tmp_path / "run/checkpoints/best.ckpt")["state_dict"]
    name = next(name for name in state if name.endswith("lora_B.default.weight")).removesuffix("lora_B.default.weight")
    down, up = state[f"{name}lora_A.default.weight"], state[f"{name}lora_B.default.weight"]
    expected = state[f"{name}base_layer.weight"] + 2 * up @ down  # alpha / rank = 2
    found = model.state_dict()[f"{name.removeprefix('model.')}weight"]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert up.norm() > 0
    folder = save_pretrained(tmp_path / "run", tmp_path / "given")
    again = mtmamba.load_model(folder).state_dict()
    assert all(torch.equal(x, again[name]) for name, x in model.state_dict().items())
    assert "lora_" not in " ".join(load_file(folder / "model.safetensors"))


def small(kind):
    """What chooses an encoder of every kind, Swin's ones shallow and narrow."""
    if kind.startswith("swin_"):
        return [f"encoder={kind}", "encoder.embed_dim=12", "encoder.depths=[1,1,1,1]", "encoder.num_heads=[1,2,3,6]"]
    if kind.startswith("efficientnet_lite"):
        return [f"encoder={kind}", "encoder.width=16"]
    return ["encoder=timm", f"encoder.name={kind}", "encoder.width=16", "encoder.drop_path=0"]


CHOICES = sorted(path.stem for path in (config_dir() / "encoder").glob("*_*.yaml"))
TIMM = [
    "resnet18", "convnext_atto", "vit_small_patch16_dinov3", "eva02_tiny_patch14_224", "mobilenetv4_conv_small_035",
    "mambaout_femto", "pvt_v2_b0",
]  # fmt: skip


ONE_OF_EACH = {"swin_micro", "efficientnet_lite0", *TIMM} - {"vit_small_patch16_dinov3"}  # of eva02's class


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=[pytest.mark.slow] * (kind not in ONE_OF_EACH)) for kind in [*CHOICES, *TIMM]],
)
@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
def test_every_encoder_is_adapted_saved_and_merged(kind, tmp_path):
    choices = [*small(kind), "encoder.pretrained=false", "decoder=fcn", "decoder.neck=[8,8,8,8]", "tasks=[depth]"]
    cfg = mtmamba.load_config([*choices, "encoder.lora.rank=2"])
    torch.manual_seed(0)
    module = build.build_module(cfg).train()
    optimizer = torch.optim.Adam([p for p in module.parameters() if p.requires_grad], lr=0.01)
    for _ in range(2):
        module.training_step(random_batch({"depth": 1}, 2, (64, 96), torch.device("cpu")), 0).backward()
        optimizer.step()
        optimizer.zero_grad()
    state = module.state_dict()
    updates = {name: x for name, x in state.items() if "lora_B" in name}
    assert updates
    assert [name for name, x in updates.items() if not x.any()] == []
    torch.save({"mtmamba": compose.describe(cfg), "state_dict": state, "global_step": 2}, tmp_path / "last.ckpt")
    merged = mtmamba.load_model(tmp_path / "last.ckpt")
    plain = mtmamba.build_model(mtmamba.load_config(choices))
    assert merged.state_dict().keys() == plain.state_dict().keys()
    again = mtmamba.load_model(save_pretrained(merged, tmp_path / "given"))
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected, found = module.eval().model(images)["depth"], merged(images)["depth"]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        assert torch.equal(again(images)["depth"], found)


def test_losses_reach_the_updates_through_the_whole_network():
    model = model_of(*SWIN, "encoder.lora.rank=2", "model.checkpointing=blocks").train()
    batch = random_batch({"depth": 1}, 2, (32, 64), torch.device("cpu"))
    model(batch["image"])["depth"].mean().backward()
    assert all(p.grad is not None for name, p in model.encoder.named_parameters() if "lora_B" in name)
    assert all(p.grad is None for name, p in model.encoder.named_parameters() if "base_layer" in name)


def test_lora_and_freeze_are_one_choice():
    with pytest.raises(ConfigError, match=r"Expected encoder\.freeze=null with encoder\.lora, .* got all: leave"):
        mtmamba.load_config(["encoder.lora.rank=8", "encoder.freeze=all"])


def test_an_encoder_without_layers_to_adapt_is_refused():
    with pytest.raises(ValueError, match=r"Expected linear layers in the encoder for encoder\.lora, got none: set"):
        add_lora(nn.Sequential(nn.Conv2d(3, 8, 3)), 2)
