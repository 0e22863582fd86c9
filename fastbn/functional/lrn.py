"""Local response normalisation: the layer that batch normalisation made unnecessary."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from fastbn.kernels import lrn as _kernels
from fastbn.kernels.lrn import LRNSaved

Array = NDArray[Any]


def local_response_norm(
    x: Array,
    size: int,
    alpha: float = 1e-4,
    beta: float = 0.75,
    k: float = 1.0,
    *,
    out: Array | None = None,
) -> tuple[Array, LRNSaved]:
    """Divide by a power of the mean square of neighbouring channels.

    y = x / (k + alpha m) ** beta, where m is the sum of x² over `size` channels around each one,
    over `size`; missing channels count as zeros. With an even size, the extra channel lies
    before. Krizhevsky et al. (2012), section 3.3; alpha / size, as in PyTorch, is their alpha.

    Parameters
    ----------
    x : array
        Shape (..., C); float32 or float64.
    size : int
        Channels in a window.
    alpha, k : float
        Not negative.
    beta : float
        0.75 is fastest.
    out : array or None
        Where y goes; not x, which backward needs.

    Returns
    -------
    y : array
        Shape and dtype of x.
    saved : LRNSaved
        For :func:`local_response_norm_backward`; refers to x.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit; nothing was changed then.

    Examples
    --------
    >>> import numpy as np
    >>> y, saved = local_response_norm(np.array([[3.0, 4.0, 0.0]]), 3, alpha=3.0, beta=0.5, k=0.0)
    >>> y
    array([[0.6, 0.8, 0. ]])
    """
    return _kernels.forward(x, size, alpha, beta, k, out)


def local_response_norm_backward(dy: Array, saved: LRNSaved, *, out: Array | None = None) -> Array:
    """Return dx.

    Parameters
    ----------
    dy : array
        Shape and dtype of y.
    saved : LRNSaved
        What :func:`local_response_norm` returned.
    out : array or None
        Where dx goes; may be dy.

    Returns
    -------
    array
        Shape and dtype of x.

    Examples
    --------
    >>> import numpy as np
    >>> y, saved = local_response_norm(np.array([[1.0, 2.0, 3.0]]), 3, alpha=0.1)
    >>> local_response_norm_backward(np.array([[1.0, 0.0, 0.0]]), saved).round(4)
    array([[ 0.8526, -0.0764,  0.    ]])
    """
    return _kernels.backward(dy, saved, out)
