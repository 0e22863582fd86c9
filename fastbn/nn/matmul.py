"""MatMul: the product of two values, as attention needs it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbn.nn.module import Module, Shape
from fastbn.nn.onnx import Builder, Flow
from fastbn.nn.state import batch_of

Array = NDArray[Any]


class MatMul(Module):
    """Return a @ b over the last two axes: a (N, ..., L, K), b (N, ..., K, M), y (N, ..., L, M).

    Examples
    --------
    >>> import numpy as np
    >>> MatMul()(np.ones((1, 2, 3)), np.ones((1, 3, 1)))
    array([[[3.],
            [3.]]])
    """

    saves_output = False

    def forward(self, *inputs: Array) -> tuple[Array, Any]:
        """Return the product."""
        a, b = inputs
        return self._product(a, b), (a, b)

    def backward(self, dy: Array, saved: Any, need_dx: tuple[bool, ...]) -> tuple[Any, ...]:
        """Return dy @ bᵀ and aᵀ @ dy."""
        a, b = saved
        return (
            self._product(dy, b.swapaxes(-1, -2)) if need_dx[0] else None,
            self._product(a.swapaxes(-1, -2), dy) if need_dx[1] else None,
        )

    def _product(self, a: Array, b: Array) -> Array:
        out = self._pool.take((*a.shape[:-1], b.shape[-1]), a.dtype)
        return np.matmul(a, b, out=out)

    def output_shape(self, *input_shapes: Shape) -> Shape:
        """Return (..., L, M)."""
        if len(input_shapes) != 2 or any(len(shape) < 2 for shape in input_shapes):
            raise ValueError(f"{self.where}: expected two inputs of shape (N, ..., rows, columns)")
        a, b = input_shapes
        if a[:-2] != b[:-2] or a[-1] != b[-2]:
            raise ValueError(
                f"{self.where}: {batch_of(a)} and {batch_of(b)} cannot be multiplied as matrices"
            )
        return (*a[:-1], b[-1])

    def own_flops(self, *input_shapes: Shape) -> int:
        """Return two for every product."""
        return 2 * math.prod(input_shapes[0]) * input_shapes[1][-1]

    def onnx(self, build: Builder, *flows: Flow) -> Flow:
        """Add MatMul between Transposes, as channels are the last axis here."""
        rank = len(flows[0].shape) + 1
        last = [0, *range(2, rank), 1]
        values = [
            build.node("Transpose", [flow.value], name, perm=last)
            for name, flow in zip(("a", "b"), flows, strict=True)
        ]
        value = build.node("MatMul", values)
        perm = [0, rank - 1, *range(1, rank - 1)]
        value = build.node("Transpose", [value], "y", perm=perm)
        return flows[0].to(value, self.output_shape(*(flow.shape for flow in flows)))
