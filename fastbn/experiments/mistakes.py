"""Batch normalisation as some texts have it, to see what becomes of it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbn import nn
from fastbn.nn.elementwise import Elementwise

Array = NDArray[Any]


class SecondMomentNorm(Elementwise):
    """y = γ (x − mean) / √(mean of x² + ε) + β: the "variance" leaves out the mean.

    Parameters
    ----------
    num_features : int
    eps, momentum : float
        As of `fastbn.nn.BatchNorm`.
    """

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.weight = nn.Parameter(np.ones(num_features), dtype="float32")
        self.bias = nn.Parameter(np.zeros(num_features), dtype="float32")
        self.eps = eps
        self.momentum = momentum
        self.running = np.array([np.zeros(num_features), np.ones(num_features)])

    def forward(self, x: Array) -> tuple[Array, Any]:
        """Normalise over all axes but the last; in inference mode with the moving averages."""
        if self.training:
            axes = tuple(range(x.ndim - 1))
            moments = np.stack([x.mean(axes), np.square(x).mean(axes)])
            self.running += self.momentum * (moments - self.running)
        else:
            moments = self.running
        mean, second = moments.astype(x.dtype)
        scale = 1.0 / np.sqrt(second + self.eps)
        y = (x - mean) * (scale * self.weight.data) + self.bias.data
        return y, (x, mean, scale)

    def backward(self, dy: Array, saved: Any, need_dx: bool = True) -> Array:
        """Return dx, through mean and second moment; in training mode only."""
        x, mean, scale = saved
        axes = tuple(range(x.ndim - 1))
        centred = x - mean
        product = (dy * centred).sum(axes)
        self.weight.grad = product * scale
        self.bias.grad = dy.sum(axes)
        count = x.size // x.shape[-1]
        through = self.weight.data * scale
        dx: Array = through * (dy - self.bias.grad / count)
        dx -= x * (self.weight.data * scale**3 * product / count)
        return dx
