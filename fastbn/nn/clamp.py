"""Clamp: what is too small or too large becomes the bound."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastbn.nn.affine import weight
from fastbn.nn.elementwise import Elementwise
from fastbn.nn.module import Shape
from fastbn.nn.onnx import Builder, Flow
from fastbn.nn.order import Order, OrderError, Orders
from fastbn.nn.state import batch_of

Array = NDArray[Any]


class Clamp(Elementwise):
    """Return min(max(x, low), high), for x of any shape.

    Parameters
    ----------
    low, high : float or array_like, optional
        Bounds, one number or one for every channel; they are not trained.

    Examples
    --------
    >>> import numpy as np
    >>> Clamp(-1.0, 1.0)(np.array([[-3.0, 0.5, 2.0]]))
    array([[-1. ,  0.5,  1. ]])
    """

    buffer_names = ("low", "high")
    saves_output = False

    def __init__(self, low: ArrayLike | None = None, high: ArrayLike | None = None) -> None:
        super().__init__()
        if low is None and high is None:
            raise ValueError("Clamp: expected a bound")
        self.low = None if low is None else np.atleast_1d(np.array(low, np.float32))
        self.high = None if high is None else np.atleast_1d(np.array(high, np.float32))

    def forward(self, x: Array) -> tuple[Array, Any]:
        """Return x between the bounds."""
        y = self._pool.take(x.shape, x.dtype)
        source = x
        if self.low is not None:
            source = np.maximum(x, self.low.astype(x.dtype, copy=False), out=y)
        if self.high is not None:
            np.minimum(source, self.high.astype(x.dtype, copy=False), out=y)
        return y, x

    def backward(self, dy: Array, saved: Any, need_dx: bool = True) -> Array | None:
        """Return dy where x lies between the bounds, else 0."""
        dx = self._pool.take(dy.shape, dy.dtype)
        np.copyto(dx, dy)
        if self.low is not None:
            dx *= saved > self.low
        if self.high is not None:
            dx *= saved < self.high
        return dx

    def output_shape(self, input_shape: Shape) -> Shape:
        """Return the input's shape."""
        for _, bound in self.own_buffers():
            if bound.size not in (1, input_shape[-1]) or bound.ndim > 1:
                raise ValueError(
                    f"{self.where}: bounds of shape {bound.shape} are not of the channels of an "
                    f"input of shape {batch_of(input_shape)}"
                )
        return input_shape

    def follow_order(self, found: Orders, *orders: Order) -> Order:
        """Permute the bounds with the features."""
        (order,) = orders
        for _, bound in self.own_buffers():
            if bound.size > 1 and order is not None:
                if bound.size != order.size:
                    raise OrderError(f"{self.where}: bounds of other features")
                found.permute(bound, 0, order)
        return order

    def onnx(self, build: Builder, flow: Flow) -> Flow:
        """Add Clip, or Max and Min where channels have bounds of their own."""
        bounds = [self.low, self.high]
        if all(bound is None or bound.size == 1 for bound in bounds):
            low, high = (None if bound is None else float(bound[0]) for bound in bounds)
            if build.opset < 11:
                return flow.to(build.node("Clip", [flow.value], min=low, max=high))
            numbers = [
                None if bound is None else build.weight(name, bound)
                for name, bound in (("min", low), ("max", high))
            ]
            return flow.to(build.node("Clip", [flow.value, *numbers]))
        build.require(8, "Max of channels")
        value = flow.value
        for operator, name, bound in (("Max", "low", self.low), ("Min", "high", self.high)):
            if bound is not None:
                value = build.node(operator, [value, weight(build, name, bound, flow)])
        return flow.to(value)

    def extra_repr(self) -> str:
        """Return the bounds, where they are numbers."""
        shown = ["None" if b is None else f"{b[0]:g}" if b.size == 1 else f"{b.shape}"
                 for b in (self.low, self.high)]  # fmt: skip
        return ", ".join(shown)
