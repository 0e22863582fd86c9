"""The order of the features after a Flatten, H, W, C here and C, H, W in PyTorch and ONNX.

An `Order` holds, for every feature in their order, its index in ours; None is for images, and for
features in one and the same order. It starts at a Flatten, goes through layers that work feature by
feature, and ends in the columns of a Linear: every layer says so itself, in ``follow_order``. A
walk along those rules finds which arrays of the state are permuted between the two worlds.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from fastbn.nn.module import Module

Array = NDArray[Any]
Order = NDArray[np.intp] | None


class OrderError(ValueError):
    """The order of the features cannot be followed through a layer."""


class Orders:
    """What a walk through a network finds.

    Attributes
    ----------
    shapes : dict
        Shape of one sample at the input of a layer, as far as layers have asked for it.
    axes : dict
        By the identity of an array of the state: the axis that is permuted, and the order.
    """

    def __init__(self, net: Module) -> None:
        self.net = net
        self.shapes: dict[Module, tuple[int, ...]] = {}
        self.axes: dict[int, tuple[int, NDArray[np.intp]]] = {}

    def shape_at(self, layer: Module) -> tuple[int, ...]:
        """Return the shape of one sample at the input of a layer."""
        if layer not in self.shapes:
            if self.net.input_shape is None:
                raise ValueError(
                    f"{self.net.where}: layout='NCHW' needs the shape of the input; "
                    "call the network or build(input_shape) first"
                )
            self.shapes |= {step.layer: step.input_shape for step in self.net.trace_built()}
        return self.shapes[layer]

    def permute(self, stored: Array, axis: int, order: Order) -> None:
        """Note that `order` permutes this axis of an array of the state."""
        if order is not None:
            self.axes[id(stored)] = axis, order

    def theirs(self, stored: Array) -> Array:
        """Return the values of an array of the state in the other world's order."""
        axis, order = self.axes.get(id(stored), (0, None))
        return stored if order is None else stored.take(order, axis)


def flattened(shape: tuple[int, ...]) -> Order:
    """Return where PyTorch's flattened features stand in ours: shape (..., C), None if the same.

    Examples
    --------
    >>> flattened((1, 3, 2))
    array([0, 2, 4, 1, 3, 5])
    >>> flattened((28, 28, 1)) is None
    True
    """
    natural = np.arange(int(np.prod(shape))).reshape(shape)
    order = np.moveaxis(natural, -1, 0).reshape(-1)
    return None if np.array_equal(order, natural.reshape(-1)) else order


def same(orders: tuple[Order, ...]) -> bool:
    """Return whether all orders are one."""
    first = orders[0]
    if first is None:
        return all(order is None for order in orders)
    return all(order is not None and np.array_equal(order, first) for order in orders)


def joined(orders: list[Order]) -> Order:
    """Return the order of features that are put one after the other, all of them reordered."""
    starts = np.cumsum([0, *(len(order) for order in orders if order is not None)])
    parts: Iterator[Any] = zip(orders, starts, strict=False)
    return np.concatenate([order + start for order, start in parts])
