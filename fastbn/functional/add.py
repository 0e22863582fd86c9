"""The sum of arrays: where branches join, and where their gradients do."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from fastbn.kernels import add as _kernels

Array = NDArray[Any]


def add(*xs: Array, out: Array | None = None) -> Array:
    """Return the sum of arrays, added from left to right in one sweep over all of them.

    The gradient of every one is that of the sum.

    Parameters
    ----------
    *xs : array
        Two or more of one shape and dtype: float32 or float64.
    out : array or None
        Where the sum goes; may be one of the first four arrays.

    Returns
    -------
    y : array
        Shape of the arrays.

    Raises
    ------
    TypeError, ValueError
        If shapes or dtypes do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> add(np.ones(2), np.ones(2), np.arange(2.0))
    array([2., 3.])
    """
    return _kernels.total(xs, out)
