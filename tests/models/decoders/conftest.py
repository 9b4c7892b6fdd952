"""What the tests of decoders share: known answers, and networks at any size without storage."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import mtmamba
from mtmamba.models.adapters import decoder_views, export_views, load_released_decoder

PARITY = Path(os.environ.get("PARITY", Path(__file__).parents[4] / "shared/parity"))
"""The whole files of known answers; they are too large for the repository."""

CHANNELS = {"swin_tiny": (96, 192, 384, 768), "swin_large": (192, 384, 768, 1536)}


@pytest.fixture
def counted():
    """Parameters of a decoder by choice of decoder, dataset and encoder."""

    def count(decoder, data, encoder, *more):
        cfg = mtmamba.load_config([f"decoder={decoder}", f"data={data}", *more])
        with torch.device("meta"):
            built = mtmamba.build_decoder(cfg, CHANNELS[encoder])
        return sum(p.numel() for p in built.parameters())

    return count


@pytest.fixture
def known_answer():
    """Compare a decoder with the file of its released modules' outputs, auxiliaries and gradients."""

    def compare(file, decoder, *overrides):
        path = PARITY / f"{file}.safetensors"
        if not path.is_file():
            pytest.skip(f"PARITY=FOLDER with {path.name} is not there")
        with safe_open(path, "pt") as opened:
            tensors = {key: opened.get_tensor(key).float() for key in opened.keys()}  # noqa: SIM118 - no mapping
            meta = opened.metadata()

        def under(prefix):
            return {k.removeprefix(prefix): x for k, x in tensors.items() if k.startswith(prefix)}

        def close(got, wanted, tolerance, name):
            worst = (got.double() - wanted.double()).abs().max() / wanted.double().abs().max()
            assert worst <= tolerance, (name, worst.item())

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
