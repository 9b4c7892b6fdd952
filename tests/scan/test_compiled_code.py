"""Where compiled code is kept, on machines whose code and home cannot be written."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).parents[2] / "src"
SCAN = """
import logging, torch
logging.basicConfig()
from mtmamba.scan import selective_scan
u, B = torch.ones(1, 1, 2), torch.ones(1, 1, 1, 2)
y = selective_scan(u, torch.zeros(1, 1, 2), -torch.ones(1, 1), B, B, torch.zeros(1), torch.zeros(1), backend="numba")
print(y.flatten().tolist())
"""
TRITON = """
import logging, os, triton.knobs
logging.basicConfig()
from mtmamba.kernels.triton_cache import settle_cache
settle_cache()
settle_cache()
assert os.access(triton.knobs.cache.dir, os.W_OK)
print(triton.knobs.cache.dir)
"""
NOWHERE = {"HOME": "/dev/null", "NUMBA_CACHE_DIR": "", "TRITON_CACHE_DIR": "", "XDG_CACHE_HOME": "/dev/null"}


def run(code: str, source: Path, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key not in NOWHERE} | {"PYTHONPATH": str(source)}
    environment |= {key: value for key, value in (NOWHERE | more).items() if value}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)


def test_numba_compiles_without_a_folder_for_its_cache(tmp_path):
    shutil.copytree(SRC / "mtmamba", tmp_path / "mtmamba", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "mtmamba/scan/__pycache__").touch()  # no folder, even for root
    done = run(SCAN, tmp_path, PYTHONDONTWRITEBYTECODE="1")
    assert done.returncode == 0, done.stderr
    step = 0.6931471805599453  # softplus(0); decays are 2^-1
    assert json.loads(done.stdout) == pytest.approx([step, step / 2 + step], rel=1e-6)
    assert "set NUMBA_CACHE_DIR=FOLDER" in done.stderr


def test_triton_gets_a_folder_where_its_own_cannot_be_written(tmp_path):
    pytest.importorskip("triton")
    done = run(TRITON, SRC, TMPDIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path))
    assert done.stderr.count("set TRITON_CACHE_DIR=FOLDER") == 1
    assert "/dev/null" in done.stderr
    assert [*tmp_path.iterdir()] == []  # removed at the end
    kept = run(TRITON, SRC, TRITON_CACHE_DIR=str(tmp_path / "mine"))
    assert (kept.stdout.strip(), kept.stderr) == (str(tmp_path / "mine"), "")
