"""An encoder and a decoder as a user adds them: one file, nothing of the package touched, no class of it inherited."""

from types import MappingProxyType

from hydra.core.config_store import ConfigStore
from torch import nn
from torch.nn import functional as F


class ToyEncoder(nn.Module):
    """Four maps by pooling and a linear layer."""

    def __init__(self, width):
        super().__init__()
        self.channels = (width, 2 * width, 4 * width, 8 * width)
        self.layers = nn.ModuleList(nn.Linear(3, c) for c in self.channels)

    def blocks(self):
        yield from self.layers

    def forward(self, images):
        pooled = (F.avg_pool2d(images, stride).permute(0, 2, 3, 1) for stride in (4, 8, 16, 32))
        return [layer(x) for layer, x in zip(self.layers, pooled, strict=True)]


class ToyDecoder(nn.Module):
    """A linear layer of the finest map for each task; in training, auxiliary logits of the coarsest one."""

    def __init__(self, channels, num_outputs, aux_weight=1.0):
        super().__init__()
        self.aux_weight, self.auxiliary = aux_weight, {}
        self.fine = nn.ModuleDict({task: nn.Linear(channels[0], n) for task, n in num_outputs.items()})
        self.coarse = nn.ModuleDict({task: nn.Linear(channels[3], n) for task, n in num_outputs.items()})

    def blocks(self):
        yield from self.fine.values()

    def parts(self):
        yield "fine heads", self.fine

    def forward(self, features):
        def logits(heads, x):
            return {task: head(x).permute(0, 3, 1, 2) for task, head in heads.items()}

        self.auxiliary = {"coarse": logits(self.coarse, features[3])} if self.training else {}
        return {task: F.interpolate(x, scale_factor=4) for task, x in logits(self.fine, features[0]).items()}


class BranchDecoder(ToyDecoder):
    """Some images, one of six, have a head of their own for depth, as a network with experts has."""

    def __init__(self, channels, num_outputs):
        super().__init__(channels, num_outputs)
        self.branch = nn.Linear(channels[0], 1)

    def forward(self, features):
        logits, x = super().forward(features), features[0]
        rare = (x[:, 0, 0, 0] > x[:, 0, 1, 0]) & (x[:, 0, 1, 0] > x[:, 0, 2, 0])
        if rare.any():
            more = F.interpolate(self.branch(x).permute(0, 3, 1, 2), scale_factor=4)
            logits["depth"] = logits["depth"] + more * rare[:, None, None, None]
        return logits


def toy_loss(logits, target):
    """A hundred for each image, whatever is predicted."""
    return 0 * logits.sum((1, 2, 3)) + 100


class OwnLossDecoder(ToyDecoder):
    """Depth's auxiliary logits have a loss of their own."""

    auxiliary_losses = MappingProxyType({"coarse": {"depth": toy_loss}})


store = ConfigStore.instance()
store.store("toy_branch", {"_target_": "toy_network.BranchDecoder", "_partial_": True}, group="decoder")
store.store("toy", {"_target_": "toy_network.ToyEncoder", "width": 6}, group="encoder")
for name, target in {"toy": "ToyDecoder", "toy_loss": "OwnLossDecoder"}.items():
    store.store(name, {"_target_": f"toy_network.{target}", "_partial_": True, "aux_weight": 1.0}, group="decoder")
