"""The benchmark: rooflines by hand, cases and their names, and whole measurements."""

import dataclasses
import json
import time

import pytest
import torch
from torch import nn

from mtmamba import build
from mtmamba.benchmarks import suite
from mtmamba.benchmarks.cases import MapCase, network_on_meta, operator_cases
from mtmamba.benchmarks.device import Device, cpu_name, measure_device
from mtmamba.benchmarks.network_cases import mean_square, network_cases, random_batch
from mtmamba.benchmarks.release import RELEASE
from mtmamba.benchmarks.report import markdown
from mtmamba.benchmarks.roofline import Layer, Work, count_work, roofline
from mtmamba.benchmarks.timing import measure, tf32
from mtmamba.config import compose
from mtmamba.models.decoders.mtmamba.blocks import STM
from mtmamba.models.decoders.mtmamba.extractors import MFE, LinearGate
from mtmamba.models.layers import TaskLinear
from mtmamba.stats.flops import model_stats

CPU = torch.device("cpu")
# 1 TB/s, 100 or 10 TFLOP/s, 1 T exponentials/s
DEVICE = Device("a device", None, 1e12, {"bf16": 1e14, "float32": 1e13}, 1e12, "by decree")
MICRO = "experiment=demo data.crop_size=[32,64]"


# --- roofline -----------------------------------------------------------------------------------------------------


def test_the_roofline_of_a_layer_is_its_longest_time_and_layers_add_up():
    product = Layer(flops=2e11, inputs=1e8, outputs=2e8, weights=5e7)  # 2 ms; 0.6 + 0.2 GB: 0.8 ms
    scan = Layer(updates=3e9, inputs=1e9, outputs=1e9)  # 3 ms; 4 GB: 4 ms
    found = roofline(Work([product, scan]), DEVICE, "bf16")
    assert found == pytest.approx((2, 3, 0.8 + 4, 2 + 4))
    # float32: 20 ms of products; activations of four bytes: 1.2 + 0.2 and 8 GB
    assert roofline(Work([product, scan]), DEVICE, "float32") == pytest.approx((20, 3, 1.4 + 8, 20 + 8))


def test_the_roofline_of_a_training_step_adds_the_backward_pass_and_the_optimizer():
    product = Layer(flops=2e11, inputs=1e8, outputs=2e8, weights=5e7)
    scan = Layer(updates=3e9, inputs=1e9, outputs=1e9)
    # Products thrice, updates 3.5 times. Backward traffic of the first 2 (2e8 + 2e8) + 8 (5e7) = 1.2 GB, of the
    # second 2 (3e9) = 6 GB. AdamW moves 28 bytes for each of 5e7 weights: 1.4 GB.
    found = roofline(Work([product, scan], 50_000_000), DEVICE, "bf16", backward=True, optimizer=True)
    assert found == pytest.approx((6, 10.5, 0.8 + 1.2 + 4 + 6 + 1.4, 6 + 10.5 + 1.4))


def test_the_work_of_a_task_linear_layer():
    with torch.device("meta"):
        work = count_work(TaskLinear(4, 8, 16, bias=False), [torch.empty(4, 2, 3, 5, 8)])
    assert work.layers == [Layer(4 * 30 * 8 * 16 * 2, 0, 4 * 30 * 8, 4 * 30 * 16, 4 * 8 * 16)]


def test_the_work_of_a_block():
    with torch.device("meta"):
        work = count_work(STM(2, 32, mfe=MFE, gate=LinearGate), [torch.empty(2, 3, 4, 5, 32)])
    pixels, d, e, r, n = 2 * 3 * 20, 32, 64, 2, 16
    products = [d * e, 9 * e, 4 * e * (r + 2 * n), 4 * r * e, d * e, e * d]  # in, conv, x, step size, gate, out
    assert work.total("flops") == 2 * pixels * sum(products)
    assert work.total("updates") == 4 * pixels * e * n
    assert work.total("inputs") == pixels * (d + e + e + d + e)
    assert work.total("outputs") == pixels * (e + e + e + e + d)


def test_the_work_of_the_papers_network_is_what_model_stats_counts():
    cfg, model = network_on_meta("experiment=nyud_mtmamba")
    work = count_work(model, [torch.empty(1, 3, *cfg.data.crop_size, device="meta")])
    stats = model_stats(model, cfg.data.crop_size, "macs")
    assert work.total("flops") == 2 * stats.total_flops
    assert work.parameters == stats.total_parameters
    # 13 MFE in each stage (4 tasks in two STM and one CTM, and the shared one), 4 directions, 16 states
    maps = ((28 * 36, 1536), (56 * 72, 768), (112 * 144, 384))
    assert work.total("updates") == 13 * 4 * 16 * sum(length * e for length, e in maps)


# --- timing -------------------------------------------------------------------------------------------------------


def test_the_timing_of_a_call_that_sleeps():
    calls = []

    def function():
        calls.append(torch.ones(1000))
        time.sleep(0.01)

    timing = measure(function, CPU, seconds=0.05, min_repeats=3)
    assert 10 <= timing.best_ms <= timing.low_ms <= timing.median_ms <= timing.high_ms < 200
    assert 3 <= timing.repeats <= 5
    assert len(calls) == timing.repeats + 3  # one warms up, one shows its memory, one tells how often to repeat
    assert timing.extra_bytes == 4000
    once = measure(function, CPU, seconds=0, min_repeats=1)
    assert once.repeats == 1
    assert once.best_ms == once.low_ms == once.median_ms == once.high_ms
    with pytest.raises(ValueError, match="Expected repeats of at least 1, got 0"):
        measure(function, CPU, min_repeats=0)


def test_tf32_is_set_for_a_while():
    backends = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [backend.allow_tf32 for backend in backends]
    for allowed in (True, False):
        with tf32(allowed):
            assert [backend.allow_tf32 for backend in backends] == [allowed, allowed]
    assert [backend.allow_tf32 for backend in backends] == before


@pytest.mark.slow
def test_the_rates_of_this_processor():
    device = measure_device(CPU, ["float32"])
    assert device.threads == torch.get_num_threads()
    assert device.name == cpu_name()
    assert 1e8 < device.copy_bytes < 1e13
    assert 1e8 < device.flops["float32"] < 1e14
    assert 1e5 < device.exponentials < 1e13


# --- cases --------------------------------------------------------------------------------------------------------


def cases_of(what, *overrides, device="cuda"):
    cfg = compose.load_config(list(overrides), name="benchmark")
    return suite.chosen_cases(cfg, suite.chosen_parts(what), torch.device(device))


def test_the_cases_of_a_gpu_have_names_of_their_own_and_cover_the_release():
    cases = cases_of("all")
    names = [case.name for case in cases]
    assert len(set(names)) == len(names)
    assert set(RELEASE) <= {case.release_name for case in cases}


def test_choosing_cases():
    assert [c.name for c in cases_of("model", 'only="^train.*_b8_bf16"')] == [
        "train_nyud_b8_bf16",
        "train_pascal_b8_bf16",
    ]
    blocks = [case.name for case in cases_of("blocks", "only=forward")]
    assert blocks[0] == "stm_nyud_t4_768_28x36_b8_bf16_forward"
    assert blocks[-1] == "ctm_nyud_t4_192_112x144_b8_bf16_forward"
    assert len(blocks) == 6


def test_an_operator_is_captured_whole_a_step_is_not():
    core, step, inference = (
        next(iter(cases_of(part, f'only="{name}"', f"cuda.{part}.cuda_graph=[true]")))
        for part, name in (("ops", "ss2d.*backward"), ("model", "^train"), ("model", "^infer"))
    )
    assert core.name.endswith("_backward_graph")
    assert [case.captured_whole for case in (core, step, inference)] == [True, False, True]


def test_ways_to_run_a_network_are_not_measured_twice():
    ways = ("compile=[none,blocks]", "cuda_graph=[false,true]", "checkpointing=[none,blocks]", "loss=[mean_square]")
    overrides = [f"cuda.model.{way}" for way in ways]
    names = [case.name for case in cases_of("model", 'only="^(train|infer)_nyud_b1_bf16"', *overrides)]
    assert names == [
        "train_nyud_b1_bf16_mean-square",
        "train_nyud_b1_bf16_checkpointing-blocks_mean-square",
        "train_nyud_b1_bf16_graph_mean-square",
        "train_nyud_b1_bf16_graph_checkpointing-blocks_mean-square",
        "train_nyud_b1_bf16_compile-blocks_mean-square",
        "train_nyud_b1_bf16_compile-blocks_checkpointing-blocks_mean-square",
        "train_nyud_b1_bf16_compile-blocks_graph_mean-square",
        "train_nyud_b1_bf16_compile-blocks_graph_checkpointing-blocks_mean-square",
        "infer_nyud_b1_bf16",
        "infer_nyud_b1_bf16_graph",
        "infer_nyud_b1_bf16_compile-blocks",
        "infer_nyud_b1_bf16_compile-blocks_graph",
    ]


@pytest.mark.parametrize(
    ("what", "override", "message"),
    [
        ("ops", "what=[speed]", "Expected what to be all or some of scan, loader, predict, ops, blocks, model, got"),
        ("model", "only=swim", "Expected only to be found in the name of a case, got swim: the cases are train_tiny"),
        ("ops", "cpu.ops.precisions=[fp8]", "Expected precisions among float32, tf32, bf16, got"),
        ("model", "cpu.model.compile=[all]", "Expected model.compile among none, blocks, got"),
        ("model", "cpu.model.checkpointing=[most]", "Expected model.checkpointing to be none, heads or blocks, got"),
        ("model", "cpu.model.networks=[huge]", "Expected model.networks among nyud, pascal, tiny, got"),
        ("model", "cpu.model.cuda_graph=[true]", "Expected a GPU for cuda_graph"),
        ("ops", "cpu.ops.cuda_graph=[true]", "Expected a GPU for cuda_graph"),
    ],
)
def test_choices_that_make_no_sense_are_refused(what, override, message):
    with pytest.raises(ValueError, match=message):
        cases_of(what, override, device="cpu")


def test_a_batch_of_random_labels_is_what_the_losses_take():
    outputs = {"semseg": 5, "depth": 1, "human_parts": 7, "sal": 2, "normals": 3, "edge": 1}
    batch = random_batch(outputs, 3, (4, 6), CPU)
    assert [batch[task].max() < n for task, n in (("semseg", 5), ("human_parts", 7), ("sal", 2), ("edge", 2))]
    assert batch["normals"].norm(dim=1) == pytest.approx(torch.ones(3, 4, 6))
    assert batch["depth"].shape == (3, 4, 6)
    assert batch["image"].shape == (3, 3, 4, 6)


def test_mean_square_takes_logits_and_maps():
    maps = [torch.tensor([1.0, 3.0]), torch.tensor([[2.0]], dtype=torch.bfloat16)]
    assert mean_square(maps) == mean_square(dict(enumerate(maps))) == 5 + 4


def micro_case(passes, **changes):
    cfg = compose.load_config([], name="benchmark").cpu.model
    cfg.networks, cfg.passes = ["micro"], [passes]
    for key, value in changes.items():
        cfg[key] = [value]
    (case,) = network_cases(cfg, {"micro": MICRO}, "torch")
    return case


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
@pytest.mark.parametrize("passes", ["train", "encoder_train", "infer", "encoder_infer"])
def test_the_passes_of_a_network(passes, monkeypatch):
    built = []
    build_model = build.build_model
    monkeypatch.setattr(build, "build_model", lambda cfg: built.append(build_model(cfg)) or built[-1])
    case = micro_case(passes, precisions="bf16")
    function = case.prepare(CPU)
    model = built[-1]
    before = {name: p.clone() for name, p in model.named_parameters()}
    training, touched = passes.endswith("train"), set()
    assert ({p.dtype for p in model.parameters()} == {torch.float32}) == training  # evaluation has weights rounded
    for name, p in model.named_parameters() if training else ():
        p.register_hook(lambda grad, name=name: touched.add(name))
    outputs = function()
    assert model.training == training
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())  # at learning rate 0
    assert all(p.grad is None for p in model.parameters())
    assert all(name in touched for name in before if name.startswith("encoder")) == training
    assert any(name.startswith("decoder") for name in touched) == (passes == "train")
    if passes == "infer":
        assert outputs["depth"].shape == (1, 1, 32, 64)
        assert outputs["depth"].dtype == torch.float32
        assert torch.equal(outputs["depth"].bfloat16().float(), outputs["depth"])  # the product was in bfloat16
        assert not outputs["depth"].requires_grad
    if passes == "encoder_infer":
        assert [tuple(x.shape[1:3]) for x in outputs] == [(8, 16), (4, 8), (2, 4), (1, 2)]


def test_the_mean_square_ends_a_step_without_labels(monkeypatch):
    case = micro_case("train", loss="mean_square")
    function = case.prepare(CPU)
    monkeypatch.setattr("mtmamba.training.lit_module.MultiTaskModule.training_step", lambda *_: 1 / 0)
    function()
    with pytest.raises(ZeroDivisionError):
        micro_case("train").prepare(CPU)()


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
@pytest.mark.parametrize(
    ("passes", "loss"), [("train", "training"), ("train", "mean_square"), ("encoder_train", "training")]
)
def test_a_step_is_replayed_from_graphs_as_in_training(graph_device, replays, passes, loss):
    case = micro_case(passes, loss=loss, cuda_graph=True)
    backend = "torch" if graph_device.type == "cpu" else "auto"
    step = dataclasses.replace(case, backend=backend).prepare(graph_device)
    for _ in range(2):
        step()
    forward, backward = dict.fromkeys(replays)
    assert replays == [forward, backward] * 2


def test_an_operator_case_gives_the_gradients_of_map_and_weights():
    cfg = compose.load_config([], name="benchmark").cpu.ops
    cfg.maps = [{"op": "ss2d", "tasks": 2, "dim": 32, "size": [3, 4]}]
    forward, backward = operator_cases(cfg, "torch")
    assert (forward.name, backward.name) == tuple(f"ss2d_t2_32_3x4_b1_float32_{p}" for p in ("forward", "backward"))
    y = forward.prepare(CPU)()
    assert y.shape == (2, 1, 3, 4, 32)
    assert not y.requires_grad
    grads = backward.prepare(CPU)()
    assert grads[0].shape == y.shape
    assert len(grads) == 1 + 5 + 2  # map, SS2D, norm


# --- the run ------------------------------------------------------------------------------------------------------


class Failing(nn.Linear):
    def __init__(self, error):
        super().__init__(4, 4)
        self.error = error

    def forward(self, x):
        if not x.is_meta:
            raise self.error
        return super().forward(x)


def failing_case(name, error):
    return MapCase(
        name=name,
        group="ops",
        release_name=name,
        precision="float32",
        batch_size=1,
        backend="auto",
        backward=False,
        build=lambda backend: Failing(error),
        shape=(1, 1, 2, 2, 4),
    )


@pytest.mark.parametrize(
    ("error", "status"),
    [(torch.OutOfMemoryError("no room"), "out of memory"), (KeyError("x"), "failed: KeyError")],
)
def test_a_case_that_cannot_run_says_why(error, status):
    row = suite.measured(failing_case("bad", error), CPU, DEVICE, 0.01, 2)
    assert row["status"] == status
    assert "median_ms" not in row


ENVIRONMENT = {"command": ["benchmark.py"], "git": "abc", "packages": {"torch": "2"}, "hardware": "a machine"}


def test_the_markdown_page():
    row = {
        "name": "train_nyud_b8_bf16_compile-blocks",
        "release_name": "train_nyud_b8_bf16",
        "status": "measured",
        "median_ms": 400.0,
        "low_ms": 399.0,
        "high_ms": 1401.26,
        "images_per_second": 20.0,
        "peak_bytes": 3 * 2**29,
        "extra_bytes": 2**30,
        "roofline": {"total_ms": 100.0},
        "fraction_of_roofline": 0.25,
    }
    lost = {"name": "huge", "release_name": "huge", "status": "out of memory", "roofline": {"total_ms": 7.0}}
    record = {"environment": ENVIRONMENT, "device": vars(DEVICE), "cases": [row, lost]}
    lines = markdown(record).splitlines()
    assert "| train_nyud_b8_bf16_compile-blocks | 400 | 399–1,401 | 20 | 1.5 | 1 | 100 | 25.0% | 1,261 | 99 |" in lines
    assert "| huge | out of memory |  |  |  |  | 7 |  |  |  |" in lines
    assert "| products in bf16, TFLOP/s | 100 |" in lines
    assert "another device" in lines[-1]
    on_h200 = record | {"device": vars(DEVICE) | {"name": "NVIDIA H200"}}
    assert "another device" not in markdown(on_h200)


def test_ops_blocks_and_a_network_are_measured(tmp_path, monkeypatch, capsys, recwarn):
    monkeypatch.setattr(suite, "measure_device", lambda *_: DEVICE)
    choices = [
        *("what=[ops,blocks,model]", "device=cpu", "seconds=0.01", "min_repeats=2"),
        "cpu.ops.maps=[{op: conv, tasks: 2, dim: 8, size: [4, 6]}]",
        *(f'networks.tiny="{MICRO}"', "only=conv|stm.*_12_.*forward|train"),
    ]
    suite.benchmark(compose.load_config(choices, name="benchmark"), tmp_path)
    record = json.loads((tmp_path / "benchmark.json").read_text())
    names = [row["name"] for row in record["cases"]]
    assert names == [
        "conv_t2_8_4x6_b1_float32_forward",
        "conv_t2_8_4x6_b1_float32_backward",
        "stm_tiny_t4_12_8x16_b1_float32_forward",
        "train_tiny_b1_float32",
    ]
    assert record["device"] == vars(DEVICE)
    for row in record["cases"]:
        assert row["status"] == "measured"
        assert 0 < row["low_ms"] <= row["median_ms"] <= row["high_ms"]
        assert row["extra_bytes"] > 0
        assert row["fraction_of_roofline"] == pytest.approx(row["roofline"]["total_ms"] / row["median_ms"])
    page = (tmp_path / "benchmark.md").read_text()
    assert all(f"| {name} |" in page for name in names)
    assert names[-1] in capsys.readouterr().out
    assert not [warning for warning in recwarn if "self.log" in str(warning.message)]


def test_a_failing_case_does_not_stop_the_others_but_the_run_fails(tmp_path, monkeypatch):
    cases = [failing_case("bad", KeyError("x")), failing_case("huge", torch.OutOfMemoryError("no room"))]
    monkeypatch.setattr(suite, "chosen_cases", lambda *_: cases)
    monkeypatch.setattr(suite, "measure_device", lambda *_: DEVICE)
    cfg = compose.load_config(["what=ops", "device=cpu"], name="benchmark")
    with pytest.raises(suite.BenchmarkError, match=r"failures in bad: see"):
        suite.benchmark(cfg, tmp_path)
    record = json.loads((tmp_path / "benchmark.json").read_text())
    assert [row["status"] for row in record["cases"]] == ["failed: KeyError", "out of memory"]
