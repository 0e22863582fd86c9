"""The linear layer: one matrix product forward, two backward."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from fastbn.functional._vectors import dense
from fastbn.kernels import linear as _kernels
from fastbn.kernels.linear import LinearSaved

Array = NDArray[Any]


def linear(
    x: Array, weight: Array, bias: Array | None = None, *, out: Array | None = None
) -> tuple[Array, LinearSaved]:
    """Return ``x @ weight.T + bias``.

    Parameters
    ----------
    x : array
        Shape (..., in_features), float32 or float64.
    weight : array
        Shape (out_features, in_features), x's dtype, any strides; quickest as the transpose of a
        contiguous (in_features, out_features) array.
    bias : array or None
        Shape (out_features,).
    out : array or None
        Where y goes.

    Returns
    -------
    y : array
        Shape (..., out_features).
    saved : LinearSaved
        For :func:`linear_backward`; refers to x and weight.

    Raises
    ------
    ValueError, TypeError
        If shapes or dtypes do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> y, saved = linear(np.array([[1.0, 2.0]]), np.array([[3.0, 4.0], [5.0, 6.0]]))
    >>> y
    array([[11., 17.]])
    """
    return _kernels.forward(x, weight, dense(bias), out)


def linear_backward(
    dy: Array,
    saved: LinearSaved,
    *,
    need_dx: bool = True,
    need_dweight: bool = True,
    need_dbias: bool = True,
    out: Array | None = None,
    dweight: Array | None = None,
    dbias: Array | None = None,
) -> tuple[Array | None, Array | None, Array | None]:
    """Gradients of :func:`linear`: ``dy @ weight``, ``dy.T @ x`` and the sums of dy.

    Parameters
    ----------
    dy : array
        Shape (..., out_features).
    saved : LinearSaved
        What :func:`linear` returned.
    need_dx, need_dweight, need_dbias : bool
        What is not needed is not computed, and None is returned for it.
    out, dweight, dbias : array or None
        Where dx and the others go; new arrays where None. A new dweight has weight's axis order.

    Returns
    -------
    dx, dweight, dbias : array or None
        dbias is None also where forward had no bias.

    Examples
    --------
    >>> import numpy as np
    >>> y, saved = linear(np.array([[1.0, 2.0]]), np.array([[3.0, 4.0], [5.0, 6.0]]))
    >>> dx, dweight, dbias = linear_backward(np.array([[1.0, 0.0]]), saved)
    >>> dx, dweight, dbias
    (array([[3., 4.]]), array([[1., 2.],
           [0., 0.]]), None)
    """
    return _kernels.backward(dy, saved, need_dx, need_dweight, need_dbias, out, dweight, dbias)
