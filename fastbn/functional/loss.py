"""Losses, averaged over the batch: cross-entropy of logits, mean squared error."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbn.kernels import loss as _kernels
from fastbn.kernels.loss import CrossEntropySaved, MSESaved

Array = NDArray[Any]


def cross_entropy(
    logits: Array, labels: NDArray[np.integer[Any]]
) -> tuple[float, CrossEntropySaved]:
    r"""Average :math:`-\log softmax(x)_{label}` over the rows.

    Computed as :math:`\log \sum_j e^{x_j - m} + (m - x_{label})` with the row's largest value m,
    which neither overflows nor loses a small loss. Rows are added in float64.

    Parameters
    ----------
    logits : array
        Shape (N, C), N and C at least 1; float32 or float64.
    labels : integer array
        Shape (N,), values in [0, C).

    Returns
    -------
    loss : float
    saved : CrossEntropySaved
        For :func:`cross_entropy_backward`. It refers to `logits` and copies the labels.

    Raises
    ------
    TypeError, ValueError
        If a dtype or a shape does not fit, or a label is out of bounds.

    Examples
    --------
    >>> import numpy as np
    >>> loss, saved = cross_entropy(np.array([[0.0, 0.0], [50.0, 0.0]]), np.array([1, 0]))
    >>> round(loss, 6)  # log(2) / 2
    0.346574
    >>> cross_entropy_backward(1.0, saved).round(3)
    array([[ 0.25, -0.25],
           [ 0.  ,  0.  ]])
    """
    return _kernels.cross_entropy(logits, labels)


def cross_entropy_backward(
    dloss: float, saved: CrossEntropySaved, *, out: Array | None = None
) -> Array:
    """Return ``dloss * (softmax(logits) - onehot(labels)) / N``.

    Parameters
    ----------
    dloss : float
        Gradient of the loss; 1.0 where the loss is what is minimised.
    saved : CrossEntropySaved
        What :func:`cross_entropy` returned.
    out : array or None
        Where dlogits go; may be the logits.

    Returns
    -------
    array
        dlogits, of shape and dtype of the logits.
    """
    return _kernels.cross_entropy_backward(dloss, saved, out)


def mse_loss(pred: Array, target: Array) -> tuple[float, MSESaved]:
    """Average ``(pred - target)²`` over all elements, adding in float64.

    Parameters
    ----------
    pred, target : array
        Both of one shape, not empty, and one dtype, float32 or float64.

    Returns
    -------
    loss : float
    saved : MSESaved
        For :func:`mse_loss_backward`; refers to both.

    Raises
    ------
    TypeError, ValueError
        If dtypes or shapes differ; there is no broadcasting.

    Examples
    --------
    >>> import numpy as np
    >>> loss, saved = mse_loss(np.array([1.0, 3.0]), np.array([1.0, 1.0]))
    >>> loss, mse_loss_backward(1.0, saved)
    (2.0, array([0., 2.]))
    """
    return _kernels.mse_loss(pred, target)


def mse_loss_backward(dloss: float, saved: MSESaved, *, out: Array | None = None) -> Array:
    """Return ``dloss * 2 * (pred - target) / size``.

    Parameters
    ----------
    dloss : float
        Gradient of the loss; 1.0 where the loss is what is minimised.
    saved : MSESaved
        What :func:`mse_loss` returned.
    out : array or None
        Where dpred goes; may be `pred` or `target`.

    Returns
    -------
    array
        dpred, of shape and dtype of `pred`.
    """
    return _kernels.mse_loss_backward(dloss, saved, out)
