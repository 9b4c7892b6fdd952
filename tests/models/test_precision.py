"""Weights rounded once to bfloat16: what autocast makes of them at each use, and nothing else."""

import re
from functools import cache

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import mtmamba
from mtmamba.models.cuda_graphs import GraphedModel
from mtmamba.shipped import config_dir
from triton_runs import GPU

DECODERS = sorted(path.stem for path in (config_dir() / "decoder").glob("*.yaml"))
NETWORKS = [
    *(f"decoder={decoder}" for decoder in DECODERS),
    *(f"ablation={ablation}" for ablation in ("mfe_wmsa", "gate_wmsa")),
    *(pytest.param(f"ablation={ablation}", marks=pytest.mark.slow) for ablation in ("g0", "g1")),
    "backend=torch",
    "decoder=mtmamba_plus backend=torch",
    "encoder=timm encoder.name=convnext_atto",
    pytest.param("encoder=timm encoder.name=resnet18", marks=pytest.mark.slow),
    pytest.param("encoder=timm encoder.name=swinv2_tiny_window8_256", marks=pytest.mark.slow),
]
READ_IN_FLOAT32 = {
    "on a GPU": r"norm(?!als)|(mfe|own)\.conv\.|head\.project\.",
    "everywhere": r"ss2d\.(A_log|D|dt_bias)|relative_position_bias",
}


def build(network, device="cpu"):
    """A network none of whose parameters is a number of bfloat16, and images."""
    torch.manual_seed(0)
    model = mtmamba.build_model(mtmamba.load_config([*network.split(), "encoder.pretrained=false"])).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.to(device), torch.randn(2, 3, 32, 64).to(device)


def predict(model, images, dtype=torch.bfloat16):
    with torch.no_grad(), torch.autocast(images.device.type, dtype):
        return model(images)


class Rounded(TorchDispatchMode):
    """Note the float32 parameters, or their views, that are cast to bfloat16."""

    def __init__(self, model):
        super().__init__()
        self.names, self.found = {p.untyped_storage().data_ptr(): name for name, p in model.named_parameters()}, set()

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        result = operator(*args, **(kwargs or {}))
        place = {torch.ops.aten._to_copy.default: 0, torch.ops.aten.copy_.default: 1}.get(operator)
        if place is not None and (result.dtype, args[place].dtype) == (torch.bfloat16, torch.float32):
            name = self.names.get(args[place].untyped_storage().data_ptr())
            self.found |= {name} - {None}
        return result


@cache
def rounded(network, device):
    """A network whose weights have been rounded; predictions and the parameters that they rounded, before and after."""
    model, images = build(network, device)
    with Rounded(model) as before:
        expected = predict(model, images)
    size = sum(p.nbytes for p in model.parameters())
    with Rounded(model.weights_to_bfloat16()) as after:
        found = predict(model, images)
    return model, size, (expected, found), (before.found, after.found)


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize("network", NETWORKS)
def test_results_are_those_of_weights_rounded_at_each_use(network, device):
    if device == "cuda" and "backend" in network:
        pytest.skip("of CPUs")
    model, size, (expected, found), _ = rounded(network, device)
    assert all(torch.equal(x, expected[task]) for task, x in found.items())
    assert sum(p.nbytes for p in model.parameters()) < 0.6 * size
    assert {p.dtype for p in model.parameters()} == {torch.float32, torch.bfloat16}


FACTORS = r"mix\.change\.(logits|gamma)$|decoder\.(queries|query_places|key_places)$"
"""Of peers' decoders, what is multiplied by or added to maps, not a matrix product's."""


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize("decoder", DECODERS)
def test_no_weight_is_left_to_round(decoder, device):
    model, _, _, (before, after) = rounded(f"decoder={decoder}", device)
    assert any(name.startswith("encoder.") and name.endswith("fc1.weight") for name in before)
    kept = {name for name, _ in model.named_parameters() if re.search("|".join(READ_IN_FLOAT32.values()), name)}
    for name, module in model.named_modules():  # of peers' decoders
        if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
            kept |= {f"{name}.weight", f"{name}.bias"}
    kept |= {name for name, _ in model.named_parameters() if re.search(FACTORS, name)}
    if decoder == "mtmamba_plus":  # its projections are plain linear layers
        kept = {name for name in kept if "project" not in name}
    assert {name for name, p in model.named_parameters() if p.dtype == torch.float32} == kept
    if device == "cuda":
        assert not after
    assert all(re.search(READ_IN_FLOAT32["on a GPU"], name) for name in after)


def test_a_checkpoints_weights_are_rounded_as_they_are_loaded():
    model, images = build("decoder=mtmamba")
    expected = predict(model, images)
    other = mtmamba.build_model(mtmamba.load_config(["encoder.pretrained=false"])).weights_to_bfloat16()
    other.load_state_dict(model.state_dict())
    assert all(torch.equal(x, expected[task]) for task, x in predict(other, images).items())


def test_graphs_of_rounded_weights(graph_device, replays):
    backend = "torch" if graph_device.type == "cpu" else "auto"  # whose operators a capture on a CPU sees
    model, images = build(f"decoder=mtmamba backend={backend}", graph_device)
    graphed = GraphedModel(model)
    expected = predict(graphed, images)
    model.weights_to_bfloat16()
    found = predict(graphed, images)
    assert len(set(replays)) == 2
    assert all(torch.equal(x, expected[task]) for task, x in found.items())


def test_rounded_weights_are_neither_trained_nor_used_in_another_precision():
    model, images = build("decoder=mtmamba")
    model.weights_to_bfloat16()
    assert not any(p.requires_grad for p in model.parameters())
    with pytest.raises(RuntimeError, match=r"bfloat16 autocast .* got none or another: .*autocast\(\"cpu\""):
        model(images)
    with pytest.raises(RuntimeError, match="bfloat16 autocast"):
        predict(model, images, torch.float16)
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(RuntimeError, match=r"evaluation .* got training"):
        model.train()(images)
    predict(model.eval(), images)
