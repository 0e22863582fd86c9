"""Losses: a number to minimise, and its gradient by the prediction."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbn import functional as F
from fastbn.nn.buffers import Pool

Array = NDArray[Any]


class CrossEntropyLoss:
    """Mean over the rows of -log softmax(logits)[label].

    Examples
    --------
    >>> import numpy as np
    >>> loss, dlogits = CrossEntropyLoss()(np.zeros((2, 4)), np.array([0, 3]))
    >>> round(loss, 4)
    1.3863
    >>> dlogits
    array([[-0.375,  0.125,  0.125,  0.125],
           [ 0.125,  0.125,  0.125, -0.375]])
    """

    def __init__(self) -> None:
        self._pool = Pool()

    def __call__(self, pred: Array, target: Array) -> tuple[float, Array]:
        """Return the loss and its gradient.

        Parameters
        ----------
        pred : ndarray, shape (N, C)
            Logits.
        target : ndarray of int, shape (N,)
            Labels in [0, C).

        Returns
        -------
        loss : float
        dpred : ndarray, shape (N, C)

        Raises
        ------
        ValueError, TypeError
            If shapes or dtypes do not fit or a label is out of range.
        """
        loss, saved = F.cross_entropy(pred, target)
        self._pool.start(pred.shape)
        dpred = F.cross_entropy_backward(1.0, saved, out=self._pool.take(pred.shape, pred.dtype))
        return loss, dpred

    def value(self, pred: Array, target: Array) -> float:
        """Return the loss alone."""
        return F.cross_entropy(pred, target)[0]

    def correct(self, pred: Array, target: Array) -> int:
        """Return the number of rows whose largest logit is that of the label."""
        return int(np.count_nonzero(pred.argmax(axis=1) == target))


class MSELoss:
    """Mean over all elements of (pred - target)².

    Examples
    --------
    >>> import numpy as np
    >>> MSELoss()(np.array([[1.0, 2.0]]), np.array([[1.0, 4.0]]))
    (2.0, array([[ 0., -2.]]))
    """

    def __init__(self) -> None:
        self._pool = Pool()

    def __call__(self, pred: Array, target: Array) -> tuple[float, Array]:
        """Return the loss and its gradient.

        Parameters
        ----------
        pred, target : ndarray
            Of one shape and dtype.

        Returns
        -------
        loss : float
        dpred : ndarray
            Shape of `pred`.

        Raises
        ------
        ValueError, TypeError
            If shapes or dtypes do not fit.
        """
        loss, saved = F.mse_loss(pred, target)
        self._pool.start(pred.shape)
        dpred = F.mse_loss_backward(1.0, saved, out=self._pool.take(pred.shape, pred.dtype))
        return loss, dpred

    def value(self, pred: Array, target: Array) -> float:
        """Return the loss alone."""
        return F.mse_loss(pred, target)[0]
