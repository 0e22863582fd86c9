"""What else the machine does, and whether it took cores away from this process."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

Measured = TypeVar("Measured")

TRIES = 5
ALLOWED = 0.02  # share of a measurement that may have been waited for a core

STATISTICS = Path("/proc/stat")
TASKS = Path("/proc/self/task")


def busy_cores(seconds: float = 0.5) -> float | None:
    """Tell how many cores were busy while this process slept; None where that is not known."""
    if not STATISTICS.is_file():
        return None
    idle = _idle_seconds()
    start = time.perf_counter()
    time.sleep(seconds)
    elapsed = time.perf_counter() - start
    return max(0.0, (os.cpu_count() or 1) - (_idle_seconds() - idle) / elapsed)


def _idle_seconds() -> float:
    """Seconds that all cores have been idle or waited for a disk."""
    fields = STATISTICS.read_text("ascii").splitlines()[0].split()
    ticks: int = os.sysconf("SC_CLK_TCK")
    return (int(fields[4]) + int(fields[5])) / ticks


def waited_seconds() -> float:
    """Seconds that threads of this process could have run and had no core; 0 if not known."""
    total = 0
    for task in TASKS.glob("*/schedstat"):
        with suppress(OSError, ValueError, IndexError):  # a thread that ended, an old kernel
            total += int(task.read_text("ascii").split()[1])
    return total / 1e9


def undisturbed(measure: Callable[[], Measured], seconds: Callable[[Measured], float]) -> Measured:
    """Measure again, up to some times, where other programs took cores away meanwhile.

    Parameters
    ----------
    measure : callable
        What is repeated.
    seconds : callable
        How long the measurement took, from what `measure` returned.

    Returns
    -------
    What `measure` returned when it had to wait least.
    """
    best: tuple[float, Measured] | None = None
    for _ in range(TRIES):
        before = waited_seconds()
        result = measure()
        waited = waited_seconds() - before
        if best is None or waited < best[0]:
            best = waited, result
        if waited <= ALLOWED * seconds(result):
            break
    assert best is not None
    return best[1]
