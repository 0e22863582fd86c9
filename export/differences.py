"""How far apart outputs are."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbn.export.evaluator import widen
from fastbn.export.ways import Outputs


class Errors:
    """Worst errors of a group of samples."""

    def __init__(self) -> None:
        self.size = 0.0
        self.original = 0.0
        self.folded = 0.0
        self.between = 0.0
        self.squares: list[float] = []
        self.argmax: list[float] = []
        self.pattern = ""
        self.ran_nothing = False

    def rms(self) -> float:
        """Root mean square of the difference in onnxruntime, of the worst sample."""
        return max(self.squares, default=0.0)

    def add(self, first: dict[str, Outputs], second: dict[str, Outputs], *, alone: bool) -> None:
        """Take in one sample: outputs of both models by every way of running them."""
        truth = first.get("f64") or first["lowest"]
        levels: list[str] = [name for name in ("lowest", "highest") if name in second]
        self.ran_nothing |= "lowest" not in first
        for index, target in enumerate(truth):
            y64 = widen(np.asarray(target))
            self.size = max(self.size, _largest(y64))
            for name in ("lowest", "highest"):
                if name in first:
                    self.original = max(self.original, _distance(first[name][index], y64))
            for name in levels or ["f64"]:
                y = second[name][index]
                if np.shape(y) != y64.shape:
                    self.pattern = f"output {index} has shape {np.shape(y)}, not {y64.shape}"
                    self.folded = float("inf")
                    return
                self.folded = max(self.folded, _distance(y, y64))
                other = "lowest" if alone else name
                if other in first and name in second:
                    reference = widen(np.asarray(first[other][index]))
                    self.between = max(self.between, _distance(y, reference))
                    self.squares.append(_rms(y, reference))
            best = second[levels[-1]][index] if levels else second["f64"][index]
            # (N, classes, 1, 1) counts as (N, classes).
            classes = next((d for d in reversed(y64.shape) if d > 1), 1)
            if y64.dtype.kind == "f" and classes > 1 and y64.size:
                rows = [v.reshape(-1, classes).argmax(axis=-1) for v in (y64, widen(best))]
                self.argmax.append(float(np.mean(rows[0] == rows[1])))


def _largest(y: NDArray[Any]) -> float:
    if y.dtype.kind not in "fiu" or not y.size:
        return 0.0
    finite = np.abs(y[np.isfinite(y)])
    return float(finite.max(initial=0.0))


def _distance(y: NDArray[Any], y64: NDArray[Any]) -> float:
    """Largest difference; where the truth is not finite, y has to be the same or not finite.

    A finite truth and a result that is not finite are infinitely far apart. Anything that is not
    a number (strings, booleans) is equal or infinitely far apart.
    """
    y = widen(np.asarray(y))
    if y64.dtype.kind not in "fiu":
        return 0.0 if np.array_equal(y, y64) else float("inf")
    if not y64.size:
        return 0.0
    with np.errstate(all="ignore"):
        difference = np.abs(y.astype(np.float64) - y64)
    known = np.isfinite(y64)
    if not np.isfinite(y[known]).all():
        return float("inf")
    return float(difference[known].max(initial=0.0))


def _rms(y: NDArray[Any], reference: NDArray[Any]) -> float:
    if reference.dtype.kind not in "fiu" or not reference.size:
        return 0.0
    with np.errstate(all="ignore"):
        difference = widen(np.asarray(y)).astype(np.float64) - reference
    finite = difference[np.isfinite(difference)]
    return float(np.sqrt(np.mean(finite * finite))) if finite.size else 0.0
