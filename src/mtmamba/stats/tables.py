"""The sizes and costs that the paper prints, beside ours."""

from collections.abc import Iterable
from functools import cache

from rich.table import Table

from mtmamba import build
from mtmamba import paper as published
from mtmamba.config import compose
from mtmamba.models.skeleton import skeleton
from mtmamba.paper import Row
from mtmamba.stats.flops import ModelStats, model_stats

UNPUBLISHED = (
    Row("g = 0 (Table 5)", ["ablation=g0"]),
    Row("g = 1 (Table 5)", ["ablation=g1"]),
    Row("Swin-Tiny (Table 6)", ["encoder=swin_tiny"]),
    Row("Swin-Small (Table 6)", ["encoder=swin_small"]),
    Row("Swin-Base, window 7", ["encoder=swin_base encoder.window=7"]),
    Row("Swin-Base, window 12", ["encoder=swin_base"]),
    Row("MTMamba (PASCAL)", ["data=pascal_context"]),
    Row("MTMamba++ (NYUDv2)", ["decoder=mtmamba_plus"]),
    Row("MTMamba++ (PASCAL)", ["decoder=mtmamba_plus data=pascal_context"]),
)
"""Networks of which the paper gives neither size nor cost."""

PEERS = tuple(
    Row(f"{row.name} ({table.number.removeprefix('1, ')})", row.networks)
    for table in published.TABLES
    if table.number.startswith("1,")
    for row in table.rows
    if row.networks
)
"""Our networks of Table 1, which prints neither."""


def floored(values: Iterable[int], unit: int) -> str:
    """Floor every value to hundredths of ``unit`` and add them up: how the paper rounds.

    >>> floored([1_239_999, 1_239_999], 10**6)
    '2.46'
    """
    hundredths = sum(100 * value // unit for value in values)
    return f"{hundredths // 100}.{hundredths % 100:02}"


@cache
def network_stats(overrides: str) -> ModelStats:
    """Count a network at its dataset's size in the paper's convention.

    Args:
        overrides: as on the command line, over MTMamba with Swin-Large on NYUDv2.
    """
    cfg = compose.load_config(overrides.split(), name="model_stats")
    with skeleton():
        model = build.build_model(cfg)
    return model_stats(model, cfg.image_size)


def table_of_numbers(title: str, *columns: str) -> Table:
    """Return a table without rows whose columns after the first are numbers."""
    table = Table(*columns, title=title)
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def comparison(title: str, rows: Iterable[Row]) -> Table:
    """Return the table of the paper's figures, ours, and our integers, one for each network of a row."""
    table = table_of_numbers(title, "", "paper, M", "ours, M", "parameters", "paper, G", "ours, G", "FLOPs")
    for row in rows:
        stats = [network_stats(network) for network in row.networks]
        parameters, flops = our_figures(row)
        table.add_row(
            row.name,
            row.parameters,
            _marked(parameters, row.parameters),
            "\n".join(f"{s.total_parameters:,}" for s in stats),
            row.flops,
            _marked(flops, row.flops),
            "\n".join(f"{s.total_flops:,}" for s in stats),
        )
    return table


def our_figures(row: Row) -> tuple[str, str]:
    """Return a row's parameters in millions and FLOPs in units of 10^9, rounded as the paper does."""
    stats = [network_stats(network) for network in row.networks]
    return floored((s.total_parameters for s in stats), 10**6), floored((s.total_flops for s in stats), 10**9)


def agrees(row: Row) -> bool:
    """Return whether our figures are those that the paper prints, if any."""
    figures = zip((row.parameters, row.flops), our_figures(row), strict=True)
    return all(theirs in (None, ours) for theirs, ours in figures)


def _marked(ours: str, theirs: str | None) -> str:
    return ours if theirs in (None, ours) else f"{ours} ≠"
