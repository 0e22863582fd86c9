"""What is known of a value of the file: a symbol of the graph, and where its axes lie in that.

Axes are not moved before somebody needs them in a certain order: Transpose, Reshape, Flatten and
Squeeze mostly change nothing but what is written down here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbn import nn
from fastbn.export.errors import ModelError

Array = NDArray[Any]
Axes = tuple[tuple[int, ...], ...]


class UnreadableError(ModelError):
    """A node that no layer can stand for; the message says why."""


@dataclass(frozen=True, slots=True)
class Value:
    """A value of the file.

    Attributes
    ----------
    symbol : Symbol
    axes : tuple of tuple of int
        For every axis of the file's value the axes of the symbol that it consists of, the slowest
        first; 0 is the batch. An axis of size 1 may consist of none, and an axis of the symbol of
        size 1 may belong to none.
    batch : int
        Size of the batch that shapes are worked out with.
    """

    symbol: nn.Symbol
    axes: Axes
    batch: int

    @classmethod
    def natural(cls, symbol: nn.Symbol, batch: int) -> Value:
        """Return a value whose axes are those of the symbol."""
        return cls(symbol, tuple((axis,) for axis in range(len(symbol.shape) + 1)), batch)

    @property
    def rank(self) -> int:
        """Number of axes in the file."""
        return len(self.axes)

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes in the file."""
        sizes = (self.batch, *self.symbol.shape)
        return tuple(math.prod(sizes[axis] for axis in axes) for axes in self.axes)

    def through(self, layer: nn.Module) -> Value:
        """Return what a layer makes that keeps all places."""
        return replace(self, symbol=layer(self.symbol))

    def axis(self, number: int) -> int:
        """Return an axis' number, counted from the front."""
        if not -self.rank <= number < self.rank:
            raise UnreadableError(f"there is no axis {number} of {self.rank}")
        return number % self.rank

    # --- bringing axes into an order ------------------------------------------------------------

    def laid(self, groups: Sequence[tuple[int, ...]]) -> nn.Symbol:
        """Return a symbol whose axes after the batch are groups of this one's."""
        sizes = (0, *self.symbol.shape)
        shape = tuple(math.prod(sizes[axis] for axis in group) for group in groups)
        wanted = [axis for group in groups for axis in group]
        rest = [axis for axis in range(1, len(sizes)) if axis not in wanted]
        moving = [axis for axis in wanted if sizes[axis] > 1]
        if 0 in wanted or any(sizes[axis] > 1 for axis in rest):
            raise UnreadableError("it mixes the samples of a batch")
        if moving == sorted(moving):
            return reshaped(self.symbol, shape)
        shuffled = _shuffled(self.symbol, wanted, shape)
        if shuffled is not None:
            return shuffled
        return reshaped(permuted(self.symbol, (0, *wanted, *rest)), shape)

    def arranged(self, order: Sequence[int]) -> nn.Symbol:
        """Return a symbol that has the file's axes, but for the batch, in this order."""
        if self.axes[0] != (0,):
            raise UnreadableError("the batch is not the first axis")
        return self.laid([self.axes[axis] for axis in order])

    def channels_last(self) -> nn.Symbol:
        """Return a symbol with the second axis last, the others in their order."""
        return self.arranged([*range(2, self.rank), 1])

    def from_channels_last(self, symbol: nn.Symbol) -> Value:
        """Return the value that a layer made of `channels_last`, of the same rank."""
        rank = len(symbol.shape) + 1
        return replace(
            self, symbol=symbol, axes=((0,), (rank - 1,), *((a,) for a in range(1, rank - 1)))
        )

    def ending(self, axis: int) -> Value:
        """Return a value whose symbol ends in this axis alone; the others lie as they like."""
        group = self.axes[axis]
        last = len(self.symbol.shape)
        if group == (last,):
            return self
        if 0 in group:
            raise UnreadableError("it works along the batch")
        others = [a for a in range(1, last + 1) if a not in group]
        symbol = self.laid([*((a,) for a in others), group])
        place = {a: k for k, a in enumerate(others, 1)} | {0: 0}
        axes = [tuple(place[a] for a in group) for group in self.axes[:axis]]
        axes.append((len(others) + 1,))
        axes += [tuple(place[a] for a in group) for group in self.axes[axis + 1 :]]
        return replace(self, symbol=symbol, axes=tuple(axes))

    def split(self, axis: int, sizes: tuple[int, int]) -> tuple[Value, tuple[int, int]]:
        """Split an axis of the symbol in two; return the value, and their numbers."""
        shape = self.symbol.shape
        symbol = reshaped(self.symbol, (*shape[: axis - 1], *sizes, *shape[axis:]))

        def moved(group: tuple[int, ...]) -> tuple[int, ...]:
            found: list[int] = []
            for a in group:
                found += [a, a + 1] if a == axis else [a + (a > axis)]
            return tuple(found)

        return replace(self, symbol=symbol, axes=tuple(map(moved, self.axes))), (axis, axis + 1)

    # --- constants beside it --------------------------------------------------------------------

    def beside(self, array: Array) -> Array | None:
        """Return a constant that is broadcast to this value in the file, as the symbol has it.

        None where it is larger than the value, or has a batch of its own.
        """
        if array.ndim > self.rank:
            return None
        array = array.reshape((1,) * (self.rank - array.ndim) + array.shape)
        sizes = (1, *self.symbol.shape)
        full: list[int] = []
        source: list[int] = []  # the axes of the symbol that `full` are
        for group, size, whole in zip(self.axes, array.shape, self.shape, strict=True):
            if size == 1:
                continue
            if size != whole or (0 in group and self.batch > 1):
                return None
            full += [sizes[a] for a in group]
            source += group
        order = np.argsort(source).tolist()
        shown = array.reshape(full).transpose(order)
        shape = [sizes[a] if a in source else 1 for a in range(len(sizes))]
        shown = shown.reshape(shape[1:])
        while shown.ndim > 1 and shown.shape[0] == 1:
            shown = shown[0]
        return shown


def reshaped(symbol: nn.Symbol, shape: tuple[int, ...]) -> nn.Symbol:
    """Return a symbol in another shape; Reshapes in a row become one, or none."""
    while symbol.shape != shape and type(symbol.layer) is nn.Reshape:
        [symbol] = symbol.inputs
    if symbol.shape == shape:
        return symbol
    result: nn.Symbol = nn.Reshape(*shape)(symbol)
    return result


def permuted(symbol: nn.Symbol, dims: tuple[int, ...]) -> nn.Symbol:
    """Return a symbol with permuted axes; a Permute that undoes one becomes none."""
    layer = symbol.layer
    if isinstance(layer, nn.Permute):
        dims = tuple(layer.dims[dim] for dim in dims)
        [symbol] = symbol.inputs
    if dims == tuple(range(len(dims))):
        return symbol
    result: nn.Symbol = nn.Permute(*dims)(symbol)
    return result


def _shuffled(symbol: nn.Symbol, wanted: Sequence[int], shape: tuple[int, ...]) -> nn.Symbol | None:
    """Return a ChannelShuffle where the channels were split in two, and come back swapped."""
    rank = len(symbol.shape)
    if type(symbol.layer) is not nn.Reshape or rank < 2:
        return None
    [source] = symbol.inputs
    if source.shape != shape or source.shape[:-1] != symbol.shape[:-2]:
        return None
    if list(wanted) != [*range(1, rank - 1), rank, rank - 1]:
        return None
    result: nn.Symbol = nn.ChannelShuffle(symbol.shape[-2])(source)
    return result
