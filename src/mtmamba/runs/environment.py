"""What a program ran on: versions, hardware, revision and command. PyTorch is imported where it is asked."""

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = """mtmamba torch torchvision lightning hydra-core omegaconf timm torchmetrics wandb albumentations
    opencv-python-headless numpy mamba-ssm triton""".split()  # noqa: SIM905 - a line each would hide the rest


def environment() -> dict[str, Any]:
    """Describe what the program runs on: versions, hardware, revision and command."""
    return {
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: version(name) for name in PACKAGES},
        "hardware": hardware(),
        "git": git_revision(),
    }


def visible_gpus() -> list[str]:
    """Return the GPUs that this process sees, as ``CUDA_VISIBLE_DEVICES`` names them. CUDA itself is left alone."""
    import torch

    count = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")  # the user's choice among the machine's
    return visible.split(",")[:count] if visible else [str(i) for i in range(count)]


def hardware() -> str:
    """Name the accelerators, or the CPU and its cores."""
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    return f"{os.cpu_count()} CPU cores ({platform.machine()})"


def git_revision() -> str | None:
    """Return the checkout's revision, with ``-dirty`` where files differ from it; None outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40", "--match="]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def version(package: str) -> str | None:
    """Return an installed package's version."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
