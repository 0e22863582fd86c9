"""Mean: over some axes of a sample."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbn.nn.geometry import single
from fastbn.nn.module import Module, Shape
from fastbn.nn.onnx import Builder, Flow
from fastbn.nn.state import batch_of

Array = NDArray[Any]


class Mean(Module):
    """Return the mean over axes, which stay with size 1.

    `GlobalAvgPool2d` is that over an image.

    Parameters
    ----------
    *dims : int
        Axes of x, whose first one, the batch, is 0.

    Examples
    --------
    >>> import numpy as np
    >>> Mean(2)(np.array([[[1.0, 3.0], [4.0, 6.0]]]))
    array([[[2.],
            [5.]]])
    """

    saves_output = False

    def __init__(self, *dims: int) -> None:
        super().__init__()
        self.dims = tuple(sorted({single(n, "Mean: dims") for n in dims}))
        if not self.dims:
            raise ValueError("Mean: expected an axis")

    def forward(self, x: Array) -> tuple[Array, Any]:
        """Return the means."""
        y = self._pool.take((len(x), *self.output_shape(x.shape[1:])), x.dtype)
        x.mean(axis=self.dims, keepdims=True, out=y)
        return y, x.shape

    def backward(self, dy: Array, saved: Any, need_dx: bool = True) -> Array | None:
        """Return dy spread evenly."""
        dx = self._pool.take(saved, dy.dtype)
        np.divide(dy, math.prod(saved[dim] for dim in self.dims), out=dx)
        return dx

    def output_shape(self, input_shape: Shape) -> Shape:
        """Return the input's shape, with 1 in the axes' places."""
        if self.dims[-1] > len(input_shape):
            raise ValueError(
                f"{self.where}: an input of shape {batch_of(input_shape)} has no axis "
                f"{self.dims[-1]}"
            )
        return tuple(1 if k in self.dims else n for k, n in enumerate(input_shape, 1))

    def own_flops(self, input_shape: Shape) -> int:
        """Return one for every number of the input."""
        return math.prod(input_shape)

    def onnx(self, build: Builder, flow: Flow) -> Flow:
        """Add ReduceMean, whose axes are an input from opset 18 on."""
        rank = len(flow.shape)
        axes = sorted(1 if dim == rank else dim + 1 for dim in self.dims)
        if build.opset >= 18:
            value = build.node("ReduceMean", [flow.value, build.weight("axes", axes, np.int64)])
        else:
            value = build.node("ReduceMean", [flow.value], axes=axes)
        return flow.to(value, self.output_shape(flow.shape))

    def extra_repr(self) -> str:
        """Return the axes."""
        return ", ".join(map(str, self.dims))
