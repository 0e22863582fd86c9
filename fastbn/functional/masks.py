"""Masks: which positions count, and the rows of those that do."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class MaskedSaved(NamedTuple):
    """What the backward of a masked batch normalisation needs."""

    mask: NDArray[np.bool_]
    axis: int
    saved: Any


def checked_mask(mask: Any, shape: tuple[int, ...], axis: int) -> NDArray[np.bool_]:
    """Return the mask, or raise if it is not one of the positions of an x of this shape."""
    axis %= len(shape)
    shape = shape[:axis] + shape[axis + 1 :]
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.shape != shape:
        got = f"{mask.dtype} {mask.shape}" if isinstance(mask, np.ndarray) else type(mask).__name__
        raise ValueError(
            f"mask: expected booleans of shape {shape}, x's without channels, got {got}"
        )
    return mask


def check_out(name: str, out: Any, like: Array) -> None:
    """Raise unless `out` is None, or can take values like these."""
    if out is None:
        return
    if not isinstance(out, np.ndarray) or out.dtype != like.dtype:
        got = out.dtype if isinstance(out, np.ndarray) else type(out).__name__
        raise TypeError(f"{name}: expected {like.dtype}, got {got}")
    if out.shape != like.shape:
        raise ValueError(f"{name}: expected shape {like.shape}, got {out.shape}")
    if not out.flags.carray:
        raise ValueError(f"{name} must be C-contiguous, aligned and writeable")


def packed(x: Array, mask: NDArray[np.bool_], axis: int) -> Array:
    """Return the values that count, one row each: (values, C)."""
    return np.moveaxis(x, axis, -1)[mask]


def spread(rows: Array, mask: NDArray[np.bool_], axis: int, out: Array) -> Array:
    """Put the rows where they belong, and zero elsewhere."""
    out[...] = 0
    np.moveaxis(out, axis, -1)[mask] = rows
    return out
