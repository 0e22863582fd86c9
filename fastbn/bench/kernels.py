"""Batch normalisation against the machine's limits and against the peers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import fastbn
from fastbn.bench.cases import DTYPES, LAYOUTS, TRAFFIC, YARDSTICKS, Case, Ours
from fastbn.bench.rows import Row
from fastbn.bench.shapes import Shape
from fastbn.bench.timing import ROUNDS, SAMPLE_SECONDS, Local, medians


def cases(shapes: Sequence[Shape], layouts: Sequence[str], dtypes: Sequence[str]) -> list[Case]:
    """Every tensor that is asked for.

    Raises
    ------
    ValueError
        If a layout or a dtype is unknown, or no shape has any of the layouts.
    """
    for what, wanted, known in (("layouts", layouts, LAYOUTS), ("dtypes", dtypes, DTYPES)):
        for name in wanted:
            if name not in known:
                raise ValueError(f"{what}: {name!r} is not one of {', '.join(known)}")
    found = [
        Case(shape, layout, dtype)
        for dtype in dtypes
        for layout in layouts
        for shape in shapes
        if shape.layouts((layout,))
    ]
    if not found:
        raise ValueError(f"layouts: none of the shapes has the layout {' or '.join(layouts)}")
    return found


def measure(
    case: Case,
    ops: Sequence[str],
    threads: int,
    *,
    rounds: int = ROUNDS,
    seconds: float = SAMPLE_SECONDS,
) -> list[Row]:
    """Time operations on a tensor, in turns with copy and triad.

    Parameters
    ----------
    case : Case
        The tensor.
    ops : sequence of str
        Names out of `cases.TRAFFIC`.
    threads : int
        The size of the team, here and in the peers.
    rounds : int
        Turns that every side takes; medians over them are what counts.
    seconds : float
        A sample's least length.

    Returns
    -------
    list of Row
        One for each operation, and one each for copy and triad.
    """
    before = fastbn.get_num_threads()
    fastbn.set_num_threads(threads)
    try:
        ours = Local(Ours(case, tuple(ops)).calls, seconds)
        times = medians([ours.turn(backwards=bool(turn % 2)) for turn in range(rounds)])
    finally:
        fastbn.set_num_threads(before)
    for name in YARDSTICKS:
        times[name] = min(times[name], times.pop(f"{name} stream"))
    return [_row(case, name, threads, times) for name in times]


def _row(case: Case, op: str, threads: int, times: dict[str, float]) -> Row:
    moved = case.nbytes * (TRAFFIC | YARDSTICKS)[op]
    return Row(
        name=case.shape.name,
        shape=case.array_shape,
        layout=case.layout,
        op=op,
        dtype=case.dtype,
        threads=threads,
        us=times[op] * 1e6,
        gbps=moved / times[op] / 1e9,
        x_copy=times[op] / times["copy"],
        x_triad=times[op] / times["triad"],
    )


def run(
    wanted: Sequence[Case],
    ops: Sequence[str],
    threads: Sequence[int],
    *,
    rounds: int = ROUNDS,
    seconds: float = SAMPLE_SECONDS,
    progress: Callable[[str], None] | None = None,
) -> list[Row]:
    """Measure all operations on all tensors with all numbers of threads; see `measure`.

    Raises
    ------
    ValueError
        If an operation is unknown.
    """
    for op in ops:
        if op not in TRAFFIC:
            raise ValueError(f"ops: {op!r} is not one of {', '.join(TRAFFIC)}")
    rows = []
    for number in threads:
        for case in wanted:
            if progress is not None:
                progress(f"{case.shape.name} {case.layout} {case.dtype}, {number} threads")
            rows += measure(case, ops, number, rounds=rounds, seconds=seconds)
    return rows
