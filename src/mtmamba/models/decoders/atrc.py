"""ATRC: every task reads contexts from the tasks that a genotype names, by attention of the kind it names."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtmamba.models.decoders import Loss
from mtmamba.models.decoders.conv import Predict, conv, conv_norm_relu, enlarge, start_small
from mtmamba.models.decoders.fcn import FCN
from mtmamba.models.drop_path import DropPath
from mtmamba.types import Logits

Genotype = Mapping[str, Mapping[str, str]]
"""For each target, the kind of context that it reads from each source; a source that is not named is not read."""

LOCAL_SIDE = 9
"""Side of a local context's window, pixels."""


class Context(nn.Module):
    """What a target's queries find in a source: projections, and a kind of attention.

    Args:
        dim: channels d of both tasks' maps.
        inner: channels a of queries, keys, values.

    Shape: ``target (B, d, h, w), source (B, d, h, w), labels (B, m, h w) → (B, a, h, w)``.
    """

    def __init__(self, dim: int, inner: int) -> None:
        super().__init__()
        self.query, self.key = (
            nn.Sequential(*conv_norm_relu(1, dim, inner), *conv_norm_relu(1, inner, inner)) for _ in range(2)
        )
        self.value = conv_norm_relu(1, dim, inner)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.xavier_uniform_(layer.weight)

    def forward(self, target: Tensor, source: Tensor, labels: Tensor | None) -> Tensor:
        """Attend from all of the target's positions."""
        source = self.read(source, labels)
        return self.attend(self.query(target), self.key(source), self.value(source))

    def read(self, source: Tensor, labels: Tensor | None) -> Tensor:
        """Return the map that keys and values are made of."""
        return source

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return the values that the queries find."""
        raise NotImplementedError


class GlobalContext(Context):
    """Attention to all of the source's positions, linear in their number: the softmax's kernel is a product."""

    def __init__(self, dim: int, inner: int) -> None:
        super().__init__(dim, inner)
        self.query[-1], self.key[-1] = nn.Softplus(), nn.Softplus()

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Weigh each position by ``q·k`` over its sum."""
        size = q.shape[-2:]
        q, k, v = (x.flatten(2) for x in (q, k, v))  # (B, a, N)
        found = v @ k.mT @ q
        weights = k.sum(2, keepdim=True).mT @ q  # (B, 1, N)
        return (found / weights.clamp(min=1e-12)).unflatten(2, size)


class LocalContext(Context):
    """Attention to the 81 positions around the target's; one beyond the border has logit 0 and value 0."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Go through the window's positions, so that no more than their logits is kept for each."""
        (height, width), margin = q.shape[-2:], LOCAL_SIDE // 2
        k, v = (F.pad(x, (margin,) * 4) for x in (k, v))
        offsets = [(i, j) for i in range(LOCAL_SIDE) for j in range(LOCAL_SIDE)]

        def moved(x: Tensor, i: int, j: int) -> Tensor:
            return x[..., i : i + height, j : j + width]

        logits = torch.stack([(q * moved(k, i, j)).sum(1) for i, j in offsets]) * q.shape[1] ** -0.5
        found = torch.zeros_like(q)
        for weight, (i, j) in zip(logits.softmax(0), offsets, strict=True):
            found = found + weight[:, None] * moved(v, i, j)
        return found


class LabelContext(Context):
    """Attention to a vector for each label: the source's mean over positions, weighted by the label's map."""

    def read(self, source: Tensor, labels: Tensor | None) -> Tensor:
        """Return the labels' vectors as a map ``(B, d, m, 1)``."""
        assert labels is not None
        return (source.flatten(2) @ labels.mT)[..., None]

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Weigh the vectors by a softmax over labels."""
        logits = q.flatten(2).mT @ k.flatten(2) * q.shape[1] ** -0.5  # (B, N, m)
        return (v.flatten(2) @ logits.softmax(2).mT).unflatten(2, q.shape[-2:])


KINDS: dict[str, type[Context] | None] = {
    "none": None,
    "global": GlobalContext,
    "local": LocalContext,
    "t_label": LabelContext,
    "s_label": LabelContext,
}
"""Contexts by name; the labels of ``t_label`` are the target's, those of ``s_label`` the source's."""


class Relate(nn.Module):
    """Add to a target's map what it finds in its sources.

    Args:
        target: the task's name.
        kinds: of contexts, by source; none of them ``none``.
        dim: channels d of a task's map.

    Shape: ``{task: (B, d, h, w)}, {task: (B, m, h w)} → (B, d, h, w)``.
    """

    def __init__(self, target: str, kinds: Mapping[str, str], dim: int) -> None:
        super().__init__()
        self.target, inner = target, dim // 2
        self.labels = {source: target if kind == "t_label" else source for source, kind in kinds.items()}
        found = {source: KINDS[kind] for source, kind in kinds.items()}
        self.contexts = nn.ModuleDict({source: kind(dim, inner) for source, kind in found.items() if kind})
        if self.contexts:
            norm = nn.BatchNorm2d(dim)
            nn.init.zeros_(norm.weight)  # so that training begins with the baseline
            self.project = nn.Sequential(conv(1, len(self.contexts) * inner, dim), norm)
        self.mix = conv_norm_relu(1, 2 * dim if self.contexts else dim, dim)

    def forward(self, maps: Mapping[str, Tensor], labels: Mapping[str, Tensor]) -> Tensor:
        """Read all sources."""
        x = maps[self.target]
        if self.contexts:
            found = [read(x, maps[source], labels.get(self.labels[source])) for source, read in self.contexts.items()]
            x = torch.cat((x, self.project(torch.cat(found, 1))), 1)
        return self.mix(x)


class ATRC(FCN):
    """A baseline `FCN` whose tasks' maps read contexts from one another before they predict.

    Label contexts rest on auxiliary predictions (``labels``, at a quarter of the resolution) of the tasks that need
    them, in the form of classes: each class's softmax over positions is its map. They have losses of their own; the
    encoder gets no gradient through them.

    Args:
        channels: of the encoder's maps at strides 4, 8, 16, 32.
        num_outputs: logits per task, in the tasks' order.
        genotype: one of ``genotypes``, or a kind of context for all pairs: none, global, local, t_label, s_label.
        genotypes: kinds of contexts by name, target and source; tasks that are not chosen are left out of them.
        label_outputs: classes of a task's auxiliary prediction, where they are not its logits.
        label_losses: losses of auxiliary predictions, where they are not the task's.
        neck: as `FCN`'s.

    Shape: four maps ``(B, h, w, c)`` → ``{task: (B, n, 4h, 4w)}`` of the first map's h, w.
    Source: Bruggemann et al., Exploring Relational Context for Multi-Task Dense Prediction, ICCV 2021, as in the
    authors' program, but for its mask of pixels whose value is 255, which padding with 0 never makes. Parameters in
    the specification's closed form: `tests/models/decoders/test_atrc.py`.

    Raises:
        ValueError: the genotype is unknown, lacks a task, or has an unknown kind; the maps are too narrow, a label
            prediction has no class; or as `FCN`.
    """

    def __init__(
        self,
        channels: Sequence[int],
        num_outputs: Mapping[str, int],
        *,
        genotype: str,
        genotypes: Mapping[str, Genotype],
        label_outputs: Mapping[str, int],
        label_losses: Mapping[str, Loss],
        neck: Sequence[int] | None = None,
    ) -> None:
        super().__init__(channels, num_outputs, neck=neck)
        kinds = pairs(genotype, genotypes, self.tasks)
        needed = {
            target if kind == "t_label" else source
            for target, own in kinds.items()
            for source, kind in own.items()
            if kind.endswith("_label")
        }
        labels = {task: label_outputs.get(task, n) for task, n in num_outputs.items() if task in needed}
        if self.dim < 2 or min(labels.values(), default=1) < 1:
            raise ValueError(
                f"Expected maps of at least 8 channels together and decoder.label_outputs of at least 1, got "
                f"{self.total} and {labels}: choose a wider decoder.neck, and no other label_outputs."
            )
        self.relate = nn.ModuleDict({target: Relate(target, own, self.dim) for target, own in kinds.items()})
        self.label_features = conv_norm_relu(len(labels), self.total, self.total, shared=True) if labels else None
        self.label_predict = Predict(self.total, labels)
        start_small(self.label_predict)
        self.drop = DropPath(0.05, len(self.tasks) * self.dim)  # single channels of single images
        self.auxiliary_losses = {"labels": dict(label_losses)}

    def decode(self, features: Sequence[Tensor]) -> tuple[Logits, dict[str, Logits]]:
        """Return final and label predictions."""
        joined = self.joined(features)
        predicted = self.label_predict(self.label_features(joined.detach())) if self.label_features else {}
        labels = {task: x.flatten(2).softmax(2) for task, x in predicted.items()}
        maps = dict(zip(self.tasks, self.features(joined).chunk(len(self.tasks), 1), strict=True))
        x = torch.cat([relate(maps, labels) for relate in self.relate.values()], 1)  # (B, T d, h, w)
        x = self.drop(x.transpose(0, 1)).transpose(0, 1)
        return enlarge(self.predict(x)), {"labels": predicted} if predicted else {}

    def blocks(self) -> Iterator[nn.Module]:
        """Yield what may be recomputed."""
        yield from (self.features, *self.relate.values())

    def parts(self) -> Iterator[tuple[str, nn.Module]]:
        """Name the parts of the specification's table."""
        yield from super().parts()
        if self.label_features:
            yield "labels", self.label_features
            yield "labels", self.label_predict
        yield "contexts", self.relate


def pairs(genotype: str, genotypes: Mapping[str, Genotype], tasks: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return the kinds of contexts by target and source, for the chosen tasks, without pairs of kind ``none``.

    Raises:
        ValueError: the genotype is unknown, lacks a task, or has an unknown kind.
    """
    uniform = {target: dict.fromkeys(tasks, genotype) for target in tasks} if genotype in KINDS else None
    table = uniform or genotypes.get(genotype, {})
    if missing := [task for task in tasks if task not in table]:
        raise ValueError(
            f"Expected decoder.genotype among {', '.join(genotypes)}, with a target {', '.join(missing)}, or a kind of "
            f"context for all pairs, {', '.join(KINDS)}; got {genotype}: choose decoder.genotype=global."
        )
    found = {t: {s: table[t][s] for s in tasks if table[t].get(s, "none") != "none"} for t in tasks}
    if unknown := {kind for own in found.values() for kind in own.values()} - KINDS.keys():
        raise ValueError(
            f"Expected kinds of contexts among {', '.join(KINDS)} in decoder.genotypes.{genotype}, got "
            f"{', '.join(sorted(unknown))}: correct them."
        )
    return found
