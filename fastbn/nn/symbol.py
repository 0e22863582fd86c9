"""Symbolic values: what layers are called on to draw a graph."""

from __future__ import annotations

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
    sizes = tuple(shape)
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
