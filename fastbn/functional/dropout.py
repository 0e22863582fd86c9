"""Dropout, with a mask that is computed again in backward instead of stored."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbn.kernels import dropout as _kernels
from fastbn.kernels.dropout import DropoutSaved

Array = NDArray[Any]


def dropout(
    x: Array,
    p: float = 0.5,
    *,
    training: bool = True,
    rng: np.random.Generator | None = None,
    out: Array | None = None,
) -> tuple[Array, DropoutSaved]:
    """Zero a random share p of x and divide the rest by 1 - p; in inference, copy x.

    Srivastava et al., "Dropout" (2014), with the scaling in training.

    Parameters
    ----------
    x : array
        Any shape, float32 or float64.
    p : float
        Probability of an element to be zeroed, in [0, 1].
    training : bool
        Without it x passes unchanged.
    rng : numpy.random.Generator or None
        Gives one 64-bit number a call, from which the mask follows, whatever the number of
        threads; a fresh generator where None.
    out : array or None
        Where y goes; may be x.

    Returns
    -------
    y : array
        Shape and dtype of x.
    saved : DropoutSaved
        For :func:`dropout_backward`: a seed and a probability.

    Raises
    ------
    ValueError, TypeError
        If p, a shape or a dtype does not fit.

    Examples
    --------
    >>> import numpy as np
    >>> y, saved = dropout(np.ones(6), 0.5, rng=np.random.default_rng(0))
    >>> sorted(set(y.tolist()))
    [0.0, 2.0]
    """
    return _kernels.forward(x, p, training, rng, out)


def dropout_backward(dy: Array, saved: DropoutSaved, *, out: Array | None = None) -> Array:
    """Return dy with the forward's zeros and scale.

    Parameters
    ----------
    dy : array
        Shape and dtype of x.
    saved : DropoutSaved
        What :func:`dropout` returned.
    out : array or None
        Where dx goes; may be dy.

    Returns
    -------
    array

    Examples
    --------
    >>> import numpy as np
    >>> y, saved = dropout(np.ones(6), 0.5, training=True, rng=np.random.default_rng(0))
    >>> y, dropout_backward(np.ones(6), saved)
    (array([0., 2., 2., 2., 2., 2.]), array([0., 2., 2., 2., 2., 2.]))
    """
    return _kernels.backward(dy, saved, out)
