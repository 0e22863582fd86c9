"""What tests measure with: the error of a result, numeric gradients, awkward memory layouts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# Largest error allowed of an operation without long sums; tests of sums say their own.
TOLERANCE = {np.dtype(np.float32): 2e-6, np.dtype(np.float64): 1e-13}


def error(y: Array, y64: Array, terms: Array | None = None) -> float:
    """Return max|y - y64| / max|y64|; infinite where shapes, NaNs or infinities differ.

    `terms`, the sum of the absolute values of what y is the sum of, takes the place of y64 in the
    denominator where y may be the small rest of large terms.
    """
    y, y64 = np.asarray(y, dtype=np.float64), np.asarray(y64, dtype=np.float64)
    if y.shape != y64.shape:
        return float("inf")
    special = ~np.isfinite(y64)
    if not np.array_equal(y[special], y64[special], equal_nan=True):
        return float("inf")
    y, y64 = y[~special], y64[~special]
    if not np.isfinite(y).all():
        return float("inf")
    worst = np.abs(y - y64).max(initial=0.0)
    size = np.abs(y64 if terms is None else terms).max(initial=0.0)
    return float(worst / size) if worst else 0.0


def numeric_gradient(
    f: Callable[[Array], Any], x: Array, dy: Any, step: float = 1e-5
) -> NDArray[np.float64]:
    """Return d sum(dy * f(x)) / dx by central differences, one element of x after another."""
    x = np.array(x, dtype=np.float64)
    dx = np.zeros_like(x)
    for index in np.ndindex(*x.shape):
        centre = x[index]
        x[index] = centre + step
        above = np.sum(dy * f(x))
        x[index] = centre - step
        below = np.sum(dy * f(x))
        x[index] = centre
        dx[index] = (above - below) / (2 * step)
    return dx


def _at_byte(a: Array, offset: int) -> Array:
    """Return a contiguous copy whose first byte is ``offset`` bytes behind a 64-byte boundary."""
    raw = np.empty(a.nbytes + 64 + offset, dtype=np.uint8)
    start = -raw.ctypes.data % 64 + offset
    copy = raw[start : start + a.nbytes].view(a.dtype).reshape(a.shape)
    copy[...] = a
    return copy


def _every_second(a: Array) -> Array:
    """Return the values of a as a view that skips every other element of every axis."""
    wide = np.full(tuple(2 * n for n in a.shape), 7, dtype=a.dtype)
    view = wide[tuple(slice(None, None, 2) for _ in a.shape)]
    view[...] = a
    return view


def _backwards(a: Array) -> Array:
    """Return the values of a as a view with negative strides."""
    flip = tuple(slice(None, None, -1) for _ in a.shape)
    return np.ascontiguousarray(a[flip])[flip]


def _read_only(a: Array) -> Array:
    copy = a.copy()
    copy.flags.writeable = False
    return copy


# Copies of the same values that lie in memory in every way a caller may bring them.
LAYOUTS: dict[str, Callable[[Array], Array]] = {
    "contiguous": lambda a: np.ascontiguousarray(a).copy(),
    "fortran": lambda a: np.array(a, order="F"),
    "one element off": lambda a: _at_byte(a, a.dtype.itemsize),
    "odd byte": lambda a: _at_byte(a, 1),
    "every second": _every_second,
    "backwards": _backwards,
    "read only": _read_only,
}
