"""Exported files, run by programs that know nothing of this package, beside the network in PyTorch."""

import json
import sys
from importlib import import_module, util
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

import fake_data
import mtmamba
from mtmamba.data.datasets import get_dataset
from mtmamba.export.checkpoint import export_checkpoint
from mtmamba.export.onnx_scan import selective_scan as onnx_scan
from mtmamba.export.program import ExportError, load
from mtmamba.export.write import export
from mtmamba.models.decoders.mtmamba.blocks import stm_stack
from mtmamba.models.decoders.mtmamba.decoder import MTMambaDecoder
from mtmamba.models.decoders.mtmamba.extractors import MFE, LinearGate
from mtmamba.models.decoders.mtmamba.heads import ExpandHead
from mtmamba.models.multitask import MultiTaskModel
from mtmamba.scan import selective_scan
from mtmamba.shipped import config_dir
from mtmamba.types import IMAGENET_MEAN, IMAGENET_STD
from toy_network import ToyEncoder

CLASSES = {"semseg": ["wall", "floor", "chair"]}


@pytest.fixture(scope="module")
def model() -> MultiTaskModel:
    """A network of two tasks with one STM block, at stride 8."""
    torch.manual_seed(0)

    def own(tasks, dim):
        return stm_stack(tasks, dim, depth=int(dim == 16), mfe=MFE, gate=LinearGate)

    outputs = {"semseg": 3, "depth": 1}
    decoder = MTMambaDecoder((8, 16, 32, 64), outputs, own=own, cross=lambda *_: None, head=ExpandHead)
    return MultiTaskModel(ToyEncoder(8), decoder).eval()


@pytest.fixture(scope="module")
def onnx_file(model, tmp_path_factory) -> Path:
    """That network in ONNX, its normalisation included."""
    path = tmp_path_factory.mktemp("onnx") / "new folder" / "net.onnx"
    export(
        model, path, format="onnx", size=(64, 96), normalise=True, classes=CLASSES, training_size=(60, 90), repeats=1
    )
    return path


@pytest.mark.parametrize("shift", [0, -12, 30])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1, 1), (2, 3, 5, 2, 4), (1, 4, 3, 7, 16), (2, 2, 4, 17, 1)])
def test_the_scan_in_onnx_is_the_recurrence(shape, shift):
    """b, g, d, l, n; time steps of a millionth keep their digits, and large ones do not overflow."""
    b, g, d, length, n = shape
    shapes = [(b, g * d, length)] * 2 + [(g * d, n)] + [(b, g, n, length)] * 2 + [(g * d,)] * 2
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(s, generator=generator) for s in shapes]
    inputs[1] += shift
    inputs[2] = -inputs[2].exp()
    if shift:
        inputs[5].zero_()  # D's part would hide the states'
    session = onnxruntime.InferenceSession(onnx_scan.to_model_proto().SerializeToString())
    names = [node.name for node in session.get_inputs()]
    (found,) = session.run(None, {name: x.numpy() for name, x in zip(names, inputs, strict=True)})
    expected = selective_scan(*(x.double() for x in inputs), backend="reference").numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6 * np.abs(expected).max())


@pytest.mark.parametrize("shape", [(1, 64, 96), (2, 32, 32), (1, 5, 130)])
def test_onnx_gives_pytorchs_logits_at_any_size(model, onnx_file, shape):
    batch, height, width = shape
    pixels = np.random.default_rng(0).integers(0, 256, (batch, 3, height, width)).astype(np.float32)
    session = onnxruntime.InferenceSession(onnx_file)
    found = dict(zip([x.name for x in session.get_outputs()], session.run(None, {"images": pixels}), strict=True))
    mean, std = (np.array(x, np.float32)[:, None, None] for x in (IMAGENET_MEAN, IMAGENET_STD))
    with torch.no_grad():
        expected = model(torch.from_numpy((pixels / 255 - mean) / std))
    assert found.keys() == expected.keys()
    for task, x in expected.items():
        np.testing.assert_allclose(found[task], x.numpy(), rtol=0, atol=1e-4 * float(x.abs().max()))


def test_the_description_beside_the_file(onnx_file):
    """All three files of an export, and nothing else."""
    assert sorted(path.name for path in onnx_file.parent.iterdir()) == ["net.onnx", "net.onnx.json"]
    record = json.loads(onnx_file.with_name("net.onnx.json").read_text(encoding="utf-8"))
    assert record["input"]["shape"] == ["batch", 3, "height", "width"]
    assert record["training_size"] == [60, 90]
    assert record["outputs"]["semseg"] == {"values": "logits", "channels": 3, "classes": CLASSES["semseg"]}
    assert [check["shape"] for check in record["checks"]] == [[1, 3, 64, 96], [3, 3, 35, 53], [2, 3, 33, 23]]
    assert all(0 <= error <= 1e-4 for check in record["checks"] for error in check["errors"].values())
    assert all(record["cpu_seconds"][key] > 0 for key in ("file", "pytorch"))
    session = onnxruntime.InferenceSession(onnx_file)
    assert [x.name for x in session.get_outputs()] == list(record["outputs"])
    assert [[type(side) for side in x.shape] for x in session.get_inputs()] == [[str, int, str, str]]


class Extractor(nn.Module):
    """A network of two tasks that is no more than an extractor of features."""

    def __init__(self):
        super().__init__()
        self.extract = MFE(2, 3)

    def forward(self, images):
        maps = self.extract(images.permute(0, 2, 3, 1).expand(2, -1, -1, -1, -1))  # (T, B, H, W, 6)
        return dict(zip(("semseg", "depth"), maps.permute(0, 1, 4, 2, 3), strict=True))


def test_torch_export_gives_pytorchs_logits_at_any_size(tmp_path):
    torch.manual_seed(0)
    model = Extractor().eval()
    export(model, tmp_path / "net.pt2", format="torch_export", size=(16, 24))
    run = load(tmp_path / "net.pt2")
    for shape in ((2, 3, 16, 24), (1, 3, 5, 13), (1, 3, 1, 1)):
        images = torch.randn(shape)
        with torch.no_grad():
            torch.testing.assert_close(run(images), model(images), rtol=1e-4, atol=1e-4)


def test_a_file_of_one_size(tmp_path, caplog):
    decoder = nn.Conv2d(3, 2, 3, padding=1)

    class Plain(nn.Module):
        def forward(self, images):
            return {"depth": decoder(images)}

    with caplog.at_level("INFO"):
        record = export(Plain().eval(), tmp_path / "net.onnx", format="onnx", size=(8, 12), dynamic=False)
    said = [message.getMessage() for message in caplog.records if message.name == "mtmamba.export.write"]
    assert said[0] == "Following the network: one size."  # before what may take minutes
    assert said[-1] == f"Written: {tmp_path / 'net.onnx'}"
    assert record["input"]["shape"] == [1, 3, 8, 12]
    assert len(record["checks"]) == 1
    assert onnxruntime.InferenceSession(tmp_path / "net.onnx").get_inputs()[0].shape == [1, 3, 8, 12]


class Forgetful(nn.Module):
    """Adds how often it was called, which a file cannot know."""

    calls = 0

    def forward(self, images):
        self.calls += 1
        return {"depth": images + self.calls}


class Choosy(nn.Module):
    """Looks at its images before it decides what to do."""

    def forward(self, images):
        return {"depth": images if images.sum() > 0 else -images}


@pytest.mark.parametrize(
    ("network", "sentence"), [(Forgetful(), "differ from PyTorch's by at most 1e-04"), (Choosy(), "write down")]
)
def test_what_cannot_be_exported_is_refused_and_leaves_nothing(network, sentence, tmp_path):
    with pytest.raises(ExportError, match=sentence) as refusal:
        export(network.eval(), tmp_path / "net.pt2", format="torch_export", size=(8, 12))
    assert "\n" not in str(refusal.value)
    assert list(tmp_path.iterdir()) == []


def test_classes_of_a_folder_of_ones_own_are_named(monkeypatch, tmp_path):
    root = fake_data.write_folder(tmp_path / "rooms")
    choices = ["data=folder", f"data.root={root}", "encoder=swin_micro", "decoder=fcn"]
    mtmamba.save_pretrained(mtmamba.build_model(mtmamba.load_config(choices)), tmp_path / "mine")
    monkeypatch.setattr("mtmamba.export.checkpoint.export", lambda model, path, **settings: settings)
    settings = export_checkpoint(mtmamba.load_config([f"ckpt={tmp_path}/mine"], "export"))
    assert list(settings["classes"]["semseg"]) == ["wall", "floor", "chair"]
    assert list(settings["training_size"]) == [32, 64]


def test_a_missing_package_is_named_with_the_command(monkeypatch, tmp_path):
    monkeypatch.delitem(sys.modules, "mtmamba.export.onnx", raising=False)
    find = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name, *_: None if name == "onnxruntime" else find(name))
    with pytest.raises(ExportError, match=r"no onnxruntime: pip install 'mtmamba\[export\]'"):
        import_module("mtmamba.export.onnx")


def built(encoder: str, decoder: str) -> MultiTaskModel:
    choices = ["experiment=nyud_mtmamba", f"encoder={encoder}", "encoder.pretrained=false", f"decoder={decoder}"]
    torch.manual_seed(0)
    return mtmamba.build_model(mtmamba.load_config(choices)).eval()


DECODERS = sorted(path.stem for path in (config_dir() / "decoder").glob("*.yaml"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("encoder", "decoder", "format"),
    [
        *(("swin_micro", decoder, "onnx") for decoder in DECODERS),
        *(("swin_micro", decoder, "torch_export") for decoder in ("mtmamba", "mtmamba_plus", "stm2", "swin2")),
        *(("efficientnet_lite0", "mtmamba", format) for format in ("onnx", "torch_export")),
    ],
)
def test_every_decoder_is_exported(encoder, decoder, format, tmp_path):
    """`export` itself compares; twice as strict here."""
    record = export(built(encoder, decoder), tmp_path / "net", format=format, size=(128, 160))
    assert max(error for check in record["checks"] for error in check["errors"].values()) < 5e-5


@pytest.mark.slow
def test_swin_tiny_takes_at_most_ten_times_pytorchs_time(tmp_path):
    classes = get_dataset("nyud").classes
    model, path = built("swin_tiny", "mtmamba"), tmp_path / "net.onnx"
    record = export(model, path, format="onnx", size=(448, 576), classes=classes, repeats=2)
    assert record["cpu_seconds"]["file"] < 10 * record["cpu_seconds"]["pytorch"]
