"""Affine: a factor and a summand for every channel, or for every place."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from fastbn.nn.elementwise import Elementwise
from fastbn.nn.module import Shape
from fastbn.nn.onnx import Builder, Flow
from fastbn.nn.order import Order, OrderError, Orders
from fastbn.nn.parameter import Parameter
from fastbn.nn.spread import summed
from fastbn.nn.state import batch_of

Array = NDArray[Any]


class Affine(Elementwise):
    """Return ``weight * x + bias`` for x (N, ...).

    Parameters
    ----------
    weight, bias : array_like, optional
        Initial values, of a shape that can be broadcast to a sample's: (C,) for one number a
        channel. Without weight there is no product, without bias no sum.

    Attributes
    ----------
    weight, bias : Parameter or None

    Raises
    ------
    ValueError
        If there is neither.

    Examples
    --------
    >>> import numpy as np
    >>> Affine(2.0, [1.0, 0.0])(np.ones((1, 2), np.float32))
    array([[3., 2.]], dtype=float32)
    """

    saves_output = False

    def __init__(
        self,
        weight: ArrayLike | None = None,
        bias: ArrayLike | None = None,
        *,
        dtype: DTypeLike = np.float32,
    ) -> None:
        super().__init__()
        if weight is None and bias is None:
            raise ValueError("Affine: expected a weight, a bias, or both")
        given = (None if v is None else np.atleast_1d(v) for v in (weight, bias))
        self.weight, self.bias = (None if v is None else Parameter(v, dtype=dtype) for v in given)

    def forward(self, x: Array) -> tuple[Array, Any]:
        """Return weight · x + bias."""
        y = self._pool.take(x.shape, x.dtype)
        if self.weight is None:
            assert self.bias is not None
            np.add(x, self.bias.data, out=y)
            return y, None
        np.multiply(x, self.weight.data, out=y)
        if self.bias is not None:
            y += self.bias.data
        return y, x

    def backward(self, dy: Array, saved: Any, need_dx: bool = True) -> Array | None:
        """Write the sums of dy · x and dy over what one number is for; return dy · weight."""
        if self.bias is not None and self.bias.grad_out is not None:
            self.bias.grad = summed(dy, (1, *self.bias.shape))[0]
        if self.weight is None:
            return dy
        work = self._pool.take(dy.shape, dy.dtype)
        if self.weight.grad_out is not None:
            np.multiply(dy, saved, out=work)
            self.weight.grad = summed(work, (1, *self.weight.shape))[0]
        if not need_dx:
            return None
        return np.multiply(dy, self.weight.data, out=work)

    def output_shape(self, input_shape: Shape) -> Shape:
        """Return the input's shape."""
        for _, parameter in self.own_parameters():
            try:
                fits = np.broadcast_shapes(parameter.shape, input_shape) == input_shape
            except ValueError:
                fits = False
            if not fits:
                raise ValueError(
                    f"{self.where}: numbers of shape {parameter.shape} cannot be broadcast to an "
                    f"input of shape {batch_of(input_shape)}"
                )
        return input_shape

    def own_flops(self, input_shape: Shape) -> int:
        """Return one for every product and every sum."""
        return sum(1 for _ in self.own_parameters()) * math.prod(input_shape)

    def follow_order(self, found: Orders, *orders: Order) -> Order:
        """Permute the numbers with the features."""
        (order,) = orders
        if order is not None:
            for _, parameter in self.own_parameters():
                if parameter.data.ndim > 1:
                    raise OrderError(f"{self.where}: numbers with axes of their own")
                if parameter.data.size > 1:
                    found.permute(parameter.data, 0, order)
        return order

    def onnx(self, build: Builder, flow: Flow) -> Flow:
        """Add Mul and Add."""
        value = flow.value
        for operator, (name, parameter) in zip(
            ("Mul", "Add"), (("weight", self.weight), ("bias", self.bias)), strict=True
        ):
            if parameter is not None:
                value = build.node(operator, [value, weight(build, name, parameter.data, flow)])
        return flow.to(value)

    def extra_repr(self) -> str:
        """Return the shapes."""
        names = [("weight", self.weight), ("bias", self.bias)]
        return ", ".join(f"{name}={p.shape}" for name, p in names if p is not None)


def weight(build: Builder, name: str, values: Array, flow: Flow) -> Any:
    """Add numbers that are broadcast to a sample, channels-first as in ONNX."""
    rank = len(flow.shape)
    if values.ndim == 1 and (rank == 1 or values.size == 1):
        return build.weight(name, values)  # the state itself: it may be reordered
    full = values.reshape((1,) * (rank - values.ndim) + values.shape)
    return build.weight(name, np.moveaxis(full, -1, 0))
