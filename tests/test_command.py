"""The scripts answer what cannot work in one sentence, at once, and leave nothing behind."""

import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

import cv2
import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf

import forked
import mtmamba
from mtmamba import build
from mtmamba.answers import is_answer, sentence
from mtmamba.config.checks import demo_settings, frozen_at_random
from mtmamba.config.settings import ConfigError, check_settings
from mtmamba.shipped import config_dir

ROOT = Path(__file__).parents[1]


def python(*arguments, cwd, **environment):
    """Run Python in another folder, where importing PyTorch fails: a script has to answer before."""
    (cwd / "absent").mkdir(exist_ok=True)
    (cwd / "absent/torch.py").write_text("raise AssertionError('PyTorch was imported')")
    paths = os.pathsep.join([str(cwd / "absent"), str(ROOT / "src")])
    environment = {**os.environ, "PYTHONPATH": paths, **environment}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=cwd, env=environment)


def call(script, *arguments, cwd, **environment):
    return python(str(ROOT / f"src/{script}.py"), *arguments, cwd=cwd, **environment)


EACH = """
import json, os, runpy, sys
import mtmamba.command  # Hydra, once for all calls
for number, (script, *arguments) in enumerate(json.loads(sys.argv[1])):
    os.makedirs((folder := f"{number}") + "/absent")  # for --config-dir
    if os.fork() == 0:
        os.chdir(folder)
        for stream, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT), stream)
        sys.argv = [script, *arguments]
        runpy.run_path(script, run_name="__main__")
        sys.exit()
    with open(f"{folder}/status", "w") as file:
        file.write(str(os.waitstatus_to_exitcode(os.wait()[1])))
"""
"""Calls of scripts as of new processes, each in a folder of its own with what it says and its exit status."""


ANSWERS = {
    ("train", "encoder.windows=7"): "got encoder.windows: did you mean encoder.window?",
    ("train", "decodr=stm1"): "Expected a setting of src/train.py, got decodr: did you mean decoder?",
    ("train", "data.velocity=3"): "got data.velocity: a new one is added with +data.velocity=…",
    ("train", "trainer.gradient_clip_val=1"): "Expected +trainer.gradient_clip_val=…, got no plus before what",
    ("eval", "ckpt=x", "trainer.inference_mode=false"): "Expected +trainer.inference_mode=…, got no plus before what",
    ("train", "decoder=stm4"): "or one of yours in --config-dir DIR, got stm4: did you mean stm3?",
    ("train", "experiment=tabel2"): "got tabel2: did you mean table2?",
    ("train", "decoder=stm1,stm2"): "Expected one value, got decoder=stm1,stm2: add -m for a run of each",
    ("train", "tasks=[semseg"): "Expected KEY=VALUE, got tasks=[semseg: put quotes around such a value",
    ("train", "trainer.max_epochs=3"): "Expected no trainer.max_epochs, which would not be carried out here",
    ("train", "data.batch_size=0"): "Expected data.batch_size to be a whole number of at least 1, got 0",
    ("train", "+decoder=stm1"): "Expected one choice of decoder, got two: leave out the plus",
    ("train", "encoder=null"): "Expected the names of files as choices of groups, got encoder=null",
    ("train", "trainer.precision=8"): "Expected trainer.precision to be one of auto, 32-true, ",
    ("train", "trainer.accelerator=npu9"): "Expected trainer.accelerator to be one of auto, cpu, gpu, ",
    ("eval", "ckpt=nyud_lite", "trainer.strategy=dp9"): "Expected trainer.strategy to be one of auto, ddp, ",
    ("train", "monitor=mIoU"): "Expected monitor to be auto, val/loss, val/delta_m, or val/TASK/SCORE, got mIoU",
    ("train", "encoder.freeze=al"): "Expected encoder.freeze to be all, norms or a whole number of at least 1",
    ("train", "encoder.weights=w.pth"): "Expected a file of weights at w.pth, got no such file: correct encoder",
    ("export", "ckpt=nyud_lite", "output=stderr/x.onnx"): "Expected output in a folder that can be written, got stderr",
    ("predict", "source=stderr", "save_dir=stderr/out"): "Expected save_dir in a folder that can be written, got",
    ("report", "runs=absent", "out=stderr/a/b"): "Expected out in a folder that can be written, got stderr/a/b: choose",
    ("train", "model=null"): "Expected model to be a group of settings with its _target_, got null",
    ("train", "~encoder"): "Expected encoder to have a value, got ~encoder, which takes it out: leave it as it is",
    ("train", "~callbacks.x"): "Expected a setting of src/train.py, got ~callbacks.x, which it has not",
    ("train", "+logger.x=3"): "Expected logger.x to say with its _target_ what is to be built, got 3",
    ("train", "++x=3"): "Expected a setting that something reads, got +x: leave it out, or refer to it as ${x}.",
    ("train", "++data.batch_size=0"): "Expected data.batch_size to be a whole number of at least 1, got 0",
    ("predict", "source=a.png", "size=big"): "Expected size to be auto, native, max:PIXELS (at least 32) or [HEIGHT",
    ("predict", "++source=a.png", "size=max:31"): "Expected size to be auto, native, max:PIXELS (at least 32) or",
    ("train", "+x=3"): "Expected a setting that something reads, got +x: leave it out, or refer to it as ${x}.",
    ("train", "+seed=3"): "Expected a new setting after the plus, got +seed, which there is: leave out the plus.",
    ("train", "data.root=${oc.env:NOPE}"): "environment variable NOPE, which data.root refers to, got none: set it.",
    ("train", "log_dir=${oc.env:NOPE}"): "environment variable NOPE, which hydra.run.dir refers to, got none: set it.",
    ("train", "optimizer.lr=${nope}"): "Expected a setting nope, which optimizer.lr refers to, got none: correct",
    ("train", "hydra.job=3"): "Expected a value that hydra.job may have, got hydra.job=3: correct it.",
    ("train", "callbacks=[a]"): "Expected choices of callbacks that there are, got a: correct it",
    ("train", "callbacks=[1]"): "Expected the name of a file as the choice of callbacks, got callbacks=[1]: choose",
    ("train", "decoder=[stm1,stm2]"): "Expected the name of a file as the choice of decoder, got decoder=[stm1,stm2]",
    ("train", "data.seed=x"): "Expected data.seed to be a whole number from 0 to 4294967295, got x: write data.seed=0.",
    ("train", "logger.project=[1]"): "Expected logger.project to be a name, or null, got [1]: write",
    ("train", "monitor=[1]"): "Expected monitor to be auto, val/loss, val/delta_m, or val/TASK/SCORE, got [1]: write",
    ("predict", "source=0", "ckpt=null"): "Expected ckpt to be a run's folder, a checkpoint or the name of a model,",
    ("predict", "source=0", "log_dir=null"): "Expected log_dir to be a folder, got null: write log_dir=logs.",
    ("predict", "source=0", "size=null"): "Expected size to be auto, native, max:PIXELS (at least 32) or [HEIGHT,WIDT",
    ("predict", "source=0", "ckpt=hf://x"): "Expected hf://owner/name or hf://owner/name@revision, got hf://x: correct",
    ("eval", "ckpt=x", "tta.flip=null"): "Expected tta.flip to be true or false, got null: write tta.flip=true.",
    ("publish", "ckpt=x", "repo=3"): "Expected repo to be owner/name, got 3: write repo=OWNER/NAME.",
    ("publish", "ckpt=x", "repo=a/b", "notes=null"): "Expected notes to be a paragraph, got null: write notes=TEXT.",
    ("benchmark", "cpu=null"): "Expected cpu to be a group of ops, blocks, model, got null",
    ("benchmark", "cpu.ops.maps=[1.5]"): "Expected cpu.ops.maps to be a list, each a group of op, tasks, dim, size,",
    ("benchmark", "scan.length=x"): "Expected scan.length to be a whole number of at least 1, got x: write scan.length",
    ("benchmark", "only=[1]"): "Expected only to be a regular expression, or null, got [1]: write only=NAME.",
    ("evidence", "data_root=.", "protocol.rows=x"): "Expected protocol.rows to be KEY=VALUE by row, got x: write",
    ("import_checkpoint", "source=x", "export=[1]"): "Expected export to be a folder, or null, got [1]: write",
    ("report", "derived=null"): "Expected derived to be lists of tasks by dataset, got null: write",
    ("train", "resume=3"): "Expected resume to be a run's folder, a checkpoint, or auto, or null, got 3",
    ("train", "data.root=[a]"): "Expected data.root to be a folder, got [a]: write data.root=./FOLDER.",
    ("train", "data.num_outputs=null"): "Expected data.num_outputs to be numbers of outputs by task, got null",
    ("train", "+data.delta_m_base.depth.RMSE=0"): "Expected data.delta_m_base to be scores by task and metric",
    ("report", "runs=null"): "Expected runs to be folders of runs, or a list of them, got null: write runs=logs.",
    ("report", "out=null"): "Expected out to be a folder, got null: write out=./FOLDER.",
    ("eval", "ckpt=x", "decoder=stm1"): "Expected a setting of src/eval.py, got decoder, which it leaves no choice of",
    ("eval", "--config-dir", ".", "absent=x"): "Expected no folder named after a setting in --config-dir, got absent",
    ("eval", "logs/x"): "Expected KEY=VALUE, got logs/x: did you mean ckpt=logs/x?",
    ("eval",): "Expected ckpt=…, got none: give it.",
    ("eval", "ckpt=x", "trainer.max_steps=3"): "Expected trainer.max_steps in a training, got it in an evaluation",
    ("eval_predictions", "somewhere"): "did you mean pred=somewhere?",
    ("predict",): "Expected source=…, got none: give it.",
    ("predict", "photo.jpg"): "did you mean source=photo.jpg?",
    ("predict", "source=photo.jpg", "overwrite=perhaps"): "Expected overwrite to be true or false, got perhaps",
    ("predict", "source=absent.jpg"): "an image, a folder, a pattern or a video, got absent.jpg, no such file: check",
    ("predict", "source=[absent.mp4,absent/*.png]"): "a folder, a pattern or a video, got absent.mp4, no such file",
    ("predict", "source=absent"): "Expected images in the folder absent, got none: check the path.",
    ("predict", "source=0", "save_dir=."): "Expected a new or empty save_dir, got . with files in it: add overwrite",
    ("predict", "source=0", "size=max:9"): "Expected size to be auto, native, max:PIXELS (at least 32) or [HEIGHT,",
    ("predict", "source=0", "precision=16"): "Expected precision to be auto, bf16 or 32, got 16",
    ("predict", "source=0", "device=[0]"): "Expected device to be a device, got [0]: write device=cpu.",
    ("publish", "ckpt=x", "repo=a/b", "half=1"): "Expected half to be true or false, got 1",
    ("demo_app", "port=x"): "Expected port to be a port, 1 to 65535, or null, got x: write port=7860.",
    ("demo_app", "port=65536"): "Expected port to be a port, 1 to 65535, or null, got 65536",
    ("demo_app", "host=null"): "Expected host to be an address of this machine, got null: write host=127.0.0.1.",
    ("demo_app", "examples=[a]"): "Expected examples to be a folder of images, or null, got [a]",
    ("evidence", "data_root=x", "seeds=x"): "Expected seeds to be a list of seeds, got x: write seeds=[0].",
    ("evidence", "data_root=x", "minutes=0"): "Expected minutes to be a number above 0, or null, got 0",
    ("evidence", "data_root=x"): "Expected the photographs' folder in data_root, got ",
    ("evidence", "data_root=.", "rows=[x]"): "Expected rows among single_semseg, ",
    ("evidence", "data_root=.", "devices=x"): "Expected devices to be auto or a number of at least 1, got x",
    ("evidence", "data_root=.", "gather=x"): "Expected a folder or a .tar in gather, got x (",
    ("evidence", "data_root=x", "pack=x.tar"): "Expected the photographs' folder in data_root, got x, which is not",
    ("dashboard", "project=x", "table=77"): "Expected table to be one of 1, NYUDv2; 1, PASCAL-Context; 2; 3; 4; 5; 6,",
    ("model_stats", "table=77"): "Expected table to be one of all; 1; 2; 3; 4, got 77: choose one of those.",
    ("model_stats", "convention=x"): "Expected convention to be paper, exact or macs, got x: write convention=paper.",
    ("model_stats", "tasks=[x]"): "Expected tasks among semseg, depth, normals, edge, which this data has, got [x]: ",
    ("train", "backend=x"): "Expected backend=auto|cuda|mamba_ssm|numba|reference|torch, got backend=x: choose one of",
    ("train", "cuda_graph=x"): "Expected cuda_graph to be auto, true or false, got x: write cuda_graph=auto.",
    ("train", "model.checkpointing=x"): "Expected model.checkpointing to be none, heads or blocks, got x: write",
    ("train", "extensions=[x.py]"): "Expected a Python file in extensions, got ",
    ("train", "init=x"): "Expected a checkpoint, or a run's folder with checkpoints/last.ckpt, got x, no such file",
    ("train", "resume=x"): "Expected a checkpoint, or a run's folder with checkpoints/last.ckpt, got x, no such file",
    ("train", "data=nyud", "data.root=x"): "Expected NYUDv2 in x, with gt_sets/train.txt and images/{id}.png, got no",
    ("train", "data=folder", "data.root=x"): "Expected x/dataset.yaml, got no such folder: correct data.root.",
    ("eval", "ckpt=x"): "Expected a checkpoint, or a run's folder with checkpoints/last.ckpt, got x, no such file",
    ("eval", "ckpt=nyud_lite", "ids=x"): "Expected a list of ids in x, got no such file. Correct the path.",
    ("eval_predictions", "pred=x"): "Expected a folder of predictions, got no x: correct pred.",
    ("eval_predictions", "pred=.", "data.root=x"): "Expected NYUDv2 in x, with gt_sets/train.txt and images/{id}.png,",
    ("eval_predictions", "pred=.", "data=synthetic", "boundary_ids=x"): "Expected a list of ids in x, got no such file",
    ("predict", "source=0", "tasks=[depth,sal]"): "Expected tasks among semseg, depth, normals, edge, the model's, got",
    ("demo_app", "tasks=[sal]"): "Expected tasks among semseg, depth, normals, edge, the model's, got [sal]: choose",
    ("predict", "source=0", "ckpt=x"): "Expected a checkpoint, or a run's folder with checkpoints/last.ckpt, got x, no",
    ("export", "ckpt=nyud_lite", "output=x.pt2"): "Expected output to end in .onnx for format=onnx, got x.pt2: rename",
    ("export", "ckpt=nyud_lite", "size=max:99"): "Expected size to be height and width, two whole numbers above 0, got",
    ("prepare_data", "source=x"): "Expected source to be a file, a folder or a URL, got x: correct the path.",
    ("prepare_data", "data=folder", "data.root=x"): "Expected data.root=FOLDER with your images and labels, got x",
    ("import_checkpoint", "source=x"): "Expected an authors' checkpoint at x, got no such file: check source=FILE.",
    ("import_checkpoint", "source=x", "export=y"): "Expected a checkpoint, or a run's folder with checkpoints/last.ckp",
    ("demo_app", "examples=x"): "Expected images in examples=x, got none: correct the path.",
    ("benchmark", "what=[x]"): "Expected what to be all or some of scan, loader, predict, ops, blocks, model, got [x]",
    ("report", "runs=x"): "Expected folders of runs, got x, which matches none: correct `runs`.",
    ("report", "derived.nyud=[x]"): "Expected derived to name tasks of nyud, pascal_context, got nyud: ['x']: correct",
    ("report", "picture_width=0"): "Expected picture_width to be a whole number of at least 1, got 0",
}  # fmt: skip


@pytest.fixture(scope="module")
def answered(tmp_path_factory):
    """What the wrong calls have left in their folders: files, and what these hold."""
    folder = tmp_path_factory.mktemp("answered")
    calls = [[str(ROOT / f"src/{script}.py"), *overrides] for script, *overrides in ANSWERS]
    done = python("-c", EACH, json.dumps(calls), cwd=folder)
    assert done.returncode == 0, done.stderr
    every = [(folder / f"{i}").rglob("*") for i in range(len(calls))]
    return [{path.name: path.read_text() if path.is_file() else None for path in paths} for paths in every]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="one process for each call")
@pytest.mark.parametrize("arguments", ANSWERS, ids=" ".join)
def test_a_wrong_call_is_answered_in_a_sentence_before_heavy_imports(arguments, answered):
    left = answered[list(ANSWERS).index(arguments)]
    (line,) = left["stderr"].splitlines()
    assert line.startswith("Error: Expected ")
    assert ANSWERS[arguments] in line
    assert (left["status"], left["stdout"]) == ("1", "")
    assert left.keys() == {"absent", "stderr", "stdout", "status"}  # no folder for runs


def test_a_description_is_not_written_over_another(tmp_path):
    (tmp_path / "dataset.yaml").write_text("name: mine\n")
    done = call("prepare_data", "data=folder", "data.root=.", cwd=tmp_path)
    assert "Error: Expected no dataset.yaml before a first one is written, got one: check=true checks it" in done.stderr
    assert (done.returncode, (tmp_path / "dataset.yaml").read_text()) == (1, "name: mine\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "hydra.run.dir={root}"],
        ["train", "hydra.run.dir={root}/.."],
        ["train", "-m", "seed=0,1", "hydra.sweep.dir={root}"],
        ["eval", "ckpt=x", "hydra.run.dir={root}"],
    ],
)
def test_no_run_lies_where_its_dataset_does(arguments, tmp_path):
    root = tmp_path / "data/NYUDv2"
    (root / "images").mkdir(parents=True)
    before = set(root.parent.rglob("*"))
    script, *more = [argument.format(root=root) for argument in arguments]
    done = call(script, *more, *(["data=nyud"] if script == "train" else []), f"data.root={root}", cwd=tmp_path)
    assert "Error: Expected a folder of the run's own, got " in done.stderr
    assert done.returncode == 1
    assert set(root.parent.rglob("*")) == before


@pytest.mark.parametrize(
    ("script", "overrides", "folder"),
    [
        ("train", [], "logs/demo"),
        ("train", ["data=synthetic_pascal"], "logs/demo"),
        ("train", ["data=my_rooms"], "logs/my_rooms"),
        ("train", ["data=nyud", "experiment=nyud_mtmamba", "log_dir=there"], "there/nyud_mtmamba"),
        ("eval", ["ckpt=x", "hydra.job.name=eval"], "logs/eval"),
    ],
)
def test_runs_are_filed_under_what_they_are(script, overrides, folder, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/my_rooms.yaml").write_text("defaults: [folder]\n")
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        own = f"hydra.searchpath=[file://{tmp_path}]"
        found = compose(script, [own, *overrides], return_hydra_config=True).hydra
    assert re.fullmatch(rf"{folder}/[\d_-]+", found.run.dir)
    assert re.fullmatch(rf"{folder}/[\d_-]+_sweep", found.sweep.dir)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([], None),
        (["data=nyud"], "data=nyud, got optimizer=demo trainer=demo, .* choose optimizer=paper trainer=paper"),
        (["data=nyud", "optimizer=paper"], r"got trainer=demo, .* choose trainer=paper, or set trainer\.max_steps\.$"),
        (
            ["data=nyud", "trainer.max_steps=9"],
            r"got optimizer=demo, .* choose optimizer=paper, or set optimizer\.lr\.$",
        ),
        (["data=nyud", "trainer.max_steps=9", "optimizer.lr=1"], None),
        (["experiment=nyud_mtmamba"], None),
    ],
)
def test_the_demos_settings_are_said_where_they_train_on_anything_else(overrides, said):
    found = demo_settings(mtmamba.load_config(overrides))
    assert found is None if said is None else re.search(said, found)


FROZEN = r"with encoder.{0}, got encoder.pretrained=false, .* init=MODEL, or leave encoder.{0} out"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["encoder.freeze=all"], FROZEN.format("freeze=all")),
        (["encoder=swin_tiny", "encoder.pretrained=false", "encoder.lora.rank=8"], FROZEN.format("lora.rank=8")),
        (["encoder.freeze=1", "init=rooms_micro"], None),
        (["encoder.freeze=1", "encoder.weights=swin.pth"], None),
        (["encoder=swin_tiny", "encoder.freeze=1"], None),
        ([], None),
    ],
)
def test_an_encoder_that_stays_random_is_said(overrides, said):
    found = frozen_at_random(mtmamba.load_config(overrides))
    assert found is None if said is None else re.search(said, found)


def test_the_debug_switch_shows_tracebacks(tmp_path):
    done = call("train", "data.batch_size=0", cwd=tmp_path, HYDRA_FULL_ERROR="1")
    assert "Traceback" in done.stderr
    assert "ConfigError: Expected data.batch_size" in done.stderr


def test_an_error_that_is_not_the_users_has_its_traceback(tmp_path):
    done = call("train", cwd=tmp_path)  # as if PyTorch were broken
    assert "Traceback" in done.stderr
    assert "AssertionError: PyTorch was imported" in done.stderr
    assert not (tmp_path / "logs").exists()


def test_a_sweep_names_each_job_that_failed_and_goes_on(tmp_path):
    done = call("train", "-m", "data.batch_size=0,-1", cwd=tmp_path)
    assert done.stderr.count("Error: Expected data.batch_size") == 2
    assert "Traceback" not in done.stderr
    assert done.returncode == 1


FAILING = """
import weakref
from mtmamba.command import command
class OutOfMemoryError(RuntimeError): pass
class Network:
    def __init__(self): self.itself = self
made = []
def work(cfg, folder):
    print("held:", sum(one() is not None for one in made))
    network = Network()
    made.append(weakref.ref(network))
    raise OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. If reserved memory is large, try this.")
command("train", work)
"""


@pytest.mark.parametrize(
    "error",
    [
        "import numpy; numpy.empty(10**15)",
        "import cv2, numpy; cv2.resize(numpy.zeros((2, 3, 3), numpy.uint8), (200_000, 200_000))",
        "import torch; torch.empty(10**15)",
    ],
)
def test_a_machine_without_enough_memory_is_said_in_a_sentence(error):
    with pytest.raises((MemoryError, RuntimeError, cv2.error)) as raised:
        exec(error)
    assert is_answer(raised.value)
    said = sentence(raised.value, "predict")
    assert re.fullmatch(r"Expected the machine's memory to suffice, got: .*[^.]\. Choose smaller images .*\.", said)
    ours = ValueError(f"Expected a checkpoint, got one of {raised.value}.")
    assert sentence(ours, "predict") == " ".join(str(ours).split())  # which says what is wrong with what


def test_a_cache_folder_that_cannot_be_used_is_named_whoever_writes_to_it(tmp_path):
    (tmp_path / "script.py").write_text(
        "from pathlib import Path\nfrom mtmamba.command import command\n"
        "command('train', lambda cfg, folder: (Path(cfg.cache_dir) / 'scenes').mkdir(parents=True))\n"
    )
    (tmp_path / "file").touch()
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "script.py", "cache_dir=file", f"log_dir={tmp_path}/logs"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
    assert re.fullmatch(
        r"Error: Expected a cache folder that can be used, got file \(.*\): set cache_dir=FOLDER.\n", done.stderr
    )
    assert {path.name for path in tmp_path.iterdir()} == {"script.py", "file"}


class DistBackendError(RuntimeError):
    """Named as PyTorch's error of NCCL."""


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[/third_party/gloo/transport/tcp/pair.cc:538] Read error [::1]:38030: Connection reset by peer"),
        DistBackendError("NCCL communicator was aborted on rank 0."),
    ],
)
def test_a_process_that_waits_for_one_that_has_ended_says_so(error):
    assert is_answer(error)
    said = sentence(error, "train")
    assert re.fullmatch("Expected every process of the run to go on, got one that has ended .*resume=RUN.", said)


def test_what_a_terminal_cannot_show_is_spelt_out(tmp_path):
    """Names of files are any bytes, and terminals obey some of them."""
    (tmp_path / "script.py").write_text(
        "from mtmamba.command import command\n"
        "def work(cfg, folder):\n    print('name \\udcff é')\n"
        "    raise ValueError('Expected a name, got \\x1b[31m \\udcff é.')\n"
        "command('train', work)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "script.py", f"log_dir={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
    assert done.stdout == "name \\udcff \\xe9\n"
    assert done.stderr == "Error: Expected a name, got \\ufffd[31m \\udcff \\xe9.\n"
    assert done.returncode == 1


def test_a_failed_run_of_a_sweep_leaves_its_memory_to_the_next_and_says_what_needs_less(tmp_path):
    (tmp_path / "failing.py").write_text(FAILING)
    status, printed, said = forked.call(Path("failing.py"), "-m", "seed=0,1", f"log_dir={tmp_path}", cwd=tmp_path)
    assert printed.count("held: 0\n") == 2, said
    (line, _) = [line for line in said.splitlines() if line.startswith("Error: ")]
    assert line.startswith("Error: Expected the GPU's memory to suffice, got: CUDA out of memory. Tried to allocate")
    assert "2.00 GiB. Lower data.device_batch_size" in line
    assert status == 1


WRONG = """
    seed=null seed=-1 seed=1.5 tasks=null tasks=[] tasks=[1] compile=1 baseline=no-thanks pictures=-1
    pictures=null ema_decay=0 ema_decay=1 log_dir=null log_dir='' cache_dir=null data.crop_size=448
    label=[a] label="\\x1b" data.partial=random:0 data.partial=random:1.5
    data.partial=random:0.5.5 extensions=3 data.scenes.train=x
    data.crop_size=[0,576] data.crop_size=[448] data.crop_size=null data.batch_size=0 data.batch_size=-1
    data.batch_size=2.5 data.batch_size=true data.device_batch_size=0 data.val_batch_size=0
    data.val_batch_size=null data.num_workers=-1 data.scale=[2,1] data.scale=1 data.scale=[0,1]
    drop_path=1 encoder.drop_path=1 encoder.drop_path=-0.1 decoder.drop_path=1.5 optimizer.lr=0 optimizer.lr=null
    optimizer.lr=fast optimizer.weight_decay=-1 optimizer.betas=[0.9,1] optimizer.betas=0.9 trainer.devices=0
    trainer.devices=-2 trainer.max_steps=-1 callbacks.progress_refresh=-1 trainer.max_steps=0
    trainer.max_steps=null trainer.val_check_interval=0 trainer.val_check_interval=0.5
    trainer.log_every_n_steps=0 trainer.num_sanity_val_steps=-1 callbacks.checkpoint_every=0
""".split()  # noqa: SIM905 - a line each would hide the rest
WRONG_IN_EVALUATION = """
    bootstrap.resamples=-1 worst=-1 boundary_workers=0 split=test tta.scales=[] tta.scales=[0] tta.flip=2
    data.num_workers=-1 pictures=0.5 save_predictions=all ckpt=3 ids=3
""".split()  # noqa: SIM905


def changed(script, override):
    """A script's configuration with one value replaced."""
    cfg = configuration(script).copy()
    key, _, text = override.partition("=")
    OmegaConf.update(cfg, key, yaml.safe_load(text))
    return cfg


@cache
def configuration(script):
    return mtmamba.load_config(["ckpt=x"] if script == "eval" else [], script)


@pytest.mark.parametrize(
    ("script", "override"),
    [*(("train", override) for override in WRONG), *(("eval", override) for override in WRONG_IN_EVALUATION)],
)
def test_a_setting_of_a_wrong_type_or_range_is_refused_with_a_form_that_is_right(script, override):
    key = override.partition("=")[0]
    with pytest.raises(ConfigError, match=rf"Expected {key} to be .*, got .*: write {key}=\S+\.$") as refused:
        check_settings(changed(script, override))
    remedy = str(refused.value).rpartition(": write ")[2].removesuffix(".")
    check_settings(changed(script, remedy))


@pytest.mark.parametrize("key", ["data.scenes", "encoder.lora", "loss.weights", "optimizer.schedule"])
def test_a_number_is_no_group_of_settings(key):
    with pytest.raises(
        ConfigError, match=rf"Expected {key} to be (a group of settings|numbers by task).*, got 3: write"
    ):
        check_settings(changed("train", f"{key}=3"))


def test_a_configuration_is_checked_where_it_is_composed():
    with pytest.raises(ConfigError, match=r"data\.batch_size"):
        mtmamba.load_config(["data.batch_size=0"])


@pytest.mark.parametrize("override", ["tasks=depth", "tasks=[depth]"])
def test_a_task_may_stand_alone(override):
    assert list(mtmamba.load_config([override]).tasks) == ["depth"]


@pytest.mark.slow
def test_a_sweep_of_two_devices_runs_each_job_in_its_own_folder(tmp_path):
    """Lightning starts the second process by calling the command again, which once began the sweep anew and hung."""
    options = ["-m", "seed=0,1", "trainer.devices=2", "trainer.strategy=ddp", "trainer.accelerator=cpu", "logger=csv"]
    options += ["trainer.max_steps=2", "trainer.val_check_interval=2", "data.scenes.train=8", "data.scenes.val=5"]
    command = [sys.executable, str(ROOT / "src/train.py"), *options, f"cache_dir={tmp_path}/cache"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=600)
    assert done.returncode == 0, done.stderr
    (sweep,) = (tmp_path / "logs/demo").glob("*")
    records = [json.loads((sweep / f"{job}/metrics.json").read_text()) for job in (0, 1)]
    assert [(record["seed"], record["images"], record["step"]) for record in records] == [(0, 5, 2), (1, 5, 2)]
    assert all(record["constant"] for record in records)


@pytest.mark.slow
def test_the_terminal_holds_what_matters_and_a_file_no_bar(tmp_path):
    options = ["trainer.accelerator=cpu", "logger=csv", "trainer.max_steps=4", "trainer.val_check_interval=4"]
    options += [
        "trainer.log_every_n_steps=2",
        "data.scenes.train=8",
        "data.scenes.val=4",
        f"cache_dir={tmp_path}/cache",
    ]
    command = [sys.executable, str(ROOT / "src/train.py"), *options, f"cache_dir={tmp_path}/cache"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    lines = done.stderr.splitlines()
    assert [line for line in lines if not re.match(r"\d\d:\d\d:\d\d INFO ", line)] == []
    steps = [line for line in lines if re.search(r"INFO Step \d+ of 4: loss \d+\.\d+, \d:\d\d:\d\d left$", line)]
    assert [line.split()[3] for line in steps] == ["2", "4"]
    assert done.stdout.startswith("┏")
    assert "\r" not in done.stdout


@pytest.mark.parametrize("script", sorted(path.stem for path in config_dir().glob("*.yaml")))
def test_help_shows_a_scripts_own_settings_and_groups_alone(tmp_path, script):
    done = call(script, "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    text = (config_dir() / f"{script}.yaml").read_text(encoding="utf-8")
    assert done.stdout.startswith(text.partition("\n")[0].removeprefix("# "))
    inherited = "train" if script == "import_checkpoint" else script
    own = yaml.safe_load((config_dir() / f"{inherited}.yaml").read_text(encoding="utf-8"))
    mine = yaml.safe_load(text).keys() - {"defaults", "hydra"}
    settings, _, rest = done.stdout.partition("== Settings: KEY=VALUE ==")[2].partition("== Groups: GROUP=FILE ==")
    assert all(re.search(rf"^{key}:", settings, re.M) for key in mine)
    groups = {group for entry in own["defaults"] if isinstance(entry, dict) for group in entry} - {"hydra"}
    groups -= {"data"} if script == "eval" else set()
    listed = rest.partition("== All settings")[0]
    assert set(re.findall(r"^(\w+): \w", listed, re.M)) == groups
    assert not groups or f"\n{sorted(groups)[0]}:" in rest


def test_whoever_reads_the_output_may_go(tmp_path):
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, str(ROOT / "src/doctor.py"), "--help"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False, cwd=tmp_path)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


def test_whoever_calls_may_have_closed_the_output(tmp_path):
    command = [sys.executable, str(ROOT / "src/predict.py"), "source=absent"]
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *command], stderr=subprocess.PIPE, text=True, check=False, cwd=tmp_path
    )
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "got absent, no such file" in done.stderr


@pytest.mark.parametrize(
    ("stop", "answer", "said"),
    [
        ("SIGTERM", "raise", "Stopped by Ctrl-C, SIGTERM or SIGHUP.\n"),
        ("SIGHUP", "raise", "Stopped by Ctrl-C, SIGTERM or SIGHUP.\n"),
        ("SIGINT", "sys.exit(1)", ""),
    ],
    ids=["predict", "closed", "train"],
)
def test_what_stops_a_command_leaves_a_word_and_no_folder(tmp_path, stop, answer, said):
    """Within work that has no answer of its own to it, as imports have none; and in training, where Lightning has."""
    script = tmp_path / "train.py"
    work = f"try: signal.raise_signal(signal.{stop})\n    except KeyboardInterrupt: {answer}"
    script.write_text(
        "import signal, sys\nfrom mtmamba.command import command\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # which shells have background jobs ignore\n"
        f"def work(*_):\n    {work}\ncommand('train', work)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    call = [sys.executable, script]
    done = subprocess.run(call, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
    assert (done.returncode, done.stderr) == (130, said)
    assert list(tmp_path.iterdir()) == [script]


def symlink_loop():
    """As ``Path.resolve`` before Python 3.13."""
    raise RuntimeError("Symlink loop from '/a/b'")


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (lambda: Path("~nobody-of-that-name/x").expanduser(), "Expected a path whose ~ is somebody's home, got none"),
        (symlink_loop, "that leads back to itself, /a/b: correct it."),
    ],
)
def test_what_python_says_of_paths_is_a_sentence(act, said):
    with pytest.raises(RuntimeError) as error:
        act()
    assert is_answer(error.value)
    assert said in sentence(error.value, "train")


def test_an_error_of_the_system_about_a_path_is_a_sentence():
    said = sentence(FileExistsError(17, "File exists", "/dev/full"), "report")
    assert said == "Expected a path that can be used so, got /dev/full: File exists; choose another, or mend it."


@pytest.mark.parametrize(
    ("logger", "package", "settings"),
    [
        ("wandb", "wandb", {"project": "", "label": "", "choices": {}}),
        ("mlflow", "mlflow", {"tracking_uri": "http://localhost"}),
        ("mlflow", "sqlalchemy", {"tracking_uri": "sqlite:///mlflow.db"}),
    ],
)
def test_a_logger_whose_package_is_missing_is_a_sentence(logger, package, settings, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "mlflow", ModuleType("mlflow"))  # as mlflow-skinny, without what databases need
    monkeypatch.setitem(sys.modules, package, None)
    node = OmegaConf.create({"logger": {logger: OmegaConf.load(config_dir() / f"logger/{logger}.yaml")[logger]}})
    with pytest.raises(InstantiationException) as caught:
        instantiate({"_target_": node.logger[logger]["_target_"]}, save_dir=tmp_path, **settings)
    said = sentence(caught.value, "train")
    assert said.startswith(f"Expected {package} for ")
    assert said.endswith(f", got no such package: pip install {package}.")


def test_a_setting_that_a_class_does_not_take_is_a_sentence_where_hydra_names_no_group():
    with pytest.raises(InstantiationException) as caught:
        instantiate({"_target_": "fractions.Fraction", "x": 3})
    assert re.fullmatch(
        "Expected settings that fractions.Fraction takes, got .*'x': correct them.", sentence(caught.value, "train")
    )


@pytest.mark.parametrize(("group", "kind"), [("callbacks", "Callback"), ("logger", "Logger")])
def test_what_is_no_callback_or_logger_is_refused(group, kind):
    cfg = configuration("train").copy()
    cfg[group] = {"odd": {"_target_": "builtins.dict"}}
    with pytest.raises(ConfigError, match=f"Expected a {kind} of Lightning's kind, got builtins.dict"):
        build.build_callbacks(cfg) if group == "callbacks" else build.build_loggers(cfg, Path("run"))
