"""What the networks that are drawn as graphs share: convolutions with their names and norms."""

from __future__ import annotations

from typing import Any

from numpy.typing import DTypeLike

from fastbn import nn
from fastbn.nn.init import Rng, generator
from fastbn.nn.symbol import Symbol


class Drawing:
    """A graph that is being drawn; layers are named as they are put in.

    Parameters
    ----------
    model : str
        What messages call the network.
    input_shape : tuple of int
        (H, W, C).
    least : int
        The smallest H and W that the network can take.
    dtype, rng
        Of all layers.
    **norm
        Arguments of every BatchNorm.
    """

    def __init__(
        self,
        model: str,
        input_shape: tuple[int, ...],
        dtype: DTypeLike,
        rng: Rng,
        *,
        least: int = 1,
        **norm: Any,
    ) -> None:
        if len(input_shape) != 3 or min(input_shape[:2]) < least:
            raise ValueError(
                f"{model}: input_shape should be (H, W, C) with H and W at least {least}, "
                f"got {tuple(input_shape)}"
            )
        self.options: dict[str, Any] = {"rng": generator(rng), "dtype": dtype}
        self.norm_options: dict[str, Any] = {"dtype": dtype, **norm}
        self.input = nn.Input(input_shape)
        self.names: list[tuple[Symbol, str]] = []

    def named(self, name: str, layer: nn.Module, *values: Symbol) -> Symbol:
        """Return what a layer makes; it will have this name in the graph."""
        y: Symbol = layer(*values)
        self.names.append((y, name))
        return y

    def conv(
        self, x: Symbol, count: int, size: int, name: str, *, padding: Any = None, **options: Any
    ) -> Symbol:
        """Return a convolution, without bias, that keeps the image's size up to its stride."""
        padding = size // 2 if padding is None else padding
        options = {"bias": False, **options, **self.options}
        layer = nn.Conv2d(x.shape[-1], count, size, padding=padding, **options)
        return self.named(name, layer, x)

    def norm(self, x: Symbol, name: str, activation: type[nn.Module] | None = nn.ReLU) -> Symbol:
        """Return the BatchNorm of a value, and its activation."""
        y = self.named(name, nn.BatchNorm(x.shape[-1], **self.norm_options), x)
        return y if activation is None else activation()(y)

    def conv_norm(
        self,
        x: Symbol,
        count: int,
        size: int,
        names: tuple[str, str],
        activation: type[nn.Module] | None = nn.ReLU,
        **options: Any,
    ) -> Symbol:
        """Return convolution, BatchNorm, activation; `names` are those of the first two."""
        return self.norm(self.conv(x, count, size, names[0], **options), names[1], activation)

    def linear(self, x: Symbol, count: int, name: str) -> Symbol:
        """Return a Linear layer."""
        return self.named(name, nn.Linear(x.shape[-1], count, **self.options), x)

    def dropout(self, x: Symbol, p: float) -> Symbol:
        """Return x with a Dropout after it, if p is not 0."""
        y: Symbol = nn.Dropout(p, rng=self.options["rng"])(x) if p else x
        return y

    def graph(self, y: Symbol) -> nn.Graph:
        """Return the network from the input to y."""
        net = nn.Graph(self.input, y)
        for value, name in self.names:
            net.name(value, name)
        return net
