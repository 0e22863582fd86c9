"""Names and values as a table in the terminal."""

from __future__ import annotations

from collections.abc import Mapping


def show(title: str, values: Mapping[str, object]) -> None:
    """Print names and values as a table of two columns."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in values.items():
        table.add_row(name, readable(value))
    Console().print(table)


def readable(value: object) -> str:
    """Text of a value in a table: four digits of a float, nothing for nothing.

    >>> readable(0.000123456), readable(60000), readable(None), readable(["a", "b"])
    ('0.0001235', '60,000', '-', 'a, b')
    >>> readable({"l1": 32, "l2": None})
    'l1 32, l2 -'
    """
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {readable(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(readable, value)) or "-"
    return str(value)
