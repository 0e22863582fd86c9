"""Add, Multiply, Concatenate: where the branches of a graph join."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbn import functional as F
from fastbn.nn.module import Module, Shape
from fastbn.nn.onnx import Builder, Flow
from fastbn.nn.order import Order, OrderError, Orders, joined, same
from fastbn.nn.state import batch_of
from fastbn.nn.symbol import Symbol

Array = NDArray[Any]
Needs = tuple[bool, ...]


class Add(Module):
    """Return the sum of two inputs or more of one shape.

    In a `Graph`, a BatchNorm in front and a ReLU or LeakyReLU after run as one with it.

    Examples
    --------
    >>> import numpy as np
    >>> Add()(np.ones((1, 2)), np.array([[1.0, 2.0]]))
    array([[2., 3.]])
    """

    saves_output = False

    def forward(self, *inputs: Array) -> tuple[Array, Any]:
        """Return the sum."""
        first: Array = inputs[0]
        return F.add(*inputs, out=self._pool.take(first.shape, first.dtype)), len(inputs)

    def backward(self, dy: Array, saved: int, need_dx: Needs) -> tuple[Array, ...]:
        """Return dy for every input."""
        return (dy,) * saved

    def output_shape(self, *input_shapes: Shape) -> Shape:
        """Return the inputs' shape."""
        if len(input_shapes) < 2 or len(set(input_shapes)) > 1:
            raise ValueError(
                f"{self.where}: expected two inputs or more of one shape, "
                f"got {', '.join(map(batch_of, input_shapes))}"
            )
        return input_shapes[0]

    def own_flops(self, *input_shapes: Shape) -> int:
        """Return one for every number that is added."""
        return (len(input_shapes) - 1) * math.prod(input_shapes[0])

    def follow_order(self, found: Orders, *orders: Order) -> Order:
        """Return the order of the inputs, which must be one."""
        if not same(orders):
            raise OrderError(
                f"{self.where}: the inputs have flattened image features in different orders; only "
                "layout='NHWC' is possible"
            )
        return orders[0]

    def onnx(self, build: Builder, *flows: Flow) -> Flow:
        """Add Add, or Sum."""
        operator = "Add" if len(flows) == 2 else "Sum"
        return flows[0].to(build.node(operator, [flow.value for flow in flows]))


class Multiply(Module):
    """Return the product of two inputs; the second may be one number for each channel, (N, C).

    Squeeze-and-excitation: Hu et al., "Squeeze-and-Excitation Networks" (2018), equation 4.

    Examples
    --------
    >>> import numpy as np
    >>> Multiply()(np.ones((1, 2, 2, 3)), np.array([[1.0, 2.0, 3.0]]))[0, 0]
    array([[1., 2., 3.],
           [1., 2., 3.]])
    """

    flops_per_value = 1
    saves_output = False

    def forward(self, *inputs: Array) -> tuple[Array, Any]:
        """Return the product."""
        x, gate = inputs
        y = self._pool.take(x.shape, x.dtype)
        np.multiply(x, spread(gate, x.ndim), out=y)
        return y, (x, gate)

    def backward(self, dy: Array, saved: Any, need_dx: Needs) -> tuple[Array | None, ...]:
        """Return dy times the other input, summed over positions for a gate."""
        x, gate = saved
        dx = dgate = None
        if need_dx[0]:
            dx = self._pool.take(x.shape, x.dtype)
            np.multiply(dy, spread(gate, x.ndim), out=dx)
        if need_dx[1]:
            product = self._pool.take(x.shape, x.dtype)
            np.multiply(dy, x, out=product)
            dgate = product
            if gate.shape != x.shape:
                dgate = self._pool.take(gate.shape, gate.dtype)
                positions = product.reshape(len(x), -1, x.shape[-1])
                dgate[...] = positions.sum(axis=1, dtype=np.float64)
        return dx, dgate

    def output_shape(self, *input_shapes: Shape) -> Shape:
        """Return the first input's shape."""
        if len(input_shapes) != 2 or input_shapes[1] not in (
            input_shapes[0],
            input_shapes[0][-1:],
        ):
            raise ValueError(
                f"{self.where}: expected two inputs of one shape, or the second of shape (N, C), "
                f"got {', '.join(map(batch_of, input_shapes))}"
            )
        return input_shapes[0]

    def follow_order(self, found: Orders, *orders: Order) -> Order:
        """Return the order of the inputs, which must be one."""
        if not same(orders):
            raise OrderError(
                f"{self.where}: the inputs have flattened image features in different orders; only "
                "layout='NHWC' is possible"
            )
        return orders[0]

    def onnx(self, build: Builder, *flows: Flow) -> Flow:
        """Add Mul; the gate gets axes of size 1 for the positions."""
        x, gate = flows
        value = gate.value
        if gate.shape != x.shape:
            sizes = [0, gate.shape[0], *(1 for _ in x.shape[:-1])]
            shape = build.weight("shape", np.array(sizes), np.int64)
            value = build.node("Reshape", [value, shape], "reshape")
        return x.to(build.node("Mul", [x.value, value]))


class Concatenate(Module):
    """Return two inputs or more side by side along the channels.

    Examples
    --------
    >>> import numpy as np
    >>> Concatenate()(np.zeros((1, 1)), np.ones((1, 2)))
    array([[0., 1., 1.]])
    """

    flops_per_value = 0
    saves_output = False

    def forward(self, *inputs: Array) -> tuple[Array, Any]:
        """Return the inputs side by side."""
        shape = (*inputs[0].shape[:-1], sum(x.shape[-1] for x in inputs))
        return F.concat(*inputs, out=self._pool.take(shape, inputs[0].dtype))

    def backward(self, dy: Array, saved: Any, need_dx: Needs) -> tuple[Array, ...]:
        """Return the parts of dy."""
        out = [self._pool.take(shape, dy.dtype) for shape in saved.shapes]
        dxs: tuple[Array, ...] = F.concat_backward(dy, saved, out=out)
        return dxs

    def output_shape(self, *input_shapes: Shape) -> Shape:
        """Return the inputs' shape, with all their channels."""
        if len(input_shapes) < 2 or len({shape[:-1] for shape in input_shapes}) > 1:
            raise ValueError(
                f"{self.where}: expected two inputs or more that agree in all sizes but the "
                f"channels, got {', '.join(map(batch_of, input_shapes))}"
            )
        return (*input_shapes[0][:-1], sum(shape[-1] for shape in input_shapes))

    def follow_order(self, found: Orders, *orders: Order) -> Order:
        """Return the orders one after the other."""
        if all(order is None for order in orders):
            return None
        if any(order is None for order in orders):
            raise OrderError(
                f"{self.where}: only some inputs are flattened image features; only "
                "layout='NHWC' is possible"
            )
        return joined(list(orders))

    def onnx(self, build: Builder, *flows: Flow) -> Flow:
        """Add Concat along the channels."""
        value = build.node("Concat", [flow.value for flow in flows], axis=1)
        return flows[0].to(value, self.output_shape(*(flow.shape for flow in flows)))


def spread(gate: Array, ndim: int) -> Array:
    """Return a gate (N, C) with axes of size 1 for the positions of an array of `ndim` axes."""
    if gate.ndim == ndim:
        return gate
    return gate.reshape(gate.shape[0], *(1,) * (ndim - 2), gate.shape[1])


def add(*values: Symbol | Sequence[Symbol]) -> Symbol:
    """Return the sum of symbolic values, or of a list of them; see `Add`.

    Examples
    --------
    >>> from fastbn import nn
    >>> x = nn.Input((8, 8, 3))
    >>> add(x, nn.Conv2d(3, 3, 3, padding=1)(x)).shape
    (8, 8, 3)
    """
    drawn: Symbol = Add()(*_each(values))
    return drawn


def multiply(first: Symbol, second: Symbol) -> Symbol:
    """Return the product of symbolic values; see `Multiply`.

    Examples
    --------
    >>> from fastbn import nn
    >>> x = nn.Input((8, 8, 3))
    >>> gate = nn.Sigmoid()(nn.Conv2d(3, 3, 1)(x))
    >>> nn.Graph(x, multiply(x, gate)).output_shape((8, 8, 3))
    (8, 8, 3)
    """
    drawn: Symbol = Multiply()(first, second)
    return drawn


def concat(*values: Symbol | Sequence[Symbol]) -> Symbol:
    """Return symbolic values, or a list of them, side by side; see `Concatenate`.

    Examples
    --------
    >>> from fastbn import nn
    >>> x = nn.Input((8, 8, 3))
    >>> concat(x, nn.Conv2d(3, 5, 1)(x)).shape
    (8, 8, 8)
    """
    drawn: Symbol = Concatenate()(*_each(values))
    return drawn


def _each(values: Sequence[Any]) -> Sequence[Any]:
    """Return the values, also where they were given as one list, as Keras and torch.cat have it."""
    return values[0] if len(values) == 1 and isinstance(values[0], list | tuple) else values
