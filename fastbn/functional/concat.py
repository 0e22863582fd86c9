"""Concatenation along the channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from fastbn.kernels import concat as _kernels
from fastbn.kernels.concat import ConcatSaved

Array = NDArray[Any]


def concat(*xs: Array, out: Array | None = None) -> tuple[Array, ConcatSaved]:
    """Put arrays side by side along the last axis, which holds the channels.

    Parameters
    ----------
    *xs : array
        Shapes (..., C₀), (..., C₁), ...: alike but for the last axis; float32 or float64.
    out : array or None
        Where y goes; may overlap none of them.

    Returns
    -------
    y : array
        Shape (..., C₀ + C₁ + ...).
    saved : ConcatSaved
        For :func:`concat_backward`.

    Raises
    ------
    TypeError, ValueError
        If shapes or dtypes do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> y, saved = concat(np.zeros((2, 1)), np.ones((2, 3)))
    >>> y
    array([[0., 1., 1., 1.],
           [0., 1., 1., 1.]])
    >>> [dx.shape for dx in concat_backward(y, saved)]
    [(2, 1), (2, 3)]
    """
    return _kernels.join(xs, out)


def concat_backward(
    dy: Array, saved: ConcatSaved, *, out: Sequence[Array | None] | None = None
) -> tuple[Array, ...]:
    """Return the parts of dy that belong to the arrays of :func:`concat`.

    Parameters
    ----------
    dy : array
        Shape of y.
    saved : ConcatSaved
        What :func:`concat` returned.
    out : sequence of (array or None), optional
        Where they go.

    Returns
    -------
    tuple of array
        dx₀, dx₁, ...; copies.
    """
    return _kernels.part(dy, saved, out)
