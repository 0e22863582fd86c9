"""Scale: a fixed factor, as between logits and softmax."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbn.nn.elementwise import Elementwise
from fastbn.nn.onnx import Builder, Flow

Array = NDArray[Any]


class Scale(Elementwise):
    """Return factor · x, for x of any shape; the factor is not trained.

    Parameters
    ----------
    factor : float

    Examples
    --------
    >>> import numpy as np
    >>> Scale(0.5)(np.array([[2.0, 4.0]]))
    array([[1., 2.]])
    """

    def __init__(self, factor: float) -> None:
        super().__init__()
        if not np.isfinite(factor):
            raise ValueError(f"Scale: factor should be finite, but got {factor}")
        self.factor = float(factor)

    def forward(self, x: Array) -> tuple[Array, Any]:
        """Return factor · x."""
        return self._scaled(x), None

    def backward(self, dy: Array, saved: Any, need_dx: bool = True) -> Array | None:
        """Return factor · dy."""
        return self._scaled(dy)

    def _scaled(self, x: Array) -> Array:
        out: Array = self._pool.take(x.shape, x.dtype)
        np.multiply(x, x.dtype.type(self.factor), out=out)
        return out

    def onnx(self, build: Builder, flow: Flow) -> Flow:
        """Add Mul by a constant."""
        return flow.to(build.node("Mul", [flow.value, build.weight("factor", self.factor)]))

    def extra_repr(self) -> str:
        """Return the factor."""
        return f"{self.factor}"
