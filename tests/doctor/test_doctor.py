"""The doctor sees what is broken, says what to do, and fails only where the main job cannot run."""

import dataclasses
import re
import tomllib
from collections import Counter
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from fake_data import write_nyud
from mtmamba.doctor import checks
from mtmamba.doctor.report import examine
from mtmamba.scan import registry

ROOT = Path(__file__).parents[2]


def found(findings, name):
    return next(finding for finding in findings if finding.name == name)


@pytest.fixture
def other_backends():
    """Lets a test replace the backends."""
    before = list(registry.BACKENDS.values())
    yield registry.register
    for backend in before:
        registry.register(backend)


def test_a_sound_machine_passes(tmp_path, capsys):
    assert examine(str(tmp_path / "logs"), str(tmp_path))
    out = capsys.readouterr().out
    assert "scan torch on cpu: right to" in out
    assert "0 failures. Everything that the main job needs works." in out
    marks = Counter(re.findall(r"^  (ok|-|warn|FAIL) ", out, re.MULTILINE))
    assert f"{marks['ok']} ok, {marks['-']} not there and not needed, {marks['warn']} warnings" in out


def test_a_backend_that_is_wrong_fails(other_backends, tmp_path, capsys):
    torch_backend = registry.BACKENDS["torch"]
    other_backends(dataclasses.replace(torch_backend, scan=lambda *x: torch_backend.scan(*x) * 1.01))
    assert not examine(str(tmp_path), str(tmp_path))
    assert "FAIL scan torch on cpu: wrong by 1.0e-02" in capsys.readouterr().out


def test_a_backend_that_breaks_is_reported(other_backends):
    def broken(*_):
        raise RuntimeError("undefined symbol: _ZN3c10\nmore lines")

    other_backends(dataclasses.replace(registry.BACKENDS["torch"], scan=broken))
    finding = found(checks.backends(), "scan torch on cpu")
    assert (finding.state, finding.text) == ("warn", "fails: undefined symbol: _ZN3c10")


def test_a_backend_that_is_not_there_says_why(other_backends):
    other_backends(dataclasses.replace(registry.BACKENDS["torch"], why_unavailable=lambda *_: "ABI of another torch"))
    assert found(checks.backends(), "scan torch")[1:3] == ("none", "not here: ABI of another torch")


def test_a_mamba_ssm_that_does_not_import_says_why(other_backends, monkeypatch, tmp_path):
    """Its extension is there, built for another PyTorch; the backend is asked as on a machine with a GPU."""
    (tmp_path / "selective_scan_cuda.py").write_text("raise ImportError('undefined symbol: _ZN3c10')")
    monkeypatch.syspath_prepend(tmp_path)
    backend = registry.BACKENDS["mamba_ssm"]
    asked = dataclasses.replace(backend, why_unavailable=lambda *_: backend.why_unavailable("cuda", torch.float32))
    other_backends(asked)
    text = found(checks.backends(), "scan mamba_ssm").text
    assert "cannot be imported (undefined symbol: _ZN3c10)" in text
    assert "pip install 'mtmamba[mamba]'" in text


@pytest.mark.parametrize(
    ("version", "state"), [("2.8.1+cu128", "fail"), ("1.13.0", "fail"), ("2.9.0", "ok"), ("2.11.0+cpu", "ok")]
)
def test_an_old_torch_fails(monkeypatch, version, state):
    monkeypatch.setattr(torch, "__version__", version)
    finding = found(checks.software(), "PyTorch")
    assert (finding.state, bool(finding.remedy)) == (state, state == "fail")


def test_a_missing_package_fails(monkeypatch):
    monkeypatch.setattr(metadata, "version", missing)
    assert found(checks.software(), "timm").state == "fail"


def test_a_machine_without_a_gpu_is_well(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(checks.shutil, "which", lambda name: None)
    (finding,) = checks.accelerators()
    assert (finding.state, finding.text[:4]) == ("none", "none")


@pytest.mark.parametrize(("free", "state"), [(2**20, "warn"), (2**40, "ok")])
def test_a_disk_without_room(monkeypatch, tmp_path, free, state):
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    assert found(checks.machine({"log_dir": tmp_path}), "log_dir").state == state


def test_a_driver_without_a_fitting_pytorch(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(checks.shutil, "which", lambda name: "/bin/nvidia-smi")
    done = checks.subprocess.CompletedProcess([], 0, "470.82\n470.82\n")
    monkeypatch.setattr(checks.subprocess, "run", lambda *_, **__: done)
    (finding,) = checks.accelerators()
    assert finding.state == "warn"
    assert "470.82" in finding.remedy


@pytest.mark.parametrize(("programs", "cc", "states"), [([], "", ["fail"]), (["clang"], "", []), ([], "tcc", [])])
def test_triton_needs_a_c_compiler(monkeypatch, programs, cc, states):
    monkeypatch.setattr(checks.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(checks.shutil, "which", lambda name: name if name in programs else None)
    monkeypatch.setenv("CC", cc)
    assert [finding.state for finding in checks.triton()] == states


def test_datasets(monkeypatch, tmp_path):
    monkeypatch.setenv("NYUD_ROOT", str(tmp_path / "none"))
    assert found(checks.datasets(), "NYUDv2").state == "none"
    monkeypatch.setenv("NYUD_ROOT", str(write_nyud(tmp_path / "part", train=2, val=1)))
    part = found(checks.datasets(), "NYUDv2")
    assert (part.state, "2 train, 1 val images" in part.text) == ("warn", True)
    next((tmp_path / "part").rglob("val.txt")).write_text("")
    assert "one per line, got an empty file" in found(checks.datasets(), "NYUDv2").text


def test_accounts_and_extras(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_API_KEY", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    assert next(checks.accounts()).state == "none"
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password key\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert next(checks.accounts())[1:3] == ("ok", "logged in")


def test_every_extra_is_looked_at(monkeypatch):
    """Those of pyproject.toml that users choose; what only some Pythons can have is not asked for."""
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    names = {extra: {re.match(r"[\w-]+", x)[0] for x in lines if ";" not in x} for extra, lines in wanted.items()}
    assert {extra: set(packages) for extra, (packages, _) in checks.EXTRAS.items()} == {
        extra: packages for extra, packages in names.items() if extra not in ("dev", "notebook")
    }
    monkeypatch.setattr(metadata, "version", missing)
    for finding in checks.extras():
        assert finding.state == "none"
        assert finding.text.endswith(f": pip install 'mtmamba{finding.name}'")


def missing(name):
    raise metadata.PackageNotFoundError(name)


def test_a_folder_that_cannot_be_written_to(monkeypatch, tmp_path):
    monkeypatch.setattr(checks.os, "access", lambda *_: False)
    assert found(checks.machine({"log_dir": tmp_path / "a/b"}), "log_dir").remedy == "Choose another: log_dir=FOLDER."
