"""Dropout: zero a random share of the elements, or of the channels, in training."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbn import functional as F
from fastbn.nn import init
from fastbn.nn.elementwise import Elementwise
from fastbn.nn.onnx import Builder, Flow

Array = NDArray[Any]


class Dropout(Elementwise):
    """Zero each element with probability p in training, and divide the rest by 1 - p.

    Srivastava et al. (2014); in inference x passes unchanged.

    Parameters
    ----------
    p : float, default 0.5
        Probability of an element to be zeroed, in [0, 1].
    rng : numpy.random.Generator or int, optional
        Source of the masks.

    Examples
    --------
    >>> import numpy as np
    >>> layer = Dropout(0.5, rng=0)
    >>> sorted(set(layer(np.ones((4, 8))).ravel().tolist()))
    [0.0, 2.0]
    """

    flops_per_value = 0

    def __init__(self, p: float = 0.5, *, rng: init.Rng = None) -> None:
        super().__init__()
        if not 0.0 <= p <= 1.0:
            raise ValueError(f"Dropout: dropout probability has to be between 0 and 1, but got {p}")
        self.p = float(p)
        self.rng = init.generator(rng)

    def forward(self, x: Array) -> tuple[Array, Any]:
        """Return x with its share zeroed and the rest scaled; x itself in inference."""
        if self.p == 0.0 or not self.training:
            return x, None
        return F.dropout(x, self.p, rng=self.rng, out=self._pool.take(x.shape, x.dtype))

    def backward(self, dy: Array, saved: Any, need_dx: bool = True) -> Array | None:
        """Return dy with the forward's zeros and scale."""
        if saved is None:
            return dy
        return F.dropout_backward(dy, saved, out=self._pool.take(dy.shape, dy.dtype))

    def onnx(self, build: Builder, flow: Flow) -> Flow:
        """Add nothing: a file is for inference."""
        return flow

    def extra_repr(self) -> str:
        """Return the probability."""
        return f"{self.p}"


class Dropout2d(Dropout):
    """Zero whole channels of samples with probability p in training, the rest over 1 - p.

    Tompson et al. (2015): neighbours in an image tell one another's values, so that single zeros
    hide little. In inference x passes unchanged.

    Parameters
    ----------
    p : float, default 0.5
        Probability of a channel to be zeroed, in [0, 1].
    rng : numpy.random.Generator or int, optional
        Source of the masks.

    Examples
    --------
    >>> import numpy as np
    >>> y = Dropout2d(0.5, rng=0)(np.ones((2, 4, 4, 8)))
    >>> bool((y == y[:, :1, :1]).all()), sorted(set(y.ravel().tolist()))
    (True, [0.0, 2.0])
    """

    def forward(self, x: Array) -> tuple[Array, Any]:
        """Return x with its share of channels zeroed and the rest scaled."""
        if self.p == 0.0 or not self.training:
            return x, None
        channels = (len(x), *(1,) * (x.ndim - 2), x.shape[-1])
        scale, _ = F.dropout(np.ones(channels, dtype=x.dtype), self.p, rng=self.rng)
        return np.multiply(x, scale, out=self._pool.take(x.shape, x.dtype)), scale

    def backward(self, dy: Array, saved: Any, need_dx: bool = True) -> Array | None:
        """Return dy with the forward's zeros and scale."""
        if saved is None:
            return dy
        dx: Array = np.multiply(dy, saved, out=self._pool.take(dy.shape, dy.dtype))
        return dx

    def onnx(self, build: Builder, flow: Flow) -> Flow:
        """Add nothing: a file is for inference."""
        return flow
