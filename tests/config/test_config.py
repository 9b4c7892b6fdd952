"""Configurations: every file composes and builds, tables name and count the paper's rows, nonsense is refused."""

import json
import math
import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException

import mtmamba
from mtmamba.config.checks import ConfigError, settle_auto
from mtmamba.config.compose import describe, plain
from mtmamba.config.decisive import check_resumed
from mtmamba.models.pretrained import WeightsError
from mtmamba.models.skeleton import skeleton
from mtmamba.models.ss2d import SS2D
from mtmamba.restore import config_of
from mtmamba.shipped import config_dir
from mtmamba.tasks import all_tasks

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(path.stem for path in config_dir().glob("*.yaml"))
FILES = [
    f"{group}={path.stem}"
    for group in mtmamba.load_config().choices
    for path in sorted((config_dir() / group).glob("*.yaml"))
    if path.stem != "folder"  # which is nothing without a folder: tests/data/test_folder.py
]
DEMO = describe(mtmamba.load_config())
TABLES = {  # label and parameters of each row, in the paper's order; the paper prints the millions, floored
    "table2": {
        "Single-task 2*Swin (semseg)": 222_203_440,
        "Single-task 2*Swin (depth)": 222_195_913,
        "Single-task 2*Swin (normals)": 222_196_299,
        "Single-task 2*Swin (edge)": 222_195_913,
        "Multi-task 2*Swin": 303_187_953,
        "1*STM": 252_518_817,
        "2*STM": 276_485_025,
        "3*STM": 300_451_233,
        "2*STM+1*CTM": 307_999_137,
    },
    "table3": {"MFE→W-MSA": 451_812_651, "MTMamba": 307_999_137},
    "table4": {"Linear→W-MSA": 345_336_825, "MTMamba": 307_999_137},
    "table5": {"g=0": 294_258_081, "g=1": 290_226_081, "adaptive g": 307_999_137},
    "table6": {
        "Swin-Tiny": 57_589_575,
        "Swin-Small": 78_907_479,
        "Swin-Base": 138_674_469,
        "Swin-Large": 307_999_137,
    },
}


def build(*overrides):
    return mtmamba.build_model(mtmamba.load_config(overrides))


COUNTED = {}


def parameters(cfg):
    """Of the network, which is built once however many files choose it."""
    network = str([plain(cfg.model), plain(cfg.tasks), plain(cfg.data.num_outputs)])
    if network not in COUNTED:
        with skeleton():
            COUNTED[network] = sum(p.numel() for p in mtmamba.build_model(cfg).parameters())
    return COUNTED[network]


def rows(table):
    """The overrides of a table's runs, from the sweep that its experiment holds."""
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        hydra_cfg = compose("train", [f"experiment={table}"], return_hydra_config=True).hydra
    assert hydra_cfg.mode.name == "MULTIRUN"
    swept = [[f"{key}={value}" for value in values.split(",")] for key, values in hydra_cfg.sweeper.params.items()]
    return [[f"experiment={table}", *row] for row in product(*swept)]


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_has_a_configuration_that_composes(script):
    assert (ROOT / f"src/{script}.py").is_file()
    mtmamba.load_config(name=script)


@pytest.mark.parametrize("file", FILES)
def test_every_file_composes_and_its_model_builds(file):
    assert parameters(mtmamba.load_config([file])) > 0


@pytest.mark.parametrize("table", TABLES)
def test_a_table_runs_the_papers_rows_with_its_names_and_parameters(table):
    runs = [mtmamba.load_config(row) for row in rows(table)]
    assert [(cfg.label, parameters(cfg)) for cfg in runs] == list(TABLES[table].items())


@pytest.mark.parametrize("table", ["table2", "table5"])
def test_a_table_keeps_its_names_when_it_is_run_small(table):
    small = ["data=synthetic", "encoder=swin_micro", "trainer=demo"]
    runs = [mtmamba.load_config([*row, *small]) for row in rows(table)]
    assert [cfg.label for cfg in runs] == list(TABLES[table])
    assert {(cfg.choices.data, cfg.choices.encoder, cfg.choices.trainer) for cfg in runs} == {
        ("synthetic", "swin_micro", "demo")
    }


@pytest.mark.slow
def test_a_table_trains_row_by_row(tmp_path):
    call = f"""src/train.py experiment=table5 data=synthetic encoder=swin_micro trainer=demo trainer.max_steps=2
        trainer.val_check_interval=2 logger=csv baseline=false data.scenes.train=8 data.scenes.val=2
        log_dir={tmp_path}/logs cache_dir={tmp_path}/cache"""
    subprocess.run([sys.executable, *call.split()], cwd=ROOT, check=True)
    (sweep,) = (tmp_path / "logs/table5").glob("*_sweep")
    labels = [json.loads((sweep / f"{i}/metrics.json").read_text())["label"] for i in range(3)]
    assert labels == list(TABLES["table5"])


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["experiment=pascal_mtmamba"], 335_858_326),
        (["experiment=nyud_mtmamba", "decoder=mtmamba_plus"], 315_021_249),
        (["experiment=pascal_mtmamba", "decoder=mtmamba_plus"], 343_231_606),
        (["experiment=nyud_mtmamba", "encoder=swin_base", "encoder.window=7"], 138_539_109),
    ],
)
def test_parameters_of_the_other_models(overrides, expected):
    assert parameters(mtmamba.load_config(overrides)) == expected


@pytest.mark.parametrize("decoder", ["stm1", "stm2", "stm3", "mtmamba"])
@pytest.mark.parametrize(("width", "tasks"), [(8, ["depth"]), (20, ["semseg", "edge"]), (96, ["semseg", "normals"])])
def test_parameters_of_the_decoder_follow_the_closed_form(decoder, width, tasks):
    cfg = mtmamba.load_config([f"decoder={decoder}", f"tasks=[{','.join(tasks)}]"])
    with skeleton():
        built = mtmamba.build_decoder(cfg, [width, 2 * width, 4 * width, 8 * width])
    T, crossing = len(tasks), decoder == "mtmamba"
    k = 2 if crossing else int(decoder[-1])
    expected = sum(16 * width**2 + 2 * width + (width + 1) * cfg.data.num_outputs[task] for task in tasks)
    for d in (4 * width, 2 * width, width):
        r = math.ceil(d / 16)
        expected += T * (10 * d**2 + 3 * d) + k * T * (6 * d**2 + 16 * d * r + 426 * d)
        expected += crossing * (T * (8 * d**2 + 16 * d * r + 428 * d) + 16 * d * r + 424 * d)
    assert sum(p.numel() for p in built.parameters()) == expected


def test_public_spellings_reach_the_built_model():
    model = build("decoder.drop_path=0.3", "encoder.window=7", "tasks=[depth,semseg]", "backend=reference")
    assert model.decoder.tasks == ("semseg", "depth")
    blocks = list(model.decoder.blocks())
    assert (blocks[0].drop_path.rate, blocks[-1].drop_path.rate) == (pytest.approx(0.3), 0)
    assert {module.backend for module in model.modules() if isinstance(module, SS2D)} == {"reference"}
    assert next(model.encoder.blocks()).attn.relative_position_bias_table.shape[0] == 13**2


@pytest.mark.parametrize(("part", "block_runs", "head_runs"), [("none", 1, 1), ("heads", 1, 2), ("blocks", 2, 2)])
def test_checkpointing_reaches_the_built_model(part, block_runs, head_runs):
    model, runs = build(f"model.checkpointing={part}"), []
    next(model.encoder.blocks()).mlp.register_forward_pre_hook(lambda *_: runs.append("encoder"))
    next(model.decoder.blocks()).out_proj.register_forward_pre_hook(lambda *_: runs.append("decoder"))
    model.decoder.head.expand.expand.register_forward_hook(lambda *_: runs.append("head"))
    sum(x.sum() for x in model(torch.randn(1, 3, 32, 32)).values()).backward()
    assert (runs.count("encoder"), runs.count("decoder")) == (block_runs, block_runs)
    assert runs.count("head") == len(model.decoder.tasks) * head_runs


def test_pretrained_weights_are_asked_for_by_configuration():
    build("encoder.pretrained=false")
    with pytest.raises(WeightsError, match=r"encoder\.name=None.*encoder\.weights=FILE"):
        build("encoder.pretrained=true")
    with pytest.raises(WeightsError, match=r"nowhere\.safetensors.*encoder\.pretrained=false"):
        build("encoder.weights=nowhere.safetensors")


def test_a_configuration_composes_from_any_working_directory(tmp_path, monkeypatch):
    here = mtmamba.load_config(["experiment=nyud_mtmamba", "encoder=swin_tiny"])
    monkeypatch.chdir(tmp_path)
    assert mtmamba.load_config(["experiment=nyud_mtmamba", "encoder=swin_tiny"], config_dir=tmp_path) == here


def test_weights_of_unknown_tasks_are_refused():
    with pytest.raises(ConfigError, match=r"loss\.weights of tasks among semseg, .*, got \['semeg'\]"):
        mtmamba.load_config(["+loss.weights.semeg=3"])


def test_the_weighted_loss_has_the_weights_of_the_tasks_records():
    weights = mtmamba.load_config(["loss=weighted"]).loss.weights
    assert dict(weights) == {name: task.loss_weight for name, task in all_tasks().items()}


@pytest.mark.parametrize(
    ("decoder", "ablation"),
    [
        *product(("stm1", "stm2", "stm3"), ("g0", "g1")),
        *product(("swin2", "mtmamba_plus"), ("g0", "g1", "mfe_wmsa", "gate_wmsa")),
    ],
)
def test_an_ablation_of_a_part_that_the_decoder_lacks_is_refused(decoder, ablation):
    with pytest.raises(ConfigError, match=rf"got decoder={decoder}, which lacks .* or ablation=none\."):
        mtmamba.load_config([f"decoder={decoder}", f"ablation={ablation}"])


def test_wrong_choices_are_named():
    with pytest.raises(ConfigError, match=r"tasks among semseg, .*, which this data has, got \[sal\]"):
        mtmamba.load_config(["tasks=[semseg,sal]"])
    with pytest.raises(ValueError, match="segseg"):
        mtmamba.load_config(["tasks=[segseg]"])
    with pytest.raises(HydraException, match="stm4"):
        mtmamba.load_config(["decoder=stm4"])
    with pytest.raises(HydraException, match="windows"):
        mtmamba.load_config(["encoder.windows=7"])
    with pytest.raises(ValueError, match=r"model\.checkpointing.*some"):
        build("model.checkpointing=some")


def test_an_unknown_backend_is_refused_at_once():
    with pytest.raises(ConfigError, match=r"backend=auto\|cuda\|.*\|reference, got backend=fast"):
        mtmamba.load_config(["backend=fast"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["trainer.accelerator=cpu"], r"a GPU for cuda_graph=true, got trainer\.accelerator=cpu: leave it at auto"),
        (["trainer.strategy=fsdp"], r"Expected trainer\.strategy=auto\|ddp with cuda_graph=true, got fsdp: use"),
    ],
)
def test_what_cannot_go_with_a_cuda_graph_is_refused(overrides, message, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert settled("trainer.precision=32-true", *overrides).cuda_graph is False
    with pytest.raises(ConfigError, match=message):
        settled("trainer.precision=32-true", "cuda_graph=true", *overrides)


def settled(*overrides, script="train"):
    cfg = mtmamba.load_config([*overrides, *(["ckpt=last.ckpt"] if script == "eval" else [])], script)
    settle_auto(cfg)
    return cfg


@pytest.mark.parametrize("script", ["train", "eval"])
@pytest.mark.parametrize("devices", ["1", "[0,1]"])
def test_auto_takes_what_the_machine_has(script, devices, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for bfloat16, precision in ((True, "bf16-mixed"), (False, "32-true")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, native=bfloat16: native)
        cfg = settled(f"trainer.devices={devices}", script=script)
        assert (cfg.trainer.precision, cfg.cuda_graph) == (precision, True)
    on_cpu = settled("trainer.accelerator=cpu", script=script)
    chosen = settled("trainer.precision=16-mixed", "cuda_graph=false", script=script)
    assert (chosen.trainer.precision, chosen.cuda_graph) == ("16-mixed", False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for cfg in (on_cpu, settled(script=script)):
        assert (cfg.trainer.precision, cfg.cuda_graph) == ("32-true", False)
    with pytest.raises(ConfigError, match="Expected a GPU for cuda_graph=true, got none that PyTorch can use"):
        settled("cuda_graph=true", script=script)
    with pytest.raises(ConfigError, match=r"Expected cuda_graph to be auto, true or false, got yes"):
        settled("cuda_graph='yes'", script=script)


def test_a_run_goes_on_with_its_own_network_only():
    description = describe(mtmamba.load_config(["decoder=stm1"]))
    check_resumed(
        describe(mtmamba.load_config(["decoder=stm1", "trainer.max_steps=9", "data.root=/here"])), description
    )
    others = describe(mtmamba.load_config(["decoder=stm1", "optimizer.lr=1e-5", "data.batch_size=4", "seed=1"]))
    expected = (
        r"got seed=1 instead of 0, data\.batch_size=4 instead of 2, optimizer\.lr=1e-05 instead of 0\.003: repeat"
    )
    with pytest.raises(ConfigError, match=expected):
        check_resumed(others, description)
    with pytest.raises(
        ConfigError, match=r"decoder=stm2 instead of stm1, tasks=\['depth'\] instead of .*: repeat that run"
    ):
        check_resumed(describe(mtmamba.load_config(["decoder=stm2", "tasks=[depth]"])), description)


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["decoder=stm3", "ablation=mfe_wmsa", "tasks=[semseg]", "encoder.window=7", "decoder.drop_path=0.1"],
        ["experiment=nyud_mtmamba", "ablation=g0", "optimizer.lr=0.5"],
        ["experiment=table2", "row=t2_single_depth", "encoder.weights=file.safetensors"],
        ["experiment=pascal_mtmamba", "decoder=mtmamba_plus", "loss=weighted", "encoder=timm", "seed=3"],
    ],
)
def test_a_checkpoints_description_gives_its_configuration_back(overrides):
    cfg = mtmamba.load_config(overrides)
    description = json.loads(json.dumps(describe(cfg)))
    assert "_target_" not in json.dumps(description)
    again, expected = config_of(description), plain(cfg)
    fetched = expected["model"]["encoder"]
    fetched |= {key: nothing for key, nothing in (("pretrained", False), ("weights", None)) if key in fetched}
    for key in ("model", "tasks", "data", "loss", "optimizer", "seed", "label"):
        assert plain(again)[key] == expected[key]
    assert {group: again.choices[group] for group in description["choices"]} == description["choices"]


@pytest.mark.parametrize(
    "values",
    [
        {"_target_": "os.system"},
        {"decoder": {"own": {"_target_": "os.system"}}},
        {"encoder": {"surprise": {"_target_": "os.getcwd"}}},
        {"encoder": {"depths": [{"_target_": "os.getcwd"}]}},
        {"data": {"root": "${oc.env:HOME}"}},
        {"tasks": ["${oc.env:HOME}"]},
    ],
)
def test_a_description_with_more_than_plain_values_is_refused(values):
    with pytest.raises(ConfigError, match="do not trust this file"):
        config_of(DEMO | {"values": values})


@pytest.mark.parametrize("choice", ["../secrets", "swin_micro,swin_tiny", "swin_micro +x=1", "", "swin_micro@_global_"])
def test_a_description_with_odd_choices_is_refused(choice):
    with pytest.raises(ConfigError, match="do not trust this file"):
        config_of(DEMO | {"choices": DEMO["choices"] | {"encoder": choice}})


def test_importing_the_package_imports_nothing_large():
    code = "import sys; sys.modules.update(dict.fromkeys(('torch', 'hydra', 'timm', 'numpy'))); import mtmamba"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT / "src", check=True)


ALONE = """
import importlib, os, pkgutil, sys, torch, torchmetrics
def absent(*names):
    sys.modules.update(dict.fromkeys(names))
absent("lightning", "pytorch_lightning", "hydra", "omegaconf", "wandb")
absent("mtmamba.build", "mtmamba.config.compose", "mtmamba.training", "mtmamba.evaluation", "mtmamba.inference")
below = {"kernels": ("scan", "models", "tasks", "metrics", "data"), "scan": ("models", "tasks", "metrics", "data"),
         "models": ("tasks", "metrics", "losses", "data"), "metrics": ("tasks", "models", "scan")}
import timm.layers, torch.utils.checkpoint, torch._dynamo  # once for all, and nothing of ours
def names(package):
    path = [os.path.join("mtmamba", package)]
    return [f"mtmamba.{package}", *(m.name for m in pkgutil.walk_packages(path, f"mtmamba.{package}."))]
walked = 0
for package, above in below.items():
    found = [name for name in names(package) if not name.endswith("_triton") or importlib.util.find_spec("triton")]
    walked += len(found)
    for together in [[name] for name in found] if "alone" in sys.argv else [found]:
        if os.fork() == 0:  # with nothing of ours imported yet
            absent(*(f"mtmamba.{other}" for other in above))
            for name in together:
                try:
                    importlib.import_module(name)
                except BaseException as error:
                    print(f"{name}: {error!r}", flush=True)
                    os._exit(1)
            os._exit(0)
        if os.wait()[1]:
            sys.exit(1)
print(walked)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="one process for each package or module")
@pytest.mark.parametrize("together", ["packages", pytest.param("alone", marks=pytest.mark.slow)])
def test_modules_below_import_nothing_from_above(together):
    """Modules of kernels, scan, models and metrics without what stands above, each by itself or with its package."""
    done = subprocess.run([sys.executable, "-c", ALONE, together], cwd=ROOT / "src", capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    packages = [ROOT / "src/mtmamba" / name for name in ("kernels", "scan", "models", "metrics")]
    assert int(done.stdout) == sum(len([*package.rglob("*.py")]) for package in packages)
