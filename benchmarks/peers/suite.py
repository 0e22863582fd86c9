"""What a peer's process does: the parts that all peers share."""

from __future__ import annotations

import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastbn.bench.load import undisturbed
from fastbn.bench.timing import Call, Local, no_collection

WARM_STEPS = 2

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Kernels(ABC):
    """Calls on a tensor, by name ``operation:variant``."""

    def __init__(self) -> None:
        self._local: Local | None = None

    @abstractmethod
    def calls(self, **case: Any) -> dict[str, Call]:
        """Return what is timed, by name."""

    @abstractmethod
    def summary(self, result: Any) -> Any:
        """Sum up what a call returned, in a way that does not depend on the layout."""

    def open(self, seconds: float, **case: Any) -> dict[str, Any]:
        """Make the calls of a case; return digests of what they return."""
        self._local = None  # frees the arrays of the case before
        calls = self.calls(**case)
        digests = {name: self.summary(call()) for name, call in calls.items()}
        self._local = Local(calls, seconds)
        return {"digests": digests}

    def turn(self, backwards: bool) -> dict[str, Any]:
        """Take one sample of every call."""
        assert self._local is not None
        return {"times": self._local.turn(backwards)}


class Training(ABC):
    """Steps of training one network, always from the same weights.

    A subclass imports its library and then calls ``super().__init__()``: memory is counted from
    there.
    """

    def __init__(self) -> None:
        self._base = memory("VmRSS")
        self._step: Callable[[int], float] | None = None
        self._reset: Call | None = None

    @abstractmethod
    def prepare(
        self, network: str, batch: int, variant: str
    ) -> tuple[Call, Callable[[int], float]]:
        """Return what puts everything back to the beginning, and step i, which returns its loss."""

    def open(self, network: str, batch: int, variant: str) -> dict[str, Any]:
        """Make the network, and do some steps, so that compilers and pools have done their part."""
        self._reset = self._step = None
        self._reset, self._step = self.prepare(network, batch, variant)
        self.turn(2)
        if CLEAR.is_file():
            CLEAR.write_text("5", "ascii")  # the peak begins anew here
        return {}

    def turn(self, steps: int) -> dict[str, Any]:
        """Time some steps from the beginning; return their losses and page faults as well."""
        return undisturbed(
            lambda: self._turn(steps), lambda reply: float(reply["times"]["step"] * steps)
        )

    def _turn(self, steps: int) -> dict[str, Any]:
        assert self._reset is not None
        assert self._step is not None
        self._reset()
        step = self._step
        losses = [step(i) for i in range(WARM_STEPS)]
        with no_collection():
            faults = minor_faults()
            start = time.perf_counter()
            for i in range(WARM_STEPS, WARM_STEPS + steps):
                losses.append(step(i))
            elapsed = time.perf_counter() - start
            faults = minor_faults() - faults
        return {"times": {"step": elapsed / steps, "faults": faults / steps}, "losses": losses}

    def peak(self) -> dict[str, Any]:
        """Return the most memory that training took, above what the import took, in MB."""
        if self._base is None:
            return {"peak_mb": None}
        return {"peak_mb": ((memory("VmHWM") or 0) - self._base) / 1e6}


def memory(field: str) -> int | None:
    """Bytes of a field of this process's status; None where the system does not tell."""
    if not STATUS.is_file():
        return None
    for line in STATUS.read_text("ascii").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return None


def minor_faults() -> int:
    """Page faults of this process that needed no disk; 0 where the system does not tell."""
    if sys.platform == "win32":
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
