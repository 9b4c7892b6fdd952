"""`make` finds a Python, and says what it is about to do."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

MAKEFILE = Path(__file__).parents[1] / "Makefile"
GOOD = f'exec {sys.executable} "$@"\n'
SHIM = 'echo "command not found" >&2; exit 127\n'  # as pyenv leaves for versions that are not active
TOO_OLD = f'exec {sys.executable} -c "import sys; sys.version_info = (3, 10, 0); exec(sys.argv[2])" "$@"\n'


@pytest.fixture
def make(tmp_path):
    """Call `make` in an empty folder where only the given Pythons are on the path; return what it did and said."""
    shutil.copy(MAKEFILE, tmp_path)
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).touch()

    def call(pythons, *arguments):
        (tmp_path / "bin").mkdir()
        for name in ("sh", "make", "test", "echo"):
            if found := shutil.which(name):
                (tmp_path / "bin" / name).symlink_to(found)
        for name, script in pythons.items():
            (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{script}")
            (tmp_path / "bin" / name).chmod(0o755)
        environment = {"PATH": str(tmp_path / "bin"), "HOME": os.environ.get("HOME", "/")}
        command = ["make", "-C", str(tmp_path), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)

    return call


@pytest.mark.parametrize(
    ("pythons", "chosen"),
    [
        ({"python3.11": GOOD, "python3.13": GOOD}, "python3.13"),
        ({"python3.13": SHIM, "python3.12": GOOD}, "python3.12"),
        ({"python3.11": TOO_OLD, "python3": GOOD}, "python3"),
    ],
)
def test_any_python_that_works_is_taken(make, pythons, chosen):
    done = make(pythons, "-n", "setup")
    assert f"\n{chosen} -m venv .venv\n" in done.stdout
    said, installed = done.stdout.index("GB to download"), done.stdout.index("pip install")
    assert said < installed
    assert "pip install -q" not in done.stdout


def test_no_python_is_said_with_the_remedy(make):
    done = make({"python3.13": SHIM, "python3": TOO_OLD}, "setup")
    assert done.returncode != 0
    assert "Expected Python 3.11, 3.12 or 3.13 with venv, found none: apt-get install" in done.stdout
    assert "venv .venv" not in done.stdout
