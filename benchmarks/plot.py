"""A roofline: bandwidth over the size of the tensor, below the machine's own limit."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from math import prod

from fastbn.bench.cases import dtype_of
from fastbn.bench.rows import Row
from fastbn.train.plot import save

SHOWN = {"inference": "tab:green", "forward": "tab:blue", "backward": "tab:orange"}
MARKERS = {"nchw": "o", "nhwc": "s", "nc": "^"}
LIMITS = {"copy": "-", "triad": "--"}


def megabytes(row: Row) -> float:
    """Size of a row's tensor."""
    return prod(row.shape) * dtype_of(row.dtype).itemsize / 1e6


def curve(rows: Iterable[Row]) -> tuple[list[float], list[float]]:
    """Sizes of the tensors in MB, rising, and the mean GB/s at each."""
    found: dict[float, list[float]] = defaultdict(list)
    for row in rows:
        if row.gbps is not None:
            found[megabytes(row)].append(row.gbps)
    sizes = sorted(found)
    return sizes, [sum(found[size]) / len(found[size]) for size in sizes]


def roofline(rows: Sequence[Row], path: str | os.PathLike[str], title: str = "") -> None:
    """Draw rows of the kernels, one panel for each number of threads.

    Parameters
    ----------
    rows : sequence of Row
        What `fastbn.bench.kernels.run` returned. Its rows of copy and triad are the limits.
    path : path
        The picture; its suffix tells the format.
    title : str
        Stands above the panels.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    ValueError
        If there are no rows, or the suffix is of no known format.
    """
    if not rows:
        raise ValueError("there is nothing to draw: no rows")
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('Pictures need matplotlib: pip install "fastbn[plot]"') from error

    threads = sorted({row.threads for row in rows})
    figure = Figure(figsize=(1.5 + 5 * len(threads), 4.2), layout="constrained")
    panels = figure.subplots(1, len(threads), sharey=True, squeeze=False)[0]
    for axes, number in zip(panels, threads, strict=True):
        own = [row for row in rows if row.threads == number]
        for op, style in LIMITS.items():
            axes.plot(*curve(row for row in own if row.op == op), style, color="black", label=op)
        for op, color in SHOWN.items():
            for layout, marker in MARKERS.items():
                group = [row for row in own if (row.op, row.layout) == (op, layout)]
                if group:
                    sizes, speeds = [megabytes(row) for row in group], [row.gbps for row in group]
                    label = f"{op}, {layout.upper()}"
                    axes.plot(sizes, speeds, marker, color=color, alpha=0.8, label=label)
        axes.set(title=f"threads: {number}", xlabel="tensor (MB)", xscale="log")
        axes.grid(alpha=0.3)
    panels[0].set_ylim(bottom=0)  # of all: they share it
    panels[0].set_ylabel("GB/s that have to move at the least")
    panels[-1].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize="small")
    figure.suptitle(title)
    save(figure, path)
