"""Slice: some of the channels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbn.nn.geometry import single
from fastbn.nn.module import Module, Shape
from fastbn.nn.onnx import Builder, Flow
from fastbn.nn.state import batch_of

Array = NDArray[Any]


class Slice(Module):
    """Return channels `start` to `stop`, without the last: x (N, ..., C), y (N, ..., stop - start).

    In a `Graph`, several of them split a value.

    Parameters
    ----------
    start, stop : int
        As of ``x[..., start:stop]``, not negative.

    Examples
    --------
    >>> import numpy as np
    >>> Slice(1, 3)(np.arange(4.0).reshape(1, 4))
    array([[1., 2.]])
    """

    saves_output = False
    flops_per_value = 0

    def __init__(self, start: int, stop: int) -> None:
        super().__init__()
        self.start = single(start, "Slice: start", least=0)
        self.stop = single(stop, "Slice: stop", least=self.start + 1)

    def forward(self, x: Array) -> tuple[Array, Any]:
        """Return a copy of the channels."""
        y = self._pool.take((*x.shape[:-1], self.stop - self.start), x.dtype)
        np.copyto(y, x[..., self.start : self.stop])
        return y, x.shape

    def backward(self, dy: Array, saved: Any, need_dx: bool = True) -> Array | None:
        """Return dy in its place, zeros around it."""
        dx = self._pool.take(saved, dy.dtype)
        dx[..., : self.start] = 0
        dx[..., self.start : self.stop] = dy
        dx[..., self.stop :] = 0
        return dx

    def output_shape(self, input_shape: Shape) -> Shape:
        """Return the input's shape, with fewer channels."""
        if self.stop > input_shape[-1]:
            raise ValueError(
                f"{self.where}: there are no channels {self.start}:{self.stop} in an input of "
                f"shape {batch_of(input_shape)}"
            )
        return (*input_shape[:-1], self.stop - self.start)

    def onnx(self, build: Builder, flow: Flow) -> Flow:
        """Add Slice along the channels."""
        bounds: dict[str, Any] = {"starts": [self.start], "ends": [self.stop], "axes": [1]}
        if build.opset < 10:
            value = build.node("Slice", [flow.value], **bounds)
        else:
            weights = [build.weight(name, bound, np.int64) for name, bound in bounds.items()]
            value = build.node("Slice", [flow.value, *weights])
        return flow.to(value, self.output_shape(flow.shape))

    def extra_repr(self) -> str:
        """Return the bounds."""
        return f"{self.start}, {self.stop}"
