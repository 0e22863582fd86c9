"""Symbolic values: what layers are called on to draw a graph."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastbn.nn.module import Module

Shape = tuple[int, ...]


class Symbol:
    """A value of a network that is being drawn; see `fastbn.nn.Graph`.

    Attributes
    ----------
    shape : tuple of int
        Of one sample, without the batch dimension.
    layer : Module or None
        What makes it; None for an input.
    inputs : tuple of Symbol
        What that layer is called on.

    Examples
    --------
    >>> from fastbn import nn
    >>> x = nn.Input((8, 8, 3))
    >>> y = nn.Conv2d(3, 16, 3, stride=2)(x)
    >>> y.shape, type(y.layer).__name__, y.inputs == (x,)
    ((3, 3, 16), 'Conv2d', True)
    """

    __slots__ = ("inputs", "layer", "shape")

    def __init__(
        self, shape: Shape, layer: Module | None = None, inputs: tuple[Symbol, ...] = ()
    ) -> None:
        self.shape = shape
        self.layer = layer
        self.inputs = inputs

    def __repr__(self) -> str:
        source = "Input" if self.layer is None else type(self.layer).__name__
        return f"<{source}: {self.shape}>"


def Input(shape: Shape) -> Symbol:  # noqa: N802
    """Return an input of a `Graph`.

    Parameters
    ----------
    shape : tuple of int
        Of one sample, without the batch dimension, channels last.

    Examples
    --------
    >>> Input((32, 32, 3))
    <Input: (32, 32, 3)>
    """
    sizes = tuple(shape) if isinstance(shape, Iterable) else ()
    if not sizes or any(not hasattr(n, "__index__") or isinstance(n, bool) for n in sizes):
        raise TypeError(f"Input: shape should be a tuple of ints, got {shape!r}")
    if min(sizes) < 1:
        raise ValueError(f"Input: shape should hold positive sizes, got {shape!r}")
    return Symbol(tuple(map(int, sizes)))


def drawn(layer: Module, inputs: tuple[object, ...]) -> Symbol:
    """Return what a layer makes of symbolic inputs; ValueError if it cannot take their shapes."""
    symbols = [x for x in inputs if isinstance(x, Symbol)]
    if len(symbols) < len(inputs):
        raise TypeError(f"{layer.where}: called on symbolic values and on others at once")
    shape = layer.output_shape(*(x.shape for x in symbols))
    if shape and isinstance(shape[0], tuple):
        raise ValueError(f"{layer.where}: a network of several outputs is no layer of a graph")
    return Symbol(tuple(shape), layer, tuple(symbols))


def listed(values: Symbol | Sequence[Symbol], what: str) -> list[Symbol]:
    """Return the inputs or outputs of a graph as a list; TypeError or ValueError if none fit."""
    found = [values] if isinstance(values, Symbol) else list(values)
    if not found or not all(isinstance(value, Symbol) for value in found):
        raise TypeError(f"Graph: {what} should be one symbolic value or several, got {values!r}")
    if what == "inputs" and any(value.layer is not None for value in found):
        raise ValueError("Graph: inputs should be what nn.Input returns")
    return found


def ordered(sources: list[Symbol], ends: list[Symbol]) -> list[Symbol]:
    """Return what layers make, each after what it is made of."""
    known = {id(value) for value in sources}
    if len(known) < len(sources):
        raise ValueError("Graph: an input is given twice")
    order: list[Symbol] = []
    used: set[int] = set()
    stack = [(value, False) for value in reversed(ends)]
    while stack:
        value, ready = stack.pop()
        if ready:
            order.append(value)
        elif value.layer is None:
            used.add(id(value))
            if id(value) not in known:
                raise ValueError(f"Graph: an output depends on {value!r}, which is no input given")
        elif id(value) not in known:
            known.add(id(value))
            stack.append((value, True))
            stack.extend((x, False) for x in reversed(value.inputs))
    if any(id(value) not in used for value in sources):
        raise ValueError("Graph: no output depends on one of the inputs")
    return order
