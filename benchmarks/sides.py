"""Calls of the library and of its peers, timed in turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import fastbn
from fastbn.bench.digest import Digest, check
from fastbn.bench.peers.client import Worker
from fastbn.bench.rows import Row
from fastbn.bench.timing import Call, Local, Turn, in_turns, medians

Times = dict[str, float]
Alone = dict[str, list[float]]


def time_sides(
    prepare: Callable[[], tuple[Mapping[str, Call], Callable[[], Mapping[str, Digest]]]],
    workers: Mapping[str, Worker],
    case: Mapping[str, Any],
    *,
    dtype: str,
    threads: int,
    rounds: int,
    seconds: float,
    alone: Alone | None = None,
) -> tuple[Times, dict[str, Times]]:
    """Time calls in turns with the peers, after their results were compared.

    Parameters
    ----------
    prepare : callable
        Returns this library's calls, and what gives the digests of their results; it runs with the
        team that is measured.
    workers : mapping
        Name of a peer to its process.
    case : mapping
        What the processes are told to open.
    dtype : str
        How exactly digests should agree.
    threads : int
        The size of the team, here and in the workers.
    rounds : int
        Turns that every side takes; medians over them are what counts.
    seconds : float
        A sample's least length.
    alone : dict, optional
        Let the peers be measured alone as well, and append here, by peer, their times alone over
        their times in turns: 1 where the sides do not disturb each other.

    Returns
    -------
    own : dict
        Seconds by call.
    peers : dict
        The same for each peer; its calls are named ``operation:variant``.

    Raises
    ------
    PeerError, ValueError
        If a peer could not do it, or computes something else.
    """
    before = fastbn.get_num_threads()
    fastbn.set_num_threads(threads)
    try:
        calls, digests = prepare()
        sides: dict[str, Turn] = {}
        expected = digests() if workers else {}
        for peer, worker in workers.items():
            found = worker.ask("open", seconds=seconds, **case)
            check(worker.title, expected, found["digests"], dtype)
            sides[peer] = worker.turn
        local = Local(calls, seconds)
        turns = in_turns({"": local.turn, **sides}, rounds, settle=threads > 1)
        by_itself = {
            peer: in_turns({peer: turn}, rounds, settle=True)[peer]
            for peer, turn in (sides if alone is not None else {}).items()
        }
    finally:
        fastbn.set_num_threads(before)
    times = {side: medians(taken) for side, taken in turns.items()}
    for peer, taken in by_itself.items():
        assert alone is not None
        ratios = [time / times[peer][name] for name, time in medians(taken).items()]
        alone.setdefault(peer, []).extend(ratios)
    return times.pop(""), times


def set_ratios(row: Row, seconds: float, peers: Mapping[str, Mapping[str, float]]) -> None:
    """Tell a row how many times faster it was than each peer's best variant, if there is one."""
    for peer, times in peers.items():
        variants = [time for name, time in times.items() if name.partition(":")[0] == row.op]
        if variants:
            setattr(row, f"x_{peer}", min(variants) / seconds)
