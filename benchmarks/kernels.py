"""Batch normalisation against the machine's limits and against the peers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from math import inf

from fastbn.bench.cases import DTYPES, LAYOUTS, NORM_OPS, TRAFFIC, YARDSTICKS, Case
from fastbn.bench.digest import Digest
from fastbn.bench.ours import Ours
from fastbn.bench.peers.client import Worker
from fastbn.bench.rows import Row
from fastbn.bench.shapes import Shape
from fastbn.bench.sides import Alone, set_ratios, time_sides
from fastbn.bench.timing import ROUNDS, SAMPLE_SECONDS, Call


def cases(shapes: Sequence[Shape], layouts: Sequence[str], dtypes: Sequence[str]) -> list[Case]:
    """Every tensor that is asked for.

    Raises
    ------
    ValueError
        If a layout or a dtype is unknown, or no shape has any of the layouts.
    """
    for what, wanted, known in (("layouts", layouts, LAYOUTS), ("dtypes", dtypes, DTYPES)):
        if not wanted:
            raise ValueError(f"{what}: none of {', '.join(known)} was asked for")
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
    workers: Mapping[str, Worker] | None = None,
    rounds: int = ROUNDS,
    seconds: float = SAMPLE_SECONDS,
    alone: Alone | None = None,
) -> list[Row]:
    """Time operations on a tensor, in turns with copy and triad and with the peers.

    Parameters
    ----------
    case : Case
        The tensor.
    ops : sequence of str
        Names out of `cases.TRAFFIC`.
    workers : mapping, optional
        Name of a peer to its process of the suite ``"kernels"``.
    threads, rounds, seconds, alone
        See `sides.time_sides`.

    Returns
    -------
    list of Row
        One for each operation, and one each for copy and triad.

    Raises
    ------
    PeerError, ValueError
        If a peer could not do it, or computes something else.
    """

    def prepare() -> tuple[Mapping[str, Call], Callable[[], Mapping[str, Digest]]]:
        ours = Ours(case, tuple(ops))
        return ours.calls, ours.digests

    own, times = time_sides(
        prepare,
        workers or {},
        {
            "shape": case.shape.name,
            "layout": case.layout,
            "dtype": case.dtype,
            "ops": list(ops),
        },
        dtype=case.dtype, threads=threads, rounds=rounds, seconds=seconds, alone=alone,
    )  # fmt: skip
    for name in YARDSTICKS:
        own[name] = min(own[name], own.pop(f"{name} stream"))
    bare: dict[str, float] = {}
    for name in [name for name in own if name.startswith("bare ")]:
        op = name.removeprefix("bare ").partition(",")[0]
        bare[op] = min(own.pop(name), bare.get(op, inf))
    return [_row(case, name, threads, own, bare.get(name), times) for name in own]


def _row(
    case: Case,
    op: str,
    threads: int,
    own: Mapping[str, float],
    bare: float | None,
    peers: Mapping[str, Mapping[str, float]],
) -> Row:
    moved = case.nbytes * (TRAFFIC | YARDSTICKS)[op]
    row = Row(
        name=case.shape.name,
        shape=case.array_shape,
        layout=case.layout,
        op=op,
        dtype=case.dtype,
        threads=threads,
        us=own[op] * 1e6,
        gbps=moved / own[op] / 1e9,
        x_copy=own[op] / own["copy"],
        x_triad=own[op] / own["triad"],
        x_bare=None if bare is None else own[op] / bare,
    )
    set_ratios(row, own[op], peers)
    return row


def run(
    wanted: Sequence[Case],
    ops: Sequence[str],
    threads: Sequence[int],
    *,
    peers: Sequence[str] = (),
    rounds: int = ROUNDS,
    seconds: float = SAMPLE_SECONDS,
    alone: Alone | None = None,
    progress: Callable[[str], None] | None = None,
    into: list[Row] | None = None,
) -> list[Row]:
    """Measure all operations on all tensors with all numbers of threads; see `measure`.

    Rows are added to `into`, if it is given: it keeps them whatever ends the measurement.

    Raises
    ------
    ValueError
        If an operation is unknown.
    """
    for op in ops:
        if op not in TRAFFIC:
            raise ValueError(f"ops: {op!r} is not one of {', '.join(TRAFFIC)}")
        for peer in peers:
            if op in NORM_OPS and peer != "torch":
                raise ValueError(f"ops: {op} is measured beside torch, not beside {peer}")
    rows = [] if into is None else into
    for number in threads:
        with ExitStack() as stack:
            workers = {peer: stack.enter_context(Worker(peer, "kernels", number)) for peer in peers}
            for case in wanted:
                if progress is not None:
                    progress(f"{case.shape.name} {case.layout} {case.dtype}, threads {number}")
                own = [op for op in ops if case.has(op)]
                rows += measure(
                    case, own, number, workers=workers, rounds=rounds, seconds=seconds, alone=alone
                )
    return rows
