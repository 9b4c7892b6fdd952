"""Run the benchmark: choose cases, measure each by itself, and write every result down as soon as it is there."""

import gc
import logging
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning import seed_everything
from omegaconf import DictConfig, ListConfig

from mtmamba import build
from mtmamba.benchmarks.cases import Case, block_cases, operator_cases, require
from mtmamba.benchmarks.device import Device, measure_device
from mtmamba.benchmarks.loader import benchmark_loader
from mtmamba.benchmarks.network_cases import network_cases
from mtmamba.benchmarks.prediction import benchmark_prediction
from mtmamba.benchmarks.report import markdown, table
from mtmamba.benchmarks.roofline import roofline
from mtmamba.benchmarks.scan import benchmark_scan
from mtmamba.benchmarks.timing import measure, tf32
from mtmamba.config import compose
from mtmamba.config.settings import PARTS, ConfigError
from mtmamba.files import write_json, write_text
from mtmamba.runs.environment import environment
from mtmamba.runs.folder import begin
from mtmamba.runs.table import show

log = logging.getLogger(__name__)

CASES = ("ops", "blocks", "model")


class BenchmarkError(RuntimeError):
    """Some cases failed for another reason than memory; the others are measured and written down."""


def benchmark(cfg: DictConfig, run_dir: Path) -> dict[str, Any]:
    """Measure speed and memory; leave ``benchmark.json`` and ``benchmark.md`` in the run's folder after every case.

    A case that the GPU has not the memory for is recorded so, and the others are measured.

    Args:
        cfg: from the benchmark script's configuration.
        run_dir: where to leave the numbers.

    Returns:
        What ``benchmark.json`` holds.

    Raises:
        ConfigError: choices that make no sense, or no case of that name.
        BenchmarkError: cases failed.
    """
    device = _device(cfg.device)
    parts = chosen_parts(cfg.what)
    cases = chosen_cases(cfg, parts, device)
    begin(cfg, run_dir)
    seed_everything(cfg.seed, verbose=False)
    record: dict[str, Any] = {"environment": environment()}
    if "scan" in parts:
        record["scan"] = benchmark_scan(**compose.plain(cfg.scan))
        _write(run_dir, record)
    if "loader" in parts:
        data = build.build_datamodule(cfg)
        data.prepare_data()
        data.setup()
        record["loader"] = benchmark_loader(data.dataset_of("train"), **compose.plain(cfg.loader))
        _write(run_dir, record)
    if "predict" in parts:
        record["predict"] = benchmark_prediction(device=device, networks=compose.plain(cfg.networks), **cfg.predict)
        _write(run_dir, record)
    for name in record.keys() & {"scan", "loader", "predict"}:
        log.info("%s: %s", name, record[name])
    if not cases:
        return record
    log.info("Measuring what %s can do.", device)
    rates = measure_device(device, [case.precision for case in cases])
    record["device"], record["cases"] = vars(rates), []
    for i, case in enumerate(cases, start=1):
        record["cases"].append(measured(case, device, rates, cfg.seconds, cfg.min_repeats))
        _write(run_dir, record)
        log.info("%d/%d %s: %s", i, len(cases), case.name, _summary(record["cases"][-1]))
    show(table(record["cases"]))
    log.info("Numbers: %s", run_dir / "benchmark.md")
    if failed := [row["name"] for row in record["cases"] if row["status"].startswith("failed")]:
        raise BenchmarkError(f"Expected every case to run, got failures in {', '.join(failed)}: see {run_dir}/run.log.")
    return record


def _device(name: str) -> torch.device:
    require("device", [name], ("auto", "cuda", "cpu"))
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("Expected a GPU that PyTorch can use with device=cuda, got none: use device=cpu.")
    return torch.device("cuda", torch.cuda.current_device()) if name == "cuda" else torch.device("cpu")


def chosen_parts(what: str | ListConfig) -> list[str]:
    """Return the parts that ``what`` names; all of them for ``all``."""
    return list(PARTS) if what == "all" else [what] if isinstance(what, str) else list(what)


def chosen_cases(cfg: DictConfig, parts: list[str], device: torch.device) -> list[Case]:
    """Return the chosen cases in order.

    Raises:
        ConfigError: an unknown choice, a CUDA graph without a GPU, or no case of that name.
    """
    settings, networks = cfg[device.type], compose.plain(cfg.networks)
    cases: list[Case] = []
    if "ops" in parts:
        cases += operator_cases(settings.ops, cfg.backend)
    if "blocks" in parts:
        cases += block_cases(settings.blocks, networks, cfg.backend)
    if "model" in parts:
        cases += network_cases(settings.model, networks, cfg.backend)
    chosen = [case for case in cases if cfg.only is None or re.search(cfg.only, case.name)]
    if not chosen and parts and set(parts) & set(CASES):
        names = ", ".join(case.name for case in cases)
        raise ConfigError(f"Expected only to be found in the name of a case, got {cfg.only}: the cases are {names}.")
    if device.type == "cpu" and any(case.cuda_graph for case in chosen):
        raise ConfigError("Expected a GPU for cuda_graph=[true], got device=cpu: leave it at [false].")
    return chosen


def measured(case: Case, device: torch.device, rates: Device, seconds: float, min_repeats: int) -> dict[str, Any]:
    """Return a case's record: its settings, and its numbers or why there are none."""
    record: dict[str, Any] = {
        "name": case.name,
        "release_name": case.release_name,
        "group": case.group,
        "precision": case.precision,
        "batch_size": case.batch_size,
        "backend": case.backend,
    }
    work = case.work()
    record["roofline"] = roofline(work, rates, case.precision, case.backward, case.optimizer)._asdict()
    record["forward_work"] = {name: work.total(name) for name in ("flops", "updates", "inputs", "outputs", "weights")}
    try:
        with tf32(case.precision == "tf32"), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "You are trying to `self.log", category=UserWarning)  # no trainer here
            timing = measure(case.prepare(device), device, seconds, min_repeats, case.captured_whole)
    except torch.OutOfMemoryError:
        record["status"] = "out of memory"
    except Exception as error:  # the other cases are worth measuring; the run fails at its end
        log.exception("%s failed", case.name)
        record["status"] = f"failed: {type(error).__name__}"
    else:
        record |= {"status": "measured", **timing._asdict()}
        record["fraction_of_roofline"] = record["roofline"]["total_ms"] / timing.median_ms
        if case.group == "model":
            record["images_per_second"] = 1e3 * case.batch_size / timing.median_ms
    torch.compiler.reset()  # compiled code holds the network
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return record


def _summary(row: Mapping[str, Any]) -> str:
    return f"{row['median_ms']:.4g} ms" if row["status"] == "measured" else row["status"]


def _write(run_dir: Path, record: Mapping[str, Any]) -> None:
    write_json(run_dir / "benchmark.json", record)
    write_text(run_dir / "benchmark.md", markdown(record))
