"""What kernels and convolutions should reach, and what they did: mean and worst of each group."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from math import exp, inf, log
from typing import Any

from fastbn.bench.cases import NORMS
from fastbn.bench.rows import Row


@dataclass(frozen=True)
class Target:
    """Limits of a figure over a group of rows.

    `figure` is a field of `Row`. The geometric mean over the group should be at most `mean` and
    every single one at most `worst`; at least, where `more` is better.
    """

    label: str
    ops: tuple[str, ...]
    layouts: tuple[str, ...]
    figure: str
    mean: float
    worst: float | None = None
    more: bool = False
    smallest: int = 0  # rows of smaller tensors (in elements) are left out
    prefix: str = ""  # rows with other names are left out
    fewest: int = 1  # rows of fewer channels (of the input) are left out

    def covers(self, row: Row) -> bool:
        """Tell whether a row belongs to the group."""
        size = 1
        for n in row.shape:
            size *= n
        return (
            row.op in self.ops
            and row.layout in self.layouts
            and row.dtype == "float32"
            and row.name.startswith(self.prefix)
            and size >= self.smallest
            and row.shape[-1 if row.layout != "nchw" else 1] >= self.fewest
        )

    def misses_worst(self, value: float) -> bool:
        """Tell whether a single figure is beyond the limit for the worst."""
        if self.worst is None:
            return False
        return value < self.worst if self.more else value > self.worst


IMAGES = ("nchw", "nhwc")
EVERY = (*IMAGES, "nc")
LARGE = 100_000  # a serial call of a few microseconds is not a matter of bandwidth


def _halves(norm: str) -> tuple[str, str]:
    return f"{norm}_forward", f"{norm}_backward"


TARGETS = (
    Target("NCHW forward", ("forward",), ("nchw",), "x_copy", 1.10, 1.5),
    Target("NHWC forward", ("forward",), ("nhwc",), "x_copy", 1.5, 2.0),
    Target("(N, C) forward", ("forward",), ("nc",), "x_copy", 1.5, smallest=LARGE),
    Target("inference", ("inference",), EVERY, "x_copy", 1.05, smallest=LARGE),
    Target("NCHW backward", ("backward",), ("nchw",), "x_triad", 1.15, 1.6),
    Target("NHWC, (N, C) backward", ("backward",), ("nhwc", "nc"), "x_triad", 1.7, smallest=LARGE),
    Target("NCHW forward + residual", ("forward_residual",), ("nchw",), "x_copy", 1.6),
    Target("NCHW backward + residual", ("backward_residual",), ("nchw",), "x_triad", 1.5),
    Target("step, against PyTorch", ("step",), EVERY, "x_torch", 4.0, 1.0, more=True),
    Target("step, against TensorFlow", ("step",), ("nhwc", "nc"), "x_tensorflow", 1.3, more=True),
    Target("step, against JAX", ("step",), EVERY, "x_jax", 1.3, more=True),
    Target("LayerNorm step", ("layer_norm_step",), EVERY, "x_torch", 1.3, 0.9, more=True),
    *(
        Target(
            f"{label} step, {layout}", (f"{op}_step",), (layout,), "x_torch", mean, 0.9, more=True
        )
        for op, label, layout, mean in (
            ("group_norm", "GroupNorm", "nchw", 1.3),
            ("group_norm", "GroupNorm", "nhwc", 2.0),
            ("instance_norm", "InstanceNorm", "nchw", 4.0),
            ("instance_norm", "InstanceNorm", "nhwc", 4.0),
        )
    ),
    *(Target(f"{norm}, bare passes", _halves(norm), EVERY, "x_bare", 1.5) for norm in NORMS),
)
THREES: dict[str, Any] = {"layouts": ("nhwc",), "prefix": "3x3 "}
CONV_TARGETS = tuple(
    target
    for kind, group in (("3×3", THREES), ("3×3 of 32 channels and more", {**THREES, "fewest": 32}))
    for target in (
        *(
            Target(f"{kind} {op}", (op,), figure="x_torch", mean=1.0, worst=0.8, more=True, **group)
            for op in ("forward", "dx", "dweight")
        ),
        Target(f"{kind} → BN → ReLU", ("block",), figure="x_conv", mean=1.15, **group),
    )
)


@dataclass(frozen=True)
class Result:
    """What a group of rows reached; `bare` is the mean that passes over memory alone came to."""

    label: str
    threads: str
    count: int
    mean: float
    worst: float
    worst_name: str
    wanted: str
    reached: bool
    bare: float | None = None


def geometric_mean(values: Iterable[float]) -> float:
    """Return the geometric mean of numbers that are not negative.

    Examples
    --------
    >>> round(geometric_mean([1.0, 4.0]), 9)
    2.0
    """
    logs = [log(value) if value else -inf for value in values]
    return exp(sum(logs) / len(logs))


def judge(rows: Sequence[Row]) -> list[Result]:
    """Hold rows of kernels against all targets that they have figures for."""
    return held_against(TARGETS, rows) + _compared(rows)


def held_against(targets: Sequence[Target], rows: Sequence[Row]) -> list[Result]:
    """Hold rows against those targets that they have figures for, for each number of threads."""
    results = []
    for threads in sorted({row.threads for row in rows}):
        for target in targets:
            group = [
                (row, value)
                for row in rows
                if row.threads == threads
                and target.covers(row)
                and (value := getattr(row, target.figure)) is not None
            ]
            if group:
                label = f"{target.label}, × {target.figure.removeprefix('x_')}"
                bare = [value / row.x_bare for row, value in group if row.x_bare]
                result = judged(target, label, str(threads), group)
                if target.figure in {"x_copy", "x_triad"} and len(bare) == len(group):
                    result = replace(result, bare=geometric_mean(bare))
                results.append(result)
    return results


def judged(target: Target, label: str, threads: str, group: Sequence[tuple[Row, float]]) -> Result:
    """Hold the figures of a group of rows against a target."""
    sign = -1 if target.more else 1
    worst_row, worst = max(group, key=lambda item: sign * item[1])
    mean = geometric_mean(value for _, value in group)
    limit = "≥" if target.more else "≤"
    wanted = f"{limit} {target.mean:g}"
    if target.worst is not None:
        wanted += f", worst {limit} {target.worst:g}"
    return Result(
        label=label,
        threads=threads,
        count=len(group),
        mean=mean,
        worst=worst,
        worst_name=f"{worst_row.name} {worst_row.layout}",
        wanted=wanted,
        reached=sign * mean <= sign * target.mean and not target.misses_worst(worst),
    )


Key = tuple[str, str | None, str, str, int]  # name, layout, op, dtype, threads


def _compared(rows: Sequence[Row]) -> list[Result]:
    """Targets that hold one row against another: threads, dtypes, and a small call's time."""
    found = {(row.name, row.layout, row.op, row.dtype, row.threads): row for row in rows}
    results = []

    def add(
        label: str, threads: str, group: list[tuple[Row, float]], mean: float, more: bool
    ) -> None:
        if group:
            target = Target(label, (), (), "", mean, more=more)
            results.append(judged(target, label, threads, group))

    def pairs(change: Callable[[Row], Key]) -> list[tuple[Row, Row]]:
        return [
            (row, other)
            for row in rows
            if row.op in {"forward", "inference", "backward"} and (other := found.get(change(row)))
        ]

    for threads in sorted({row.threads for row in rows}):
        group = [
            (row, row.us / other.us)
            for row, other in pairs(lambda r: (r.name, r.layout, r.op, "float32", r.threads))
            if row.dtype == "bfloat16" and row.threads == threads and _bytes(other) > 20e6
        ]
        add("bfloat16 over float32, > 20 MB", str(threads), group, 0.65, more=False)
        tiny = [(row, row.us) for row in rows if row.threads == threads and _is_tiny(row)]
        add("(64, 128) forward, µs", str(threads), tiny, 4.0, more=False)
    group = [
        (row, other.us / row.us)
        for row, other in pairs(lambda r: (r.name, r.layout, r.op, r.dtype, 1))
        if row.threads == 2 and row.dtype == "float32" and 1e6 <= _bytes(row) <= 3.3e6
    ]
    add("2 threads over 1, 1–3 MB", "2", group, 1.8, more=True)
    return results


def _is_tiny(row: Row) -> bool:
    return (row.op, row.shape, row.dtype) == ("forward", (64, 128), "float32")


def _bytes(row: Row) -> float:
    size = 4.0
    for n in row.shape:
        size *= n
    return size


def peer_ratios(row: Row) -> tuple[float | None, ...]:
    """How many times faster than each peer this was; None where a peer was not measured."""
    return (row.x_torch, row.x_tensorflow, row.x_jax)


def loses(row: Row) -> bool:
    """Tell whether a row is slower than a peer, or beyond a limit for single shapes."""
    if min((x for x in peer_ratios(row) if x is not None), default=inf) < 1.0:
        return True
    return any(
        target.covers(row)
        and (value := getattr(row, target.figure)) is not None
        and target.misses_worst(value)
        for target in TARGETS
    )
