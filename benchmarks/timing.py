"""How a call is timed: in samples of some milliseconds, in rounds that every side takes part in."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fastbn.bench.load import undisturbed

if TYPE_CHECKING:
    from collections.abc import Iterator

Call = Callable[[], object]
Turn = Callable[[bool], Mapping[str, float]]  # takes samples, backwards or not: seconds by name

SAMPLE_SECONDS = 2e-3  # a sample is at least as long: clock and loop then cost nothing of it
ROUNDS = 7

# Threads of an OpenMP team look for more work for some milliseconds before they go to sleep: the
# other side has the cores to itself only after that.
SETTLE_SECONDS = 0.03


@contextmanager
def no_collection() -> Iterator[None]:
    """Keep the cyclic garbage collector out of what is timed."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def calls_in(call: Call, seconds: float = SAMPLE_SECONDS) -> int:
    """Return how many calls take at least this long; the first calls, which warm up, not counted.

    Examples
    --------
    >>> calls_in(lambda: time.sleep(0.002), 0.001)
    1
    """
    call()
    calls = 1
    while True:
        start = time.perf_counter()
        for _ in range(calls):
            call()
        elapsed = time.perf_counter() - start
        if elapsed >= seconds:
            return calls
        calls = max(calls + 1, min(10 * calls, int(1.2 * calls * seconds / max(elapsed, 1e-9))))


def sample(call: Call, calls: int) -> float:
    """Seconds of one call, the mean of so many; some calls before them bring arrays and threads in.

    A sample that other programs disturbed is taken anew.

    Examples
    --------
    >>> 0.002 <= sample(lambda: time.sleep(0.002), 2) < 1
    True
    """

    def once() -> float:
        for _ in range(1 + calls // 8):
            call()
        start = time.perf_counter()
        for _ in range(calls):
            call()
        return (time.perf_counter() - start) / calls

    return undisturbed(once, lambda each: each * calls)


class Local:
    """Calls of this process that take turns."""

    def __init__(self, calls: Mapping[str, Call], seconds: float = SAMPLE_SECONDS) -> None:
        self.calls = dict(calls)
        with no_collection():
            self.counts = {name: calls_in(call, seconds) for name, call in self.calls.items()}

    def turn(self, backwards: bool) -> dict[str, float]:
        """Take one sample of every call, in their order or backwards."""
        names = list(self.calls)
        with no_collection():
            return {
                name: sample(self.calls[name], self.counts[name])
                for name in (reversed(names) if backwards else names)
            }


def in_turns(
    sides: Mapping[str, Turn], rounds: int, *, settle: bool
) -> dict[str, list[Mapping[str, float]]]:
    """Let every side take its turn in every round, the order reversed in every other one.

    With `settle`, a side waits until the threads of the one before it are asleep.

    Examples
    --------
    >>> turns = in_turns({"a": lambda backwards: {"f": float(backwards)}}, 3, settle=False)
    >>> turns
    {'a': [{'f': 0.0}, {'f': 1.0}, {'f': 0.0}]}
    """
    taken: dict[str, list[Mapping[str, float]]] = {name: [] for name in sides}
    last = None
    for number in range(rounds):
        backwards = bool(number % 2)
        for name in reversed(list(sides)) if backwards else list(sides):
            if settle and name != last:
                time.sleep(SETTLE_SECONDS)
            taken[name].append(sides[name](backwards))
            last = name
    return taken


def medians(turns: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Median over the rounds of everything that was timed.

    Examples
    --------
    >>> medians([{"copy": 1.0}, {"copy": 9.0}, {"copy": 2.0}])
    {'copy': 2.0}
    """
    return {name: statistics.median(turn[name] for turn in turns) for name in turns[0]}
