"""PReLU: a leaky ReLU whose slopes are learned."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from fastbn.kernels import activation as _kernels
from fastbn.kernels.activation import PreluSaved

Array = NDArray[Any]


def prelu(x: Array, weight: Array, *, out: Array | None = None) -> tuple[Array, PreluSaved]:
    """Multiply what is negative by `weight`, one number or one for every channel.

    He et al. (2015), Eq. 1.

    Parameters
    ----------
    x : array
        Shape (..., C); float32 or float64.
    weight : array
        Shape (1,) or (C,); dtype of x.
    out : array or None
        Where y goes; not x, which backward needs.

    Returns
    -------
    y : array
        Shape and dtype of x.
    saved : PreluSaved
        For :func:`prelu_backward`; refers to x, and copies the slopes.

    Raises
    ------
    TypeError, ValueError
        If a dtype or a shape does not fit; nothing was changed then.

    Examples
    --------
    >>> import numpy as np
    >>> y, saved = prelu(np.array([[-2.0, 3.0], [-1.0, -4.0]]), np.array([0.5, 0.25]))
    >>> y
    array([[-1. ,  3. ],
           [-0.5, -1. ]])
    >>> prelu_backward(np.ones((2, 2)), saved)[1]
    array([-3., -4.])
    """
    return _kernels.prelu(x, weight, out)


def prelu_backward(
    dy: Array, saved: PreluSaved, *, out: Array | None = None, dweight: Array | None = None
) -> tuple[Array, Array]:
    """Return dx and dweight.

    Parameters
    ----------
    dy : array
        Shape and dtype of y.
    saved : PreluSaved
        What :func:`prelu` returned.
    out, dweight : array or None
        Where the gradients go.

    Returns
    -------
    dx : array
        dy where x > 0, else dy times the slope.
    dweight : array
        The sum of dy x where x <= 0: for every channel, or of all.
    """
    return _kernels.prelu_backward(dy, saved, out, dweight)
