"""Flatten: images as rows."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class FlattenSaved:
    """What backward needs: the shape and the dtype of x."""

    __slots__ = ("dtype", "shape")

    def __init__(self, x: Array) -> None:
        self.shape = x.shape
        self.dtype = x.dtype


def flatten(x: Array) -> tuple[Array, FlattenSaved]:
    """Return x as one row for each of its entries, in C order: H, W, C for images.

    Parameters
    ----------
    x : array
        Shape (N, ...); float32 or float64.

    Returns
    -------
    y : array
        Shape (N, prod(...)); a view of x where x is contiguous, else a copy.
    saved : FlattenSaved
        For :func:`flatten_backward`.

    Raises
    ------
    TypeError, ValueError
        If x is not an array of floats with at least one axis.

    Examples
    --------
    >>> import numpy as np
    >>> y, saved = flatten(np.zeros((2, 3, 3, 4)))
    >>> y.shape, flatten_backward(y, saved).shape
    ((2, 36), (2, 3, 3, 4))
    """
    if not isinstance(x, np.ndarray):
        raise TypeError(f"x: expected a numpy.ndarray, got {type(x).__name__}")
    if x.dtype.char not in "fd":
        raise TypeError(f"x: expected float32 or float64, got {x.dtype}")
    if x.ndim == 0:
        raise ValueError("x: expected at least one axis, got shape ()")
    return x.reshape(x.shape[0], prod(x.shape[1:])), FlattenSaved(x)


def flatten_backward(dy: Array, saved: FlattenSaved) -> Array:
    """Return dy in the shape of x.

    Parameters
    ----------
    dy : array
        Shape (N, prod(...)), dtype of x.
    saved : FlattenSaved
        What :func:`flatten` returned.

    Returns
    -------
    array
        dx; a view of dy where dy is contiguous, else a copy.
    """
    if not isinstance(saved, FlattenSaved) or not hasattr(saved, "dtype"):
        raise TypeError("saved is not what flatten returned")
    if not isinstance(dy, np.ndarray):
        raise TypeError(f"dy: expected a numpy.ndarray, got {type(dy).__name__}")
    if dy.dtype != saved.dtype:
        raise TypeError(f"dy: expected {saved.dtype}, got {dy.dtype}")
    expected = (saved.shape[0], prod(saved.shape[1:]))
    if dy.shape != expected:
        raise ValueError(f"dy: expected shape {expected}, got {dy.shape}")
    return dy.reshape(saved.shape)
