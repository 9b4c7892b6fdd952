"""Balanced steps of a process, for a test: with few imports, of which the second process pays its own."""

from datetime import timedelta

import torch
from torch import distributed, nn
from torchjd import aggregation

import toy_network
from mtmamba.training.balancing import FAMO, DynamicWeightAverage, Moment, RandomWeights, Uncertainty
from mtmamba.training.gradient_balancing import GradientBalancing, GreatestNorm, watched


class Network(nn.Module):
    """Toy encoder and decoder with the mean squared logits of each image as losses."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        outputs = {"depth": 1, "normals": 3, "semseg": 5}
        self.encoder = toy_network.ToyEncoder(4).double()
        self.decoder = toy_network.ToyDecoder([4, 8, 16, 32], outputs).double().eval()

    def forward(self, images, labels):
        """Return the tasks' mean losses, and their images' share of the labels."""
        with watched(self.encoder) as maps:
            logits = self.decoder(self.encoder(images))
        scales = torch.tensor([1.0, 5.0, 30.0]).double()
        losses = torch.stack([((x - 1) ** 2).mean((1, 2, 3)) for x in logits.values()]) * scales[:, None]
        return (losses * labels).mean(1), labels.mean(1), maps


def balancings():
    gradients = {"cagrad": aggregation.CAGradWeighting(c=0.4), "upgrad": aggregation.UPGradWeighting()}
    return {
        "uncertainty": Uncertainty(3), "dwa": DynamicWeightAverage(3), "rlw": RandomWeights(3), "famo": FAMO(3),
        "db_mtl": GradientBalancing(3, GreatestNorm(), take_logs=True),
        **{name: GradientBalancing(3, x) for name, x in gradients.items()},
        "upgrad of parameters": GradientBalancing(3, gradients["upgrad"], at="parameters"),
    }  # fmt: skip


def mean(x):
    """Over the processes, as DistributedDataParallel's of gradients."""
    if not distributed.is_initialized():
        return x
    x = x.clone()
    distributed.all_reduce(x)
    return x / distributed.get_world_size()


def gradients_of(rank, processes):
    """Two steps' gradients by method, of all or of this process's half of four images; one has no label of normals."""
    generator = torch.Generator().manual_seed(7)
    images = torch.randn(2, 4, 3, 32, 64, generator=generator, dtype=torch.float64)
    labels = torch.tensor([[1, 1, 1, 1], [0, 4 / 3, 4 / 3, 4 / 3], [0, 0, 4, 0]], dtype=torch.float64)
    mine = slice(rank * 4 // processes, (rank + 1) * 4 // processes)
    found = {}
    for name, balancing in balancings().items():
        network, balancing = Network(), balancing.double()
        for step in range(2):
            network.zero_grad()
            balancing.zero_grad()
            moment = Moment(step, step == 1, mean, processes)
            losses, share, maps = network(images[step, mine], labels[:, mine])
            more = (network.encoder, maps) if isinstance(balancing, GradientBalancing) else ()
            balancing(losses, share, moment, *more).backward()
            trained = [*network.parameters(), *balancing.parameters()]
            for parameter in trained:
                parameter.grad = mean(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
            if more and balancing.at == "parameters":
                balancing.finish(network.encoder, 1, moment)
            for parameter in trained:
                parameter.data -= 0.01 * parameter.grad
            if isinstance(balancing, FAMO):
                balancing.look_back(mean(network(images[step, mine], labels[:, mine])[0].detach()))
        found[name] = torch.cat([p.grad.flatten() for p in trained])
    return found


def one_of_two(rank, folder):
    store = f"file://{folder}/store"
    distributed.init_process_group("gloo", store, timedelta(minutes=15), rank=rank, world_size=2)
    try:
        return gradients_of(rank, 2)
    finally:
        distributed.destroy_process_group()
