"""Batch norms of two processes against PyTorch's over the whole batch."""

import copy

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from timm.layers import BatchNormAct2d
from torch import nn

import mtmamba
from mtmamba import build
from mtmamba.models.decoders.astmt import ASTMTDecoder
from mtmamba.models.recomputation import recomputed
from mtmamba.training.batch_norm import SyncBatchNorm, SyncBatchNorms


def network():
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4, momentum=0.3), nn.ReLU(), nn.BatchNorm2d(4, affine=False)]
    return nn.Sequential(*layers).double()


def images():
    return torch.randn(4, 2, 3, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def loss(model, x):
    return (model(x) * torch.arange(x[0, 0].numel()).view(x.shape[2:])).tanh().sum()


def share(rank, folder):
    """Three images on the first process, one on the second; gradients are added up."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    model = SyncBatchNorms(on_gpu=False).apply(network())
    assert [type(model[i]) for i in (1, 3)] == [SyncBatchNorm] * 2
    loss(model, (images()[:3], images()[3:])[rank]).backward()
    for parameter in model.parameters():
        dist.all_reduce(parameter.grad)
    torch.save([[p.grad for p in model.parameters()], model.state_dict()], f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_with_unequal_shares_equal_one(tmp_path):
    mp.spawn(share, (str(tmp_path),), nprocs=2)
    model = network()
    loss(model, images()).backward()
    for rank in (0, 1):
        grads, state = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(grads, [p.grad for p in model.parameters()])
        torch.testing.assert_close(state, dict(model.state_dict()))


@pytest.mark.parametrize("training", [True, False])
def test_a_single_process_has_pytorchs_batch_norm(training):
    plain = network().train(training)
    ours = SyncBatchNorms(on_gpu=False).apply(copy.deepcopy(plain))
    assert torch.equal(ours(images()), plain(images()))
    torch.testing.assert_close(ours.state_dict(), plain.state_dict())


def test_on_gpus_they_are_pytorchs_and_keep_timms_activations():
    plain = nn.Sequential(nn.BatchNorm2d(4), BatchNormAct2d(4, act_layer=nn.SiLU)).double().eval()
    ours = SyncBatchNorms(on_gpu=True).apply(copy.deepcopy(plain))
    assert all(isinstance(module, nn.SyncBatchNorm) for module in ours)
    x = torch.randn(2, 4, 3, 5, dtype=torch.float64)
    assert torch.equal(ours(x), plain(x))


def test_on_cpus_another_kind_is_refused():
    with pytest.raises(ValueError, match=r"got BatchNormAct2d at 0: use trainer\.devices=1, GPUs, or another"):
        SyncBatchNorms(on_gpu=False).apply(nn.Sequential(BatchNormAct2d(4)))


@pytest.mark.parametrize("on_gpu", [False, True])
@pytest.mark.parametrize("part", ["norms", "1"])
def test_what_is_frozen_stays_in_evaluation_on_several_devices(part, on_gpu):
    """With its first stage frozen, the stem's norm has no frozen module around it that would hold it there."""
    choices = ["encoder=timm", "encoder.name=resnet18", "encoder.pretrained=false", "encoder.width=8"]
    model = build.build_model(mtmamba.load_config([*choices, f"encoder.freeze={part}"]))
    model = SyncBatchNorms(on_gpu).apply(model).train()
    norms = [m for m in model.encoder.features.modules() if hasattr(m, "running_mean")]
    frozen = [m for m in norms if not m.weight.requires_grad]
    assert len(frozen) == (len(norms) if part == "norms" else 5)
    assert [m.training for m in norms] == [m.weight.requires_grad for m in norms]


def test_a_recomputed_one_takes_a_batch_in_once():
    models = []
    for function in (lambda f, x: f(x), recomputed):
        model = SyncBatchNorms(on_gpu=True).apply(network())
        function(model.forward, images().requires_grad_()).sum().backward()
        models.append(model.state_dict())
    torch.testing.assert_close(*models, rtol=0, atol=0)


@pytest.mark.parametrize("on_gpu", [False, True])
def test_astmt_is_trained_on_one_image_for_each_of_several_devices(on_gpu):
    decoder = ASTMTDecoder((4, 4, 4, 4), {"depth": 1}, width=16)
    with pytest.raises(ValueError, match="two images per device"):
        decoder.require_statistics(1)
    SyncBatchNorms(on_gpu).apply(decoder).require_statistics(1)
