"""How far an output is from the truth, and whether it could tell a wrong model from a right one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbn.export.evaluator import widen
from fastbn.export.fold.affine import largest

Array = NDArray[Any]
# From this share of a type's largest number on it may overflow by rounding.
NEAR_OVERFLOW = 0.9
# Entries this near to the smallest or largest one, relative to their distance, are at the end.
AT_THE_END = 1e-6
# Of integers, one in a thousand may be decided by rounding.
FREE_FLIPS = 1e-3


@dataclass(slots=True)
class OutputErrors:
    """One output, over the samples of a group.

    Attributes
    ----------
    size : float
        Largest number of the truth that the output's type can hold.
    original, other : float
        Largest distance of the first and of the second model from the truth.
    between, squares : float
        Largest distance between the two models, and the worst root mean square.
    entries, original_flips, other_flips : int
        Of integers and booleans: how many there were, and how many were another number.
    lost : int
        Numbers that are not finite in the first model, though the truth is and fits the type.
    problem : str
        What makes the second model different whatever the numbers are.
    """

    size: float = 0.0
    original: float = 0.0
    other: float = 0.0
    between: float = 0.0
    squares: float = 0.0
    entries: int = 0
    original_flips: int = 0
    other_flips: int = 0
    lost: int = 0
    problem: str = ""

    def add(self, truth: Array, firsts: Sequence[Array], seconds: Sequence[Array]) -> None:
        """Take in one sample: the truth, and what both models gave at each level.

        A second model that onnxruntime does not run is given by its float64 evaluation.
        """
        y64 = widen(np.asarray(truth))
        if firsts and np.shape(firsts[0]) != y64.shape:
            y64 = widen(np.asarray(firsts[0]))  # rounding decides how many there are
        firsts = [y for y in firsts if np.shape(y) == y64.shape]
        for y in seconds:
            if np.shape(y) != y64.shape:
                self.problem = f"has shape {np.shape(y)}, not {y64.shape}"
                return
        if y64.dtype.kind != "f":
            self.entries += y64.size
            self.original_flips += max((_flips(y, y64) for y in firsts), default=0)
            self.other_flips += max((_flips(y, y64) for y in seconds), default=0)
            return
        top = min((_top(y) for y in (*firsts, *seconds)), default=np.inf)
        held = np.isfinite(y64) & (np.abs(y64) <= NEAR_OVERFLOW * top)
        beyond = ~held & ~np.isnan(y64)
        self.size = max(self.size, float(np.abs(y64[held]).max(initial=0.0)))
        lost = np.zeros_like(held)
        for y in firsts:
            lost |= held & ~np.isfinite(widen(y))
        self.lost += int(np.count_nonzero(lost))
        held &= ~lost
        self.original = max([self.original, *(distance(y, y64, held, beyond) for y in firsts)])
        self.other = max([self.other, *(distance(y, y64, held, beyond) for y in seconds)])
        for first, second in zip(firsts, seconds, strict=False):
            gap = widen(second)[held] - widen(first)[held]
            gap = gap[np.isfinite(gap)]
            if gap.size:
                self.between = max(self.between, float(np.abs(gap).max()))
                self.squares = max(self.squares, float(np.sqrt(np.mean(gap * gap))))

    def flips_allowed(self) -> int:
        """How many integers may differ: twice what the original's do, or one in a thousand."""
        return max(2 * self.original_flips, int(FREE_FLIPS * self.entries))


def distance(y: Array, y64: Array, held: NDArray[np.bool_], beyond: NDArray[np.bool_]) -> float:
    """Largest difference where the truth is ``held``; infinite where the two differ in kind.

    NaN agrees with NaN at the same place alone. ``beyond`` the type's range any overflow will do
    (infinity, or NaN that came of it), or a large number of the same sign.
    """
    y = widen(np.asarray(y))
    if not np.isnan(y[np.isnan(y64)]).all() or not np.isfinite(y[held]).all():
        return float("inf")
    other_sign = np.sign(y[beyond]) != np.sign(y64[beyond])
    if (np.isfinite(y[beyond]) & other_sign).any():
        return float("inf")
    return float(np.abs(y[held] - y64[held]).max(initial=0.0))


def _top(y: Array) -> float:
    is_float = y.dtype.kind == "f" or y.dtype.name == "bfloat16"
    return largest(y.dtype) if is_float else float("inf")


def _flips(y: Array, truth: Array) -> int:
    return int(np.count_nonzero(np.asarray(y) != truth))


def agreement(y: Array, y64: Array) -> float | None:
    """Share of rows whose largest entry is the same; None where there are no classes.

    (N, classes, 1, 1) counts as (N, classes); the first axis is that of the rows.
    """
    classes = next((d for d in reversed(y64.shape[1:]) if d > 1), 1)
    if y64.dtype.kind != "f" or classes < 2 or not y64.size or y.shape != y64.shape:
        return None
    rows = [v.reshape(-1, classes).argmax(axis=-1) for v in (y64, widen(y))]
    return float(np.mean(rows[0] == rows[1]))


def cannot_tell(values: Sequence[Array], tolerance: float) -> str:
    """Why an output would be the same whatever the model did; empty if it would not.

    Parameters
    ----------
    values : sequence of array
        The truth, for every sample.
    tolerance : float
        What it may be off by.
    """
    whole = np.concatenate([np.asarray(v).reshape(-1) for v in values]) if values else np.zeros(0)
    if not whole.size:
        return "is empty in every sample"
    if whole.dtype.kind == "f":
        whole = whole[np.isfinite(whole)]
        if not whole.size:
            return "is not finite in every sample"
    elif whole.dtype.kind not in "iu":
        return "" if len(set(whole.tolist())) > 1 else "is constant in every sample"
    low, high = float(whole.min()), float(whole.max())
    spread = high - low
    if spread <= 2 * tolerance:
        return "is constant in every sample"
    if whole.dtype.kind == "f" and whole.size > 2 and _at_the_ends(values, low, high):
        return "is saturated in every sample"
    return ""


def _at_the_ends(values: Sequence[Array], low: float, high: float) -> bool:
    """Whether all numbers are the smallest or the largest, samples of one number left out."""
    margin = AT_THE_END * (high - low)
    varied = [v for v in values if v.size == 1 or (v.size and (v != v.reshape(-1)[0]).any())]
    return bool(varied) and not any(
        ((v > low + margin) & (v < high - margin)).any() for v in varied
    )
