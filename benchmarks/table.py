"""Rows and results as tables for a terminal; what loses is red."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fastbn.bench.cases import NORM_OPS, YARDSTICKS
from fastbn.bench.peers import TITLES
from fastbn.bench.rows import Row
from fastbn.bench.targets import Result, geometric_mean, loses, peer_ratios

if TYPE_CHECKING:
    from rich.table import Table

    from fastbn.bench.model import ModelRow
    from fastbn.bench.train import TrainRow

NOISE = 0.97  # of a speed: less is a loss
PEERS = {f"x_{name}": f"× {title}" for name, title in TITLES.items()}


def digits(value: float | None) -> str:
    """Text of a figure with three digits, nothing for None.

    Examples
    --------
    >>> digits(0.98765), digits(12.345), digits(12345.6), digits(None)
    ('0.99', '12.3', '12,346', '')
    """
    if value is None:
        return ""
    return f"{value:,.{2 if value < 10 else 1 if value < 1000 else 0}f}"


def kernels_table(rows: Sequence[Row], machine: dict[str, Any]) -> Table:
    """Table of the rows of ``fastbn bench kernels``; the yardsticks' own rows are left out."""
    from rich.table import Table

    peers = [name for name in PEERS if any(getattr(row, name) is not None for row in rows)]
    of = "norms" if any(row.op in NORM_OPS for row in rows) else "batch_norm + ReLU"
    table = Table(title=f"{of} · {describe(machine)}", title_justify="left")
    for name in ("shape", "layout", "operation", "dtype"):
        table.add_column(name, no_wrap=True)
    numbers = ("threads", "µs", "GB/s", "× copy", "× triad", "× bare")
    for name in (*numbers, *(PEERS[peer] for peer in peers)):
        table.add_column(name, justify="right", no_wrap=True)
    group = None
    for row in rows:
        if row.op in YARDSTICKS:
            continue
        if group not in {None, (row.layout, row.dtype, row.threads)}:
            table.add_section()
        group = (row.layout, row.dtype, row.threads)
        table.add_row(
            row.name,
            row.layout,
            row.op,
            row.dtype,
            str(row.threads),
            *map(digits, (row.us, row.gbps, row.x_copy, row.x_triad, row.x_bare)),
            *(digits(getattr(row, peer)) for peer in peers),
            style="red" if loses(row) else None,
        )
    return table


def results_table(results: Sequence[Result]) -> Table:
    """Table of what was reached; missed targets are red."""
    from rich.table import Table

    table = Table(title="geometric means and worst", title_justify="left")
    table.add_column("group")
    with_bare = any(result.bare is not None for result in results)
    for name in ("threads", "cases", "mean", "worst"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("at", no_wrap=True)
    table.add_column("target", no_wrap=True)
    if with_bare:
        table.add_column("bare", justify="right", no_wrap=True)
    for result in results:
        table.add_row(
            result.label,
            result.threads,
            str(result.count),
            f"{result.mean:.2f}",
            f"{result.worst:.2f}",
            result.worst_name,
            result.wanted,
            *([digits(result.bare)] if with_bare else []),
            style=None if result.reached else "red",
        )
    return table


def alone_line(peer: str, ratios: Sequence[float]) -> str:
    """One line about a peer's times by itself.

    Examples
    --------
    >>> alone_line("torch", [0.5, 2.0])
    'PyTorch alone takes 1.00 times what it takes in turns (0.50 to 2.00, 2 cases)'
    """
    return (
        f"{TITLES[peer]} alone takes {geometric_mean(ratios):.2f} times what it takes in turns "
        f"({min(ratios):.2f} to {max(ratios):.2f}, {len(ratios)} cases)"
    )


def describe(machine: dict[str, Any]) -> str:
    """One line about the machine.

    Examples
    --------
    >>> describe({"isa": "avx2", "threads": [1, 2], "caches": {"l1": 32768, "l2": 1048576}})
    'avx2, threads 1, 2, l1 32 KB, l2 1024 KB'
    """
    caches = (f"{name} {size // 1024} KB" for name, size in machine["caches"].items())
    threads = ", ".join(map(str, machine["threads"]))
    return ", ".join((machine["isa"], f"threads {threads}", *caches))


def conv_table(rows: Sequence[Row], machine: dict[str, Any]) -> Table:
    """Table of the rows of ``fastbn bench conv``, and the means of each operation."""
    from rich.table import Table

    peers = [name for name in PEERS if any(getattr(row, name) is not None for row in rows)]
    table = Table(title=f"conv2d, channels-last · {describe(machine)}", title_justify="left")
    for name in ("convolution", "operation"):
        table.add_column(name, no_wrap=True)
    numbers = ("images", "threads", "µs", "GFLOP/s", "× conv alone")
    for name in (*numbers, *(PEERS[peer] for peer in peers)):
        table.add_column(name, justify="right", no_wrap=True)
    for index, row in enumerate(rows):
        if index and row.name != rows[index - 1].name:
            table.add_section()
        table.add_row(
            row.name,
            row.op,
            str(row.shape[0]),
            str(row.threads),
            *map(digits, (row.us, row.gflops, row.x_conv)),
            *(digits(getattr(row, peer)) for peer in peers),
            style="red" if loses(row) else None,
        )
    figures = ("x_conv", *peers)
    table.add_section()
    for op in dict.fromkeys(row.op for row in rows):
        found = ([getattr(row, figure) for row in rows if row.op == op] for figure in figures)
        ratios = [[ratio for ratio in column if ratio is not None] for column in found]
        if any(ratios):
            means = (geometric_mean(column) if column else None for column in ratios)
            table.add_row("mean", op, "", "", "", "", *map(digits, means), style="bold")
    return table


def train_table(rows: Sequence[TrainRow], peaks: Mapping[int, float], isa: str) -> Table:
    """Table of the rows of ``fastbn bench train``: where another side wins, ours is red."""
    from rich.table import Table

    limits = ", ".join(f"{threads}: {peak:.0f}" for threads, peak in sorted(peaks.items()))
    title = f"training steps · {isa}, peak GFLOP/s by threads {limits}"
    table = Table(title=title, title_justify="left")
    for name in ("network", "side"):
        table.add_column(name, no_wrap=True)
    for name in ("batch", "threads", "ms", "images/s", "GFLOP/s", "of peak", "MB", "faults", "×"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        ours = row.op == "train"
        if ours and row is not rows[0]:
            table.add_section()
        share = row.gflops / peaks[row.threads] if row.gflops and row.threads in peaks else None
        ratio = min((x for x in peer_ratios(row) if x is not None), default=None)
        table.add_row(
            row.name,
            "fastbn" if ours else row.op.removeprefix("train: "),
            str(row.shape[0]),
            str(row.threads),
            digits(row.us / 1e3),
            digits(row.images_per_second),
            digits(row.gflops),
            "" if share is None else f"{share:.0%}",
            digits(row.peak_mb),
            digits(row.minor_faults),
            digits(ratio),
            style=("red" if loses(row) else "bold") if ours else None,
        )
    return table


def model_table(rows: Sequence[ModelRow], machine: dict[str, Any]) -> Table:
    """Table of the rows of ``fastbn bench model``: forms slower than the file as it is are red."""
    from rich.table import Table

    runtime = f"onnxruntime {machine['versions']['onnxruntime']}"
    table = Table(title=f"latency · {runtime}, {describe(machine)}", title_justify="left")
    table.add_column("file", overflow="fold")
    table.add_column("form", no_wrap=True)
    for name in ("input", "threads", "µs", "quartiles", "× as it is", "kB", "BatchNorms", "nodes"):
        table.add_column(name, justify="right", no_wrap=True)
    previous = None
    for row in rows:
        first = previous is None or (previous.name, previous.threads) != (row.name, row.threads)
        if first and previous is not None:
            table.add_section()
        table.add_row(
            row.name if first else "",
            row.op,
            "×".join(map(str, row.shape)),
            str(row.threads),
            digits(row.us),
            f"{digits(row.us_low)} – {digits(row.us_high)}",
            digits(row.x_before),
            digits(row.size / 1e3),
            str(row.batch_norms),
            str(row.nodes),
            style="red" if row.x_before < NOISE else None,
        )
        previous = row
    return table


def profile_table(title: str, operations: Sequence[Mapping[str, Any]]) -> Table:
    """Table of the operations of a training step, forward and backward."""
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    table.add_column("operation")
    for name in ("calls", "ms", "%", "GFLOP/s", "GB/s"):
        table.add_column(name, justify="right", no_wrap=True)
    whole = sum(operation["ms"] for operation in operations)
    for operation in operations:
        table.add_row(
            operation["operation"],
            f"{operation['calls']:g}",
            f"{operation['ms']:.3f}",
            f"{100 * operation['ms'] / whole:.0f}",
            digits(operation["gflops"]),
            digits(operation["gbps"]),
        )
    table.add_row("all", "", f"{whole:.3f}", "100", "", "", style="bold")
    return table
