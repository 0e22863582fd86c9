"""What folding achieves, next to the other tools: ``fastbn bench fold``.

Every pattern and every light model goes through every tool. Counted is what is left; measured are
the error against the float64 truth of the original and the time in onnxruntime, at its highest
level, before and after, alternately.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import onnx
import onnx_ir as ir

from fastbn.bench.folders import PEERS, installed, silence
from fastbn.bench.light import LIGHT, light_model
from fastbn.bench.patterns import PATTERNS
from fastbn.export.errors import one_line
from fastbn.export.fold.attempts import SLACK
from fastbn.export.fold.cleanup import graphs_of
from fastbn.export.fold.constants import Constants
from fastbn.export.fold.context import Context
from fastbn.export.fold.counting import count_affine
from fastbn.export.report import Report
from fastbn.export.runtime import Session
from fastbn.export.samples import input_specs, random_sample, same_sizes
from fastbn.export.truth import Truth
from fastbn.export.ways import Memory
from fastbn.files import atomic

# What the patterns go through.
TOOLS = (
    "fastbn",
    "onnxruntime-basic",
    "onnxruntime-all",
    "onnxsim",
    "onnxslim",
    "onnxoptimizer",
    "onnxscript",
)
# A model may not become slower by more than this.
SLOWER = 1.02


@dataclass(slots=True)
class FoldRow(Report):
    """One tool on one model.

    Attributes
    ----------
    name, tool : str
    best : int or None
        Smallest possible ``bn_left + affine_left``; None for the light models.
    bn_before, bn_left : int or None
        None where the tool failed, as all that follow.
    affine_left : int or None
        Multiplications and additions per channel that were not in the input.
    nodes_before, nodes_left : int or None
    max_abs_f64, max_rel_f64 : float or None
        Against the float64 truth of the original, in onnxruntime.
    wrong : bool or None
        Whether that is beyond the tolerance of a fold; None where the original itself is too far
        from float64 to tell.
    us_before, us_after, ratio : float or None
        Microseconds of the fastest call in onnxruntime.
    failure : str
        Why the tool gave no model.
    """

    name: str
    tool: str
    best: int | None = None
    bn_before: int | None = None
    bn_left: int | None = None
    affine_left: int | None = None
    nodes_before: int | None = None
    nodes_left: int | None = None
    max_abs_f64: float | None = None
    max_rel_f64: float | None = None
    wrong: bool | None = None
    us_before: float | None = None
    us_after: float | None = None
    ratio: float | None = None
    failure: str = ""

    @property
    def left(self) -> int | None:
        """What counts: BatchNorms and affine nodes."""
        if self.bn_left is None or self.affine_left is None:
            return None
        return self.bn_left + self.affine_left


@dataclass(slots=True)
class FoldTable(Report):
    """All rows, and the versions of the tools (None where one is not installed)."""

    versions: dict[str, str | None]
    threads: int
    rows: list[FoldRow] = field(default_factory=list)


def bench_fold(
    *,
    names: Sequence[str] | None = None,
    tools: Sequence[str] | None = None,
    light: bool = True,
    rounds: int = 15,
    threads: int = 1,
    progress: Callable[[str], None] | None = None,
) -> FoldTable:
    """Run every tool on every model.

    Parameters
    ----------
    names : sequence of str, optional
        Patterns and light models to take; all by default.
    tools : sequence of str, optional
        Keys of ``folders.PEERS``; by default those of `TOOLS` that are installed.
    light : bool
        Whether the light models are in.
    rounds : int
        Rounds of timing, original and result in turn; 0 leaves the timing out.
    threads : int
        Of onnxruntime.
    progress : callable, optional
        Called with the name of every model.

    Returns
    -------
    FoldTable
    """
    versions = installed()
    chosen = choose(tools or TOOLS, versions)
    table = FoldTable(versions, threads)
    for name, best, model in _models(names, light):
        if progress is not None:
            progress(name)
        memory: Memory = {}
        for tool in chosen:
            table.rows.append(_row(name, best, model, tool, rounds, threads, memory))
    return table


def choose(tools: Sequence[str], versions: Mapping[str, str | None]) -> list[str]:
    """Return the tools that are installed.

    Raises
    ------
    ValueError
        If there is no such tool.
    """
    unknown = sorted(set(tools) - set(PEERS))
    if unknown:
        raise ValueError(f"unknown tools {unknown}; there are {list(PEERS)}")
    return [tool for tool in tools if versions.get(tool) is not None]


def _models(
    names: Sequence[str] | None, light: bool
) -> Iterable[tuple[str, int | None, onnx.ModelProto]]:
    known = [*PATTERNS, *(LIGHT if light else ())]
    wanted = known if names is None else names
    for name in wanted:
        if name not in (*PATTERNS, *LIGHT):
            raise ValueError(f"unknown pattern {name!r}")
        if name in PATTERNS:
            yield name, PATTERNS[name].best, PATTERNS[name].build()
        else:
            yield name, None, light_model(name)


def _row(
    name: str,
    best: int | None,
    model: onnx.ModelProto,
    tool: str,
    rounds: int,
    threads: int,
    memory: Memory,
) -> FoldRow:
    row = FoldRow(name, tool, best)
    row.bn_before, before_affine, row.nodes_before = counts(model)
    try:
        with silence():
            result = PEERS[tool][1](model)
    except Exception as error:  # whatever another tool raises belongs into its row
        row.failure = one_line(error)
        return row
    row.bn_left, affine, row.nodes_left = counts(result)
    row.affine_left = (affine - before_affine).total()
    judge(row, model, result, memory)
    if rounds and not row.failure:
        row.us_before, row.us_after, row.ratio = time_both(model, result, rounds, threads)
    return row


def judge(row: FoldRow, model: onnx.ModelProto, result: onnx.ModelProto, memory: Memory) -> None:
    """Compare what a tool made with the float64 truth of the original."""
    try:
        truth = Truth(model, seeds=3, memory=memory)
    except Exception as error:  # the runtime and the evaluator raise what they like
        row.failure = f"not compared: {one_line(error)}"
        return
    try:
        found = truth.compare(result)
    except Exception as error:
        row.wrong, row.failure = True, one_line(error)
        return
    # New weights are rounded once more, which `SLACK` allows for where float64 shows no mistake.
    found.settle(SLACK)
    row.max_abs_f64, row.max_rel_f64 = found.max_abs_f64, found.max_rel_f64
    row.wrong = None if found.verdict == "not proven" else not found.agree


def counts(model: onnx.ModelProto, least: int = 1) -> tuple[int, Counter[str], int]:
    """Count BatchNormalizations, affine nodes by operator, and nodes that are not constant.

    ``least`` as of `fastbn.export.fold.counting.count_affine`.
    """
    holder = ir.from_proto(model)
    constants = Constants(holder)
    context = Context(holder, constants, holder.opset_imports.get("", 1))
    nodes = [node for graph in graphs_of(holder) for node in graph]
    norms = sum(node.op_type == "BatchNormalization" for node in nodes)
    living = sum(any(constants.get(value) is None for value in node.outputs) for node in nodes)
    return norms, count_affine(holder, context, least), living


def time_both(
    before: onnx.ModelProto,
    after: onnx.ModelProto,
    rounds: int,
    threads: int = 1,
    free: int = 32,
) -> tuple[float, float, float]:
    """Time two models in onnxruntime in turn, on one sample; ``free`` are all its free sizes.

    Returns
    -------
    before, after : float
        Fastest call, in microseconds.
    ratio : float
        after / before.

    Notes
    -----
    The fastest of many calls is what a call takes when nothing else disturbs it. A pair that looks
    slower than allowed is measured again, up to three times as long: noise passes, a cost stays.
    """
    specs = input_specs(before)
    sample = random_sample(specs, same_sizes(specs, 1, free), 0)
    sessions = [Session(model, "highest", threads=threads) for model in (before, after)]
    for session in sessions:
        session.run(sample)
    start = time.perf_counter()
    sessions[0].run(sample)
    # A round should last long enough to be measured: two milliseconds.
    calls = max(1, int(2e-3 / max(time.perf_counter() - start, 1e-6)))
    best = [float("inf"), float("inf")]
    for _ in range(4):
        for turn in range(rounds):
            # Whoever goes first changes, so that a drift of the clock cancels.
            for which in (0, 1) if turn % 2 else (1, 0):
                for _ in range(calls):
                    start = time.perf_counter()
                    sessions[which].run(sample)
                    best[which] = min(best[which], time.perf_counter() - start)
        if best[1] <= SLOWER * best[0]:
            break
    return best[0] * 1e6, best[1] * 1e6, best[1] / best[0]


def summary(table: FoldTable) -> list[str]:
    """Return the lines of a text table: one row a model, one column a tool, and their sums.

    A cell is ``bn_left+affine_left``; ``!`` marks a wrong result, ``-`` a tool that failed.
    """
    tools = list(dict.fromkeys(row.tool for row in table.rows))
    names = list(dict.fromkeys(row.name for row in table.rows))
    cells = {(row.name, row.tool): row for row in table.rows}
    width = max(map(len, names), default=4)
    lines = [" ".join(["model".ljust(width), "bn", "best", *tools])]
    for name in names:
        first = cells[name, tools[0]]
        parts = [name.ljust(width), str(first.bn_before).rjust(2)]
        parts.append("   ?" if first.best is None else str(first.best).rjust(4))
        for tool in tools:
            row = cells[name, tool]
            text = "-" if row.left is None else f"{row.bn_left}+{row.affine_left}"
            parts.append((text + ("!" if row.wrong else "")).rjust(len(tool)))
        lines.append(" ".join(parts))
    before = sum(cells[name, tools[0]].bn_before or 0 for name in names) if tools else 0
    parts = ["sum".ljust(width), str(before), "    "]
    for tool in tools:
        rows = [row for row in table.rows if row.tool == tool and row.left is not None]
        text = f"{sum(r.bn_left or 0 for r in rows)}+{sum(r.affine_left or 0 for r in rows)}"
        parts.append(text.rjust(len(tool)))
    return [*lines, " ".join(parts)]


def details(table: FoldTable) -> list[str]:
    """Return one line for every model and tool: what is left, how exact and how fast it is."""
    lines = ["model tool bn+affine nodes max|error|/max|f64| us-before us-after ratio"]
    for row in table.rows:
        if row.left is None:
            lines.append(f"{row.name} {row.tool} failed: {row.failure}")
            continue
        error = "-" if row.max_rel_f64 is None else f"{row.max_rel_f64:.1e}"
        time_spent = "- - -"
        if row.us_before is not None:
            time_spent = f"{row.us_before:.0f} {row.us_after:.0f} {row.ratio:.3f}"
        counted = f"{row.bn_left}+{row.affine_left}{'!' if row.wrong else ''}"
        nodes = f"{row.nodes_before}>{row.nodes_left}"
        lines.append(f"{row.name} {row.tool} {counted} {nodes} {error} {time_spent}")
    return lines


def verdict(table: FoldTable) -> list[str]:
    """Return what does not hold of: fewest left in every row, none wrong, none slower."""
    problems = []
    for row in table.rows:
        if row.tool != "fastbn":
            continue
        if is_wrong(row):
            problems.append(f"{row.name}: wrong or failed ({row.failure})")
            continue
        assert row.left is not None
        others = [
            r.left
            for r in table.rows
            if r.name == row.name and r.tool != "fastbn" and r.left is not None and not r.wrong
        ]
        if others and min(others) < row.left:
            problems.append(f"{row.name}: {row.left} left, another tool leaves {min(others)}")
        if row.best is not None and row.left > row.best:
            problems.append(f"{row.name}: {row.left} left, {row.best} are possible")
        if row.ratio is not None and row.ratio > SLOWER:
            problems.append(f"{row.name}: {row.ratio:.2f} times the original's time")
    return problems


def is_wrong(row: FoldRow) -> bool:
    """Whether it is fastbn's, and wrong or refused."""
    return row.tool == "fastbn" and (row.left is None or bool(row.wrong))


def write_table(table: FoldTable, path: str | Path) -> None:
    """Write all rows as JSON."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(table.as_dict(), indent=1) + "\n", encoding="utf-8")
