"""A benchmark's numbers as tables, for the terminal and as Markdown."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table

from mtmamba.benchmarks.release import CONDITIONS, DEVICE, RELEASE
from mtmamba.markdown import table_lines

COLUMNS = (
    "case",
    "ms",
    "quartiles",
    "images/s",
    "peak GiB",
    "extra GiB",
    "roofline ms",
    "of roofline",
    "release ms",
    "release GiB",
)
Row = Mapping[str, Any]


def table(rows: Sequence[Row]) -> Table:
    """Return the cases as a table for the terminal, without what only the Markdown page has room for."""
    shown = Table()
    chosen = [
        i
        for i, column in enumerate(COLUMNS)
        if column not in ("quartiles", "images/s", "extra GiB", "roofline ms", "release GiB")
    ]
    for i in chosen:
        shown.add_column(COLUMNS[i], justify="right" if i else "left", no_wrap=True)
    for row in rows:
        cells = _cells(row)
        shown.add_row(*(cells[i] for i in chosen))
    return shown


def markdown(record: Mapping[str, Any]) -> str:
    """Return a benchmark's record as a Markdown page.

    Args:
        record: what ``benchmark.json`` holds.
    """
    return "\n".join(_page(record)) + "\n"


def _page(record: Mapping[str, Any]) -> Iterator[str]:
    environment = record["environment"]
    yield "# Benchmark\n"
    yield f"`{' '.join(environment['command'])}`\n"
    yield f"Revision {environment['git']}, torch {environment['packages']['torch']}, {environment['hardware']}.\n"
    if "scan" in record:
        yield "## Selective scan\n"
        yield from _lines(record["scan"][0], [[_text(value) for value in row.values()] for row in record["scan"]])
    for part in ("loader", "predict"):
        if part in record:
            yield f"## {part.capitalize()}\n"
            yield from _lines(("", "value"), [[name, _text(value)] for name, value in record[part].items()])
    if "device" not in record:
        return
    device = record["device"]
    rates = {"copy, GB/s": 1e-9 * device["copy_bytes"], "exponentials, G/s": 1e-9 * device["exponentials"]}
    rates |= {f"products in {name}, TFLOP/s": 1e-12 * flops for name, flops in device["flops"].items()}
    yield f"## {device['name']}\n"
    if device["threads"]:
        yield f"PyTorch's threads: {device['threads']}.\n"
    yield from _lines(("rate", "measured"), [[name, _text(rate)] for name, rate in rates.items()])
    yield f"Rates are {device['method']}.\n"
    yield from _lines(COLUMNS, [_cells(row) for row in record["cases"]])
    yield (
        "Median and quartiles of a call; `backward` is forward and backward together. Peak: all memory held; extra: "
        "beyond what was held before the call. The roofline is the sum over layers of the longest of three times: "
        "products, one exponential for each state update, and inputs, outputs and weights moved once."
    )
    if any(row["release_name"] in RELEASE for row in record["cases"]):
        yield f"Release: the authors' program, {CONDITIONS}."
        if DEVICE not in device["name"]:
            yield "That is another device than this one: do not divide."


def _lines(header: Iterable[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a Markdown table, its numbers to the right."""
    yield from table_lines(list(header), rows, numbers=True)
    yield ""


def _cells(row: Row) -> list[str]:
    measured = row["status"] == "measured"
    release = RELEASE.get(row["release_name"])
    return [
        row["name"],
        _text(row["median_ms"]) if measured else row["status"],
        f"{_text(row['low_ms'])}–{_text(row['high_ms'])}" if measured else "",
        _text(row.get("images_per_second")),
        _gib(row.get("peak_bytes")),
        _gib(row.get("extra_bytes")),
        _text(row["roofline"]["total_ms"]),
        f"{row['fraction_of_roofline']:.1%}" if measured else "",
        _text(release.ms if release else None),
        _text(release.peak_gib if release else None),
    ]


def _text(value: str | float | None) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _gib(value: int | None) -> str:
    return "" if value is None else f"{value / 2**30:.3g}"
