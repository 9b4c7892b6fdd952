"""What the tests of decoders share: known answers, and networks at any size without storage."""

import json
import os
import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import mtmamba
from mtmamba import build
from mtmamba.benchmarks.network_cases import random_batch
from mtmamba.config import compose
from mtmamba.models.adapters import decoder_views, export_views, load_released_decoder
from mtmamba.models.skeleton import skeleton
from mtmamba.stats.flops import model_stats

PARITY = Path(os.environ.get("PARITY", Path(__file__).parents[4] / "shared/parity"))
"""The whole files of known answers; they are too large for the repository."""

CHANNELS = {"swin_tiny": (96, 192, 384, 768), "swin_base": (128, 256, 512, 1024), "swin_large": (192, 384, 768, 1536)}


def pytest_collection_modifyitems(items):
    """Some of the tasks are chosen from one dataset in the fast tests, from both in the slow ones."""
    for item in items:
        chosen = item.callspec.params if "exercised" in getattr(item, "fixturenames", ()) else {}
        if chosen.get("exercised") == "pascal_context" and chosen.get("tasks"):
            item.add_marker("slow")


@pytest.fixture
def counted():
    """Parameters of a decoder by choice of decoder, dataset and encoder."""

    def count(decoder, data, encoder, *more):
        cfg = mtmamba.load_config([f"decoder={decoder}", f"data={data}", *more])
        with skeleton():
            built = mtmamba.build_decoder(cfg, CHANNELS[encoder])
        return sum(p.numel() for p in built.parameters())

    return count


@pytest.fixture
def gmacs():
    """Return 10^9 multiply-adds of a decoder for an image of NYUDv2, 448x576, by choice of decoder and encoder.

    The encoder is made as shallow as it can be: its own are taken off again.
    """

    def count(decoder, encoder, *more):
        choices = [f"decoder={decoder}", "data=nyud", f"encoder={encoder}", "encoder.depths=[1,1,1,1]"]
        cfg = mtmamba.load_config([*choices, *more])
        with skeleton():
            stats = model_stats(mtmamba.build_model(cfg), (448, 576), "macs")
        return (stats.total_flops - stats.part_flops()["encoder"]) / 1e9

    return count


@pytest.fixture
def known_answer():
    """Compare a decoder with the file of its released modules' outputs, auxiliaries and gradients.

    Some files hold one kind of auxiliaries, called intermediate, and tensors that the released module never reads.
    """

    def compare(file, decoder, *overrides, intermediate="initial"):
        path = PARITY / f"{file}.safetensors"
        if not path.is_file():
            pytest.skip(f"PARITY=FOLDER with {path.name} is not there")
        with safe_open(path, "pt") as opened:
            tensors = {
                re.sub(r"^intermediate(_grad)?/", rf"aux\1/{intermediate}/", key): opened.get_tensor(key).float()
                for key in opened.keys()  # noqa: SIM118 - no mapping
            }
            meta = opened.metadata()

        def under(prefix):
            return {k.removeprefix(prefix): x for k, x in tensors.items() if k.startswith(prefix)}

        def close(got, wanted, tolerance, name):
            worst, largest = (x.abs().max().item() for x in (got.double() - wanted.double(), wanted))
            if 0 < largest < 1e-6:  # float64's rounding of what is 0; float32's goes with the gradients around it
                largest = max(x.abs().max().item() for x in under("param_grad/").values())
            assert worst <= tolerance * largest, (name, worst, largest)

        cfg = mtmamba.load_config([f"decoder={decoder}", "data=nyud", f"tasks=[{meta['tasks']}]", *overrides])
        assert json.loads(meta["num_outputs"]) == dict(cfg.data.num_outputs)
        built = mtmamba.build_decoder(cfg, [int(c) for c in meta["channels"].split(",")]).eval()
        load_released_decoder(built, under("state/"))
        features = [tensors[f"feature/{i}"].permute(0, 2, 3, 1).contiguous().requires_grad_() for i in (1, 2, 3, 4)]
        logits, auxiliary = built.decode(features)
        flat = {f"{name}/{task}": x for name, found in auxiliary.items() for task, x in found.items()}
        assert flat.keys() == under("aux/").keys()
        for task, wanted in under("output/").items():
            close(logits[task], wanted, 1e-5, task)
        for name, wanted in under("aux/").items():
            close(flat[name], wanted, 1e-5, name)
        cotangents = {**under("output_grad/"), **under("aux_grad/")}
        outputs = {**logits, **flat}
        torch.autograd.backward([outputs[name] for name in cotangents], list(cotangents.values()))
        for i, x in enumerate(features, 1):
            close(x.grad.permute(0, 3, 1, 2), tensors[f"feature_grad/{i}"], 1e-4, f"feature {i}")
        grads = export_views(decoder_views(built, {key: p.grad for key, p in built.named_parameters()}))
        wanted = under("param_grad/")
        assert grads.keys() == wanted.keys()
        for name, grad in wanted.items():
            close(grads[name], grad, 1e-4, name)

    return compare


@pytest.fixture(params=["nyud", "pascal_context"])
def exercised(request):
    """Build a decoder for a dataset and try what every decoder must do; return it with its outputs.

    Shapes of logits and auxiliaries, a gradient for every parameter but the idle ones, images independent of one
    another in evaluation, and bfloat16. Auxiliaries that are not of a task's logits are the test's own, given as None.
    """

    def exercise(decoder, *overrides, tasks=None, auxiliary=(), idle=()):
        torch.manual_seed(0)
        cfg = mtmamba.load_config([f"data={request.param}", f"decoder={decoder}", *overrides])
        cfg.tasks = cfg.tasks[:tasks]
        built = mtmamba.build_decoder(cfg, (4, 8, 16, 32))
        features = [torch.randn(2, 64 // s, 96 // s, c) for s, c in ((4, 4), (8, 8), (16, 16), (32, 32))]
        logits = built(features)

        def shapes(found, stride):
            assert {task: x.shape for task, x in found.items()} == {
                task: (2, cfg.data.num_outputs[task], 64 // stride, 96 // stride) for task in cfg.tasks
            }

        shapes(logits, 1)
        assert auxiliary is None or built.auxiliary.keys() == dict(auxiliary).keys()
        for name, stride in dict(auxiliary or ()).items():
            shapes(built.auxiliary[name], stride)
        every = [x for found in (logits, *built.auxiliary.values()) for x in found.values()]
        sum(x.square().mean() for x in every).backward()
        without = {name for name, p in built.named_parameters() if p.grad is None or not p.grad.any()}
        assert {name for name in without if not name.startswith(tuple(idle))} == set()
        assert all(p.grad is not None for p in built.parameters())
        with torch.no_grad():
            both = built.eval()(features)
            assert built.auxiliary == {}
            for i in (0, 1):
                for task, x in built([x[i : i + 1] for x in features]).items():
                    torch.testing.assert_close(x, both[task][i : i + 1], rtol=1e-4, atol=1e-5)
            with torch.autocast("cpu", torch.bfloat16):
                assert all(x.isfinite().all() for x in built(features).values())
        return built

    return exercise


@pytest.fixture(params=["log", "weighted"])
def stepped(request):
    """Take a training step of a micro network with a decoder, under either loss; return the loss by hand, too."""

    def step(decoder, *overrides):
        torch.manual_seed(0)
        cfg = mtmamba.load_config(["data=nyud", f"decoder={decoder}", f"loss={request.param}", *overrides])
        module, outputs = build.build_module(cfg).train(), compose.num_outputs(cfg)
        batch = random_batch(outputs, 2, (64, 64), torch.device("cpu"))
        loss = module.training_step(batch, 0)
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in module.model.parameters())
        logits = module.outputs(batch["image"])[0]
        final = module.total(module.task_losses(logits, batch))
        return module, loss, final

    return step
