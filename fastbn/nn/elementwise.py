"""What layers that work on every element alone have in common."""

from __future__ import annotations

from fastbn.nn import state
from fastbn.nn.module import Module, Shape


class Elementwise(Module):
    """Base class of layers whose output has the input's shape, element for element."""

    def output_shape(self, input_shape: Shape) -> Shape:
        """Return the input's shape."""
        return input_shape

    def follow_order(self, order: state.Order, found: state.Reordered) -> state.Order:
        """Return the input's order."""
        return order
