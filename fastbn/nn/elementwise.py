"""What layers that work on every element alone have in common."""

from __future__ import annotations

from fastbn.nn.module import Module, Shape
from fastbn.nn.order import Order, Orders


class Elementwise(Module):
    """Base class of layers whose output has the input's shape, element for element."""

    flops_per_value = 1

    def output_shape(self, input_shape: Shape) -> Shape:
        """Return the input's shape."""
        return input_shape

    def follow_order(self, found: Orders, *orders: Order) -> Order:
        """Return the input's order."""
        return orders[0]
