"""Flatten: an image as one row of features."""

from __future__ import annotations

import math
from typing import Any

from numpy.typing import NDArray

from fastbn.nn.module import Module, Shape
from fastbn.nn.onnx import Builder, Flow
from fastbn.nn.order import Order, Orders, flattened

Array = NDArray[Any]


class Flatten(Module):
    """Return x (N, ...) as (N, features), in the order H, W, C for an image.

    PyTorch reads C, H, W; ``state_dict(layout="NCHW")`` and the ONNX export permute the columns
    of the Linear that follows.

    Examples
    --------
    >>> import numpy as np
    >>> Flatten()(np.ones((5, 4, 4, 3))).shape
    (5, 48)
    """

    flops_per_value = 0
    reorders = True

    def forward(self, x: Array) -> tuple[Array, Any]:
        """Return the rows, without a copy where x is contiguous."""
        return x.reshape(len(x), math.prod(x.shape[1:])), x.shape

    def backward(self, dy: Array, saved: Any, need_dx: bool = True) -> Array | None:
        """Return dy in the shape of x."""
        return dy.reshape(saved)

    def output_shape(self, input_shape: Shape) -> Shape:
        """Return (features,)."""
        return (math.prod(input_shape),)

    def follow_order(self, found: Orders, *orders: Order) -> Order:
        """Begin the order of an image's features; what is flat already keeps its order."""
        shape = found.shape_at(self)
        return orders[0] if len(shape) == 1 else flattened(shape)

    def onnx(self, build: Builder, flow: Flow) -> Flow:
        """Add Flatten: ONNX reads C, H, W where the library reads H, W, C."""
        if len(flow.shape) == 1:
            return flow
        return flow.to(build.node("Flatten", [flow.value], axis=1), self.output_shape(flow.shape))
