"""LocalResponseNorm: each channel is divided by what its neighbours have."""

from __future__ import annotations

import math
from typing import Any

from numpy.typing import NDArray

from fastbn import functional as F
from fastbn.nn.elementwise import Elementwise
from fastbn.nn.init import check_sizes
from fastbn.nn.module import Shape
from fastbn.nn.onnx import Builder, Flow
from fastbn.nn.order import Order, OrderError, Orders

Array = NDArray[Any]


class LocalResponseNorm(Elementwise):
    """Return x / (k + alpha m) ** beta, m the mean of x² over `size` channels around each one.

    Krizhevsky et al. (2012), section 3.3. There is nothing to learn, and inference is as training.

    Parameters
    ----------
    size : int
        Channels in a window; of an even size, the one more lies in front.
    alpha, beta, k : float
        Constants of the formula; alpha and k not negative.

    Examples
    --------
    >>> import numpy as np
    >>> LocalResponseNorm(3, alpha=3.0, beta=0.5, k=0.0)(np.array([[3.0, 4.0, 0.0]]))
    array([[0.6, 0.8, 0. ]])
    """

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> None:
        super().__init__()
        check_sizes(self, size=size)
        self.size, self.alpha, self.beta, self.k = size, float(alpha), float(beta), float(k)

    def forward(self, x: Array) -> tuple[Array, Any]:
        """Return x, normalised."""
        out = self._pool.take(x.shape, x.dtype)
        return F.local_response_norm(x, self.size, self.alpha, self.beta, self.k, out=out)

    def backward(self, dy: Array, saved: Any, need_dx: bool = True) -> Array | None:
        """Return dx."""
        return F.local_response_norm_backward(dy, saved, out=self._pool.take(dy.shape, dy.dtype))

    def own_flops(self, input_shape: Shape) -> int:
        """Return square, sum over the window, scale and k, power and product for every number."""
        return (self.size + 4) * math.prod(input_shape)

    def follow_order(self, found: Orders, *orders: Order) -> Order:
        """Refuse features whose order is not theirs in the library: neighbours matter here."""
        if orders[0] is not None:
            raise OrderError(f"{self.where}: needs channels, not the features behind a Flatten")
        return None

    def onnx(self, build: Builder, flow: Flow) -> Flow:
        """Add LRN; ONNX has the extra channel of an even size after, so it must be odd."""
        if len(flow.shape) != 3:
            raise ValueError(f"{self.where}: ONNX has LRN for images alone")
        if self.size % 2 == 0:
            raise ValueError(f"{self.where}: ONNX has no such window of an even size {self.size}")
        return flow.to(
            build.node(
                "LRN",
                [flow.value],
                size=self.size,
                alpha=self.alpha,
                beta=self.beta,
                bias=self.k,
            )
        )

    def extra_repr(self) -> str:
        """Return the constants."""
        return f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"
