"""Cases of whole networks: training steps and inference, of the model or of its encoder alone."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import product, starmap
from typing import NamedTuple

import torch
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.nn import functional as F

from mtmamba import build
from mtmamba.benchmarks.cases import Case, network_config, network_on_meta, require
from mtmamba.benchmarks.roofline import Work, count_work
from mtmamba.benchmarks.timing import PRECISIONS, autocast
from mtmamba.config import compose
from mtmamba.models.cuda_graphs import GraphedModel
from mtmamba.models.multitask import MultiTaskModel
from mtmamba.tasks import Task, get_task
from mtmamba.types import Batch

PASSES = ("train", "infer", "encoder_train", "encoder_infer")
COMPILE = ("none", "blocks")
LOSSES = ("training", "mean_square")


@dataclass(frozen=True, kw_only=True)
class NetworkCase(Case):
    """A training step or a forward pass of a network with random weights on random images."""

    overrides: str
    part: str
    """``model`` or ``encoder``."""
    compile: str
    checkpointing: str
    loss: str

    @property
    def captured_whole(self) -> bool:
        """A step is not: its optimiser runs by itself, as in training."""
        return self.cuda_graph and not self.backward

    def work(self) -> Work:
        """Count a forward pass."""
        return _work(self.overrides, self.part, self.batch_size)

    def prepare(self, device: torch.device) -> Callable[[], object]:
        """Build the network and a batch.

        A training step is forward, loss, backward, a step of AdamW, and gradients set to None. The learning rate is 0,
        which costs the same and lets no run of steps on random labels diverge. With ``cuda_graph``, forward and
        backward pass are replayed as they are in training. Inference in ``bf16`` has its weights rounded beforehand, as
        evaluation has.
        """
        settings = (f"backend={self.backend}", f"model.checkpointing={self.checkpointing}")
        cfg = network_config(self.overrides, *settings)
        with torch.device(device):
            model = build.build_model(cfg)
        if self.compile == "blocks":
            model.compile_blocks()
        module = build.build_module(cfg, model).to(device)
        batch = random_batch(compose.num_outputs(cfg), self.batch_size, cfg.data.crop_size, device)
        part = _part(model, self.part)
        images = batch["image"]
        if not self.backward:
            model.eval()
            if self.precision == "bf16":
                model.weights_to_bfloat16()

            @torch.no_grad()
            def infer() -> object:
                with autocast(device, self.precision):
                    return part(images)

            return infer

        module.train()
        on_gpu = device.type == "cuda"
        optimizer = module.optimizer(part.parameters(), lr=0.0, fused=on_gpu)
        real_loss = self.loss == "training" and self.part == "model"
        network = GraphedModel(part) if self.cuda_graph else part
        if self.cuda_graph:
            module.use_cuda_graphs()

        def step() -> None:
            with autocast(device, self.precision):
                loss = module.training_step(batch, 0) if real_loss else mean_square(network(images))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        return step


@cache
def _work(overrides: str, part: str, batch_size: int) -> Work:
    cfg, model = network_on_meta(overrides)
    return count_work(_part(model, part), [torch.empty(batch_size, 3, *cfg.data.crop_size, device="meta")])


def _part(model: MultiTaskModel, part: str) -> nn.Module:
    return model.encoder if part == "encoder" else model


def network_cases(cfg: DictConfig, networks: Mapping[str, str], backend: str) -> Iterator[Case]:
    """Yield the cases of whole networks.

    Args:
        cfg: ``networks`` (names), ``batch_sizes``, ``precisions``, ``passes``, ``compile``, ``cuda_graph``,
            ``checkpointing`` and ``loss``, each a list of choices.
        networks: overrides of the training configuration, by name.
        backend: the selective scan's.
    """
    require("model.networks", cfg.networks, networks)
    choices = {"precisions": PRECISIONS, "passes": PASSES, "compile": COMPILE, "cuda_graph": (False, True)}
    for key, allowed in (choices | {"loss": LOSSES}).items():
        require(f"model.{key}", cfg[key], allowed)
    for network, checkpointing in product(cfg.networks, cfg.checkpointing):
        network_on_meta(f"{networks[network]} model.checkpointing={checkpointing}")  # the model knows its choices
    for network, passes, batch, precision in product(cfg.networks, cfg.passes, cfg.batch_sizes, cfg.precisions):
        name = f"{passes}_{network}_b{batch}_{precision}"
        for way in _ways(cfg, passes):
            yield NetworkCase(
                name=name + way.suffix(),
                group="model",
                release_name=name,
                precision=precision,
                batch_size=batch,
                backend=backend,
                backward=passes.endswith("train"),
                optimizer=passes.endswith("train"),
                overrides=networks[network],
                part="encoder" if passes.startswith("encoder") else "model",
                **way._asdict(),
            )


class _Way(NamedTuple):
    """How a network is run."""

    compile: str
    cuda_graph: bool
    checkpointing: str
    loss: str

    def suffix(self) -> str:
        """Return what a name ends in, nothing for the plain way."""
        parts = [f"compile-{self.compile}"] if self.compile != "none" else []
        parts += ["graph"] if self.cuda_graph else []
        parts += [f"checkpointing-{self.checkpointing}"] if self.checkpointing != "none" else []
        parts += ["mean-square"] if self.loss == "mean_square" else []
        return "".join(f"_{part}" for part in parts)


def _ways(cfg: DictConfig, passes: str) -> Iterable[_Way]:
    """Return the ways that differ: inference has no backward pass."""
    ways = starmap(_Way, product(cfg.compile, cfg.cuda_graph, cfg.checkpointing, cfg.loss))
    if passes.endswith("train"):
        return ways
    return dict.fromkeys(way._replace(checkpointing="none", loss="training") for way in ways)


def mean_square(outputs: Mapping[str, Tensor] | Iterable[Tensor]) -> Tensor:
    """Return the sum of every output's mean square, in float32: the least that a loss can cost."""
    tensors = outputs.values() if isinstance(outputs, Mapping) else outputs
    return torch.stack([x.float().square().mean() for x in tensors]).sum()


def random_batch(num_outputs: Mapping[str, int], size: int, image_size: Iterable[int], device: torch.device) -> Batch:
    """Return a batch of random images and labels, every pixel valid and every class equally likely.

    Args:
        num_outputs: by task.
        size: images.
        image_size: height and width, pixels.
        device: of every tensor but the keys.
    """
    shape = (size, *image_size)

    def target(task: Task, n: int) -> Tensor:
        if task.dtype == "uint8":
            return torch.randint(max(n, 2), shape, dtype=torch.uint8, device=device)  # one logit: 0 and 1
        if task.channels:
            return F.normalize(torch.randn(size, task.channels, *image_size, device=device))
        return 10 * torch.rand(shape, device=device)

    batch: Batch = {
        "image": torch.randn(size, 3, *image_size, device=device),
        "id": [str(i) for i in range(size)],
        "key": torch.arange(size),
    }
    for task, n in num_outputs.items():
        batch[task] = target(get_task(task), n)  # type: ignore[literal-required]
    return batch
