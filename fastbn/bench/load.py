"""What else the machine does."""

from __future__ import annotations

import os
import time
from pathlib import Path

STATISTICS = Path("/proc/stat")


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
