"""Broadcast: sizes of 1 spread over many places, and the sums that lead back."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbn.nn.geometry import single
from fastbn.nn.module import Module, Shape
from fastbn.nn.onnx import Builder, Flow
from fastbn.nn.state import batch_of

Array = NDArray[Any]


class Broadcast(Module):
    """Repeat x along axes of size 1: x (N, ...), y (N, *shape).

    Parameters
    ----------
    *shape : int
        Of one sample of the output.

    Examples
    --------
    >>> import numpy as np
    >>> Broadcast(2, 3)(np.array([[[1.0], [2.0]]]))[0]
    array([[1., 1., 1.],
           [2., 2., 2.]])
    """

    saves_output = False
    flops_per_value = 0

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.shape = tuple(single(n, "Broadcast: shape") for n in shape)

    def forward(self, x: Array) -> tuple[Array, Any]:
        """Return the copies."""
        y = self._pool.take((len(x), *self.shape), x.dtype)
        y[...] = x
        return y, x.shape

    def backward(self, dy: Array, saved: Any, need_dx: bool = True) -> Array | None:
        """Return the sum over the copies."""
        return summed(dy, saved)

    def output_shape(self, input_shape: Shape) -> Shape:
        """Return the shape."""
        pairs = zip(input_shape, self.shape, strict=False)
        if len(input_shape) != len(self.shape) or any(n not in (1, m) for n, m in pairs):
            raise ValueError(
                f"{self.where}: an input of shape {batch_of(input_shape)} cannot be broadcast to "
                f"{batch_of(self.shape)}"
            )
        return self.shape

    def onnx(self, build: Builder, flow: Flow) -> Flow:
        """Add Expand."""
        build.require(8, "Expand")
        sizes = [1, self.shape[-1], *self.shape[:-1]]
        value = build.node("Expand", [flow.value, build.weight("shape", sizes, np.int64)])
        return flow.to(value, self.shape)

    def extra_repr(self) -> str:
        """Return the shape."""
        return ", ".join(map(str, self.shape))


def summed(dy: Array, shape: tuple[int, ...]) -> Array:
    """Return the sum of dy over all that was broadcast from `shape`, which may have fewer axes.

    Its first axis stands for the batch: with size 1 it is summed, too.
    """
    full = (shape[0], *(1,) * (dy.ndim - len(shape)), *shape[1:])
    axes = tuple(axis for axis, (n, m) in enumerate(zip(dy.shape, full, strict=True)) if n != m)
    if not axes:
        return dy.reshape(shape)
    total: Array = dy.sum(axis=axes, dtype=np.float64, keepdims=True)
    return total.astype(dy.dtype).reshape(shape)
