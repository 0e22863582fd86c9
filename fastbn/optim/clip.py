"""Clipping of gradients."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbn.nn import Parameter

Array = NDArray[Any]


def clip_grad_norm(parameters: Iterable[Parameter], max_norm: float) -> float:
    """Scale all gradients together so that their norm is at most `max_norm`; return the old one.

    The norm is that of all gradients as one vector, summed in float64 (Pascanu et al. 2013,
    Algorithm 1). If it is not finite the gradients stay as they are, for the caller to see.

    Parameters
    ----------
    parameters : iterable of Parameter
        What ``net.parameters()`` returns; those without a gradient count nothing.
    max_norm : float
        At least 0.

    Returns
    -------
    float
        The norm before clipping.

    Raises
    ------
    ValueError
        If `max_norm` is negative or NaN.

    Examples
    --------
    >>> weight = Parameter([1.0, 1.0])
    >>> weight.grad = [3.0, 4.0]
    >>> clip_grad_norm([weight], max_norm=1.0), weight.grad
    (5.0, array([0.6, 0.8]))
    """
    if not max_norm >= 0.0:
        raise ValueError(f"max_norm should be a number >= 0, but got {max_norm}")
    if isinstance(parameters, Parameter):
        parameters = [parameters]
    grads = [p.grad for p in parameters if p.grad is not None and p.size]
    norm = math.sqrt(sum(_squares(grad) for grad in grads))
    if norm == math.inf:  # squares of float64 leave the type long before the norm does
        largest = max(float(np.abs(grad).max()) for grad in grads)
        if largest < math.inf:
            norm = largest * math.sqrt(sum(_squares(grad / largest) for grad in grads))
    if max_norm < norm < math.inf:
        for grad in grads:
            np.multiply(grad, max_norm / norm, out=grad)
    return norm


def _squares(values: Array) -> float:
    """Return the sum of squares, added in float64 in an order that depends on the shape alone."""
    with np.errstate(over="ignore"):
        return float(np.square(values, dtype=np.float64).sum())
