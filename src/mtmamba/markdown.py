"""Tables in Markdown."""

from collections.abc import Iterable, Iterator, Sequence


def table_lines(head: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: bool = False) -> Iterator[str]:
    """Yield the lines of a table.

    Args:
        head: the columns' names.
        rows: each with a cell for every column.
        numbers: whether all columns but the first stand to the right.

    >>> list(table_lines(["", "m"], [["a", "2"]], numbers=True))
    ['|  | m |', '| --- | ---: |', '| a | 2 |']
    """
    rule = ["---", *["---:" if numbers else "---"] * (len(head) - 1)]
    yield from (f"| {' | '.join(row)} |" for row in (head, rule, *rows))
