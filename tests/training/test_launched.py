"""Processes that torchrun or SLURM starts make one run, the same as Lightning's own two processes make."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from fake_data import write_nyud
from fake_training import overrides
from mtmamba.checkpoints import read_checkpoint

ROOT = Path(__file__).parents[2]
THREADS = {"OMP_NUM_THREADS": "1"}  # the last bits depend on how many a process has, which each launcher sees otherwise
SRUN = """#!/bin/bash
# Two nodes with a task each, as SLURM's srun starts them; a signal is passed on, and the greatest exit status returned.
export SLURM_NTASKS=2 SLURM_LOCALID=0 SLURM_NODELIST=127.0.0.1 MASTER_PORT=$PORT
for node in 0 1; do SLURM_PROCID=$node SLURM_NODEID=$node "$@" & tasks="$tasks $!"; done
trap 'kill -TERM $tasks' TERM
greatest=0
for task in $tasks; do
    while wait $task; status=$?; kill -0 $task 2> /dev/null; do :; done
    (( status > greatest )) && greatest=$status
done
exit $greatest
"""


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("launched")
    more = ["trainer.max_steps=6", "trainer.val_check_interval=3", "pictures=0", "callbacks.checkpoint_every=1"]
    return overrides(write_nyud(folder / "data"), folder, *more)


@pytest.fixture(scope="module")
def whole(settings, tmp_path_factory):
    """The run of one process, and that of two which Lightning starts."""
    folder = tmp_path_factory.mktemp("whole")
    for devices in (1, 2):
        ddp = ["trainer.devices=2", "trainer.strategy=ddp"] if devices == 2 else []
        call(sys.executable, "src/train.py", *settings, *ddp, f"hydra.run.dir={folder}/{devices}")
    return folder / "1", folder / "2"


def call(*command):
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), **THREADS}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


def free_port():
    import socket

    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return str(server.getsockname()[1])


def require_equal(run_dir, whole):
    one, two = ({**read_checkpoint(run / "checkpoints/last.ckpt")["state_dict"]} for run in whole)
    mine = read_checkpoint(run_dir / "checkpoints/last.ckpt")["state_dict"]
    assert all(torch.equal(mine[name], value) for name, value in two.items())
    difference = torch.cat([(mine[name].double() - value.double()).flatten() for name, value in one.items()]).norm()
    assert difference < 1e-4 * torch.cat([value.double().flatten() for value in one.values()]).norm()
    scores = [json.loads((run / "metrics.json").read_text())["tasks"] for run in (run_dir, whole[1])]
    assert scores[0] == scores[1]


@pytest.mark.slow
def test_torchrun_makes_the_same_run(settings, whole, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", free_port()]
    ddp = ["trainer.devices=2", "trainer.strategy=ddp", f"hydra.run.dir={tmp_path}/run"]
    done = call(*command, "src/train.py", *settings, *ddp)
    require_equal(tmp_path / "run", whole)
    assert done.stderr.count("Run folder:") == 1


@pytest.mark.slow
def test_the_script_for_slurm_makes_the_same_run_and_goes_on(settings, whole, tmp_path):
    page = (ROOT / "docs/training.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"^```bash\n(#!/bin/bash\n.*?)^```", page, re.M | re.S)
    (tmp_path / "bin").mkdir()
    for name, text in {"srun": SRUN, "scontrol": "#!/bin/bash\necho $@ > requeued\n"}.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "train.sbatch").write_text(script)
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/python").write_text(f'#!/bin/bash\nexec {sys.executable} "$@"\n')
    (tmp_path / ".venv/bin/python").chmod(0o755)
    (tmp_path / "src").symlink_to(ROOT / "src")
    slurm = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "train", "SLURM_NNODES": "2", "SLURM_NTASKS_PER_NODE": "1"}
    path = f"{tmp_path}/bin{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, **slurm, **THREADS, "PYTHONPATH": str(ROOT / "src"), "PATH": path}
    run_dir = tmp_path / "logs/slurm/7"

    def begin():
        environment["PORT"] = free_port()
        command = ["bash", "train.sbatch", *settings]
        return subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)

    with begin() as job:
        while not (run_dir / "checkpoints/last.ckpt").is_file():
            assert job.poll() is None, job.stderr.read()
            time.sleep(0.02)
        (srun,) = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
        os.kill(int(srun), signal.SIGTERM)
        said = job.communicate()[1]
    assert (tmp_path / "requeued").read_text() == "requeue 7\n", said
    assert not (run_dir / "metrics.json").exists()
    environment["OMP_NUM_THREADS"] = "2"  # where it is queued again; the run keeps what it began with
    with begin() as job:
        said = job.communicate()[1]
    assert (run_dir / "metrics.json").exists(), said
    require_equal(run_dir, whole)
