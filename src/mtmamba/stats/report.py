"""What the model statistics script shows."""

import torch
from omegaconf import DictConfig
from rich.table import Table

from mtmamba import build, restore
from mtmamba.models.skeleton import skeleton
from mtmamba.paper import SIZED
from mtmamba.runs.environment import hardware
from mtmamba.runs.table import show
from mtmamba.stats.flops import ModelStats, model_stats
from mtmamba.stats.speed import measure_speed
from mtmamba.stats.tables import PEERS, UNPUBLISHED, agrees, comparison, table_of_numbers


def report_tables(choice: str) -> bool:
    """Show the paper's sizes and costs beside ours.

    Args:
        choice: the number of a table that prints them, ``all`` for each of those and other networks of the paper's, or
            ``1`` for our networks of Table 1.

    Returns:
        Whether every figure is the paper's.
    """
    if choice == "1":
        show(comparison("Our networks of Table 1", PEERS))
    tables = {f"Table {n}": rows for n, rows in SIZED.items() if choice in ("all", n)}
    for title, rows in tables.items():
        show(comparison(title, rows))
    if choice == "all":
        show(comparison("Not in the paper", UNPUBLISHED))
    return all(agrees(row) for rows in tables.values() for row in rows)


def report_model(cfg: DictConfig) -> None:
    """Show parameters and FLOPs of the composed model by part and by operator, and its speed where asked for.

    Raises:
        ValueError: another convention, or no image size.
    """
    with skeleton():
        stats = model_stats(build.build_model(cfg), cfg.image_size, cfg.convention)
    title = " ".join(f"{group}={choice}" for group, choice in cfg.choices.items())
    size = "x".join(map(str, cfg.image_size))
    show(_part_table(title, stats))
    show(_operator_table(f"{size}, convention={cfg.convention}", stats))
    if cfg.measure:
        show(_speed_table(cfg))


def _part_table(title: str, stats: ModelStats) -> Table:
    table = table_of_numbers(title, "part", "parameters", "FLOPs", "share")
    flops = stats.part_flops()
    for part, parameters in stats.parameters.items():
        table.add_row(part, f"{parameters:,}", f"{flops[part]:,}", f"{flops[part] / stats.total_flops:.1%}")
    table.add_section()
    table.add_row("all", f"{stats.total_parameters:,}", f"{stats.total_flops:,}")
    return table


def _operator_table(title: str, stats: ModelStats) -> Table:
    table = table_of_numbers(title, "operator", "FLOPs", "share")
    for operator, flops in stats.operator_flops().most_common():
        table.add_row(operator, f"{flops:,}", f"{flops / stats.total_flops:.1%}")
    return table


def _speed_table(cfg: DictConfig) -> Table:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    restore.fetch_nothing(cfg)
    speed = measure_speed(build.build_model(cfg).to(device), cfg.image_size, cfg.batch_size, cfg.repeats)
    table = table_of_numbers(f"Forward pass on {hardware()}, float32", f"batch of {cfg.batch_size}", "")
    table.add_row("latency", f"{1e3 * speed.latency:.4g} ms")
    table.add_row("throughput", f"{speed.throughput:.4g} images/s")
    table.add_row("peak memory", f"{speed.peak_memory / 2**20:,.0f} MiB")
    return table
