"""Take: chosen places along an axis, in any order, also several times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbn.nn.geometry import single
from fastbn.nn.module import Module, Shape
from fastbn.nn.onnx import Builder, Flow
from fastbn.nn.state import batch_of

Array = NDArray[Any]


class Take(Module):
    """Return ``np.take(x, indices, dim)``.

    `Slice` takes channels that follow one another.

    Parameters
    ----------
    indices : sequence of int
        Places along the axis, from 0.
    dim : int, default -1
        Axis of x, not the batch.

    Examples
    --------
    >>> import numpy as np
    >>> Take([2, 0, 0])(np.array([[1.0, 2.0, 3.0]]))
    array([[3., 1., 1.]])
    """

    saves_output = False
    flops_per_value = 0

    def __init__(self, indices: Sequence[int], dim: int = -1) -> None:
        super().__init__()
        self.indices = np.array([single(n, "Take: indices", least=0) for n in indices], np.intp)
        if not self.indices.size:
            raise ValueError("Take: indices should not be empty")
        self.dim = dim if dim == -1 else single(dim, "Take: dim")

    def forward(self, x: Array) -> tuple[Array, Any]:
        """Return what lies there."""
        y = self._pool.take((len(x), *self.output_shape(x.shape[1:])), x.dtype)
        np.take(x, self.indices, axis=self.dim, out=y, mode="clip")  # "raise" would buffer
        return y, x.shape

    def backward(self, dy: Array, saved: Any, need_dx: bool = True) -> Array | None:
        """Return the sum of what was taken from every place."""
        dx = self._pool.take(saved, dy.dtype)
        dx.fill(0)
        places = np.moveaxis(dx, self.dim, 0)
        for index, part in zip(self.indices, np.moveaxis(dy, self.dim, 0), strict=True):
            places[index] += part
        return dx

    def output_shape(self, input_shape: Shape) -> Shape:
        """Return the input's shape, with as many places as there are indices."""
        axis = len(input_shape) if self.dim == -1 else self.dim
        if axis > len(input_shape) or self.indices.max() >= input_shape[axis - 1]:
            raise ValueError(
                f"{self.where}: an input of shape {batch_of(input_shape)} has no place "
                f"{self.indices.max()} along axis {axis}"
            )
        return (*input_shape[: axis - 1], len(self.indices), *input_shape[axis:])

    def onnx(self, build: Builder, flow: Flow) -> Flow:
        """Add Gather."""
        rank = len(flow.shape)
        axis = 1 if self.dim in (-1, rank) else self.dim + 1
        indices = build.weight("indices", self.indices, np.int64)
        value = build.node("Gather", [flow.value, indices], axis=axis)
        return flow.to(value, self.output_shape(flow.shape))

    def extra_repr(self) -> str:
        """Return how many places, and the axis."""
        return f"{len(self.indices)} places" + ("" if self.dim == -1 else f", dim={self.dim}")
