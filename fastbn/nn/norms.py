"""What the norms of single samples have in common: statistics of a sample instead of a batch's."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fastbn import functional as F
from fastbn.nn.module import Module, Shape
from fastbn.nn.parameter import Parameter

Array = NDArray[Any]


class SampleNorm(Module):
    """What the four have in common: parameters, their gradients, and that shapes stay."""

    saves_output = False
    statistics_flops: ClassVar[int] = 6  # mean 1, variance 3, difference and quotient
    weight: Parameter | None
    bias: Parameter | None

    def __init__(
        self, shape: Shape, eps: float | None, weight: bool, bias: bool, dtype: Any
    ) -> None:
        super().__init__()
        if eps is not None and not eps >= 0.0:
            raise ValueError(f"{type(self).__name__}: eps should not be negative, got {eps}")
        self.eps = eps
        self.weight = Parameter(np.ones(shape), dtype=dtype) if weight else None
        self.bias = Parameter(np.zeros(shape), dtype=dtype) if bias else None

    def _parameters(self) -> tuple[Array | None, Array | None]:
        return (
            None if self.weight is None else self.weight.data,
            None if self.bias is None else self.bias.data,
        )

    def _backward(self, operation: Any, dy: Array, saved: Any, need_dx: bool) -> Array | None:
        """Write the gradients of weight and bias; return dx."""
        weight, bias = self.weight, self.bias
        destinations: dict[str, Any] = {
            "need_dweight": weight is not None and weight.grad_out is not None,
            "dweight": None if weight is None else weight.grad_out,
        }
        if operation is not F.rms_norm_backward:
            destinations["need_dbias"] = bias is not None and bias.grad_out is not None
            destinations["dbias"] = None if bias is None else bias.grad_out
        out = self._pool.take(dy.shape, dy.dtype) if need_dx else None
        dx, *gradients = operation(dy, saved, need_dx=need_dx, out=out, **destinations)
        for parameter, gradient in zip((weight, bias), gradients, strict=False):
            if parameter is not None:
                parameter.grad = gradient
        return dx  # type: ignore[no-any-return]

    def output_shape(self, input_shape: Shape) -> Shape:
        """Return the input's shape."""
        return input_shape

    def own_flops(self, input_shape: Shape) -> int:
        """Return those of the statistics, of the normalisation, of weight and bias."""
        learned = (self.weight is not None) + (self.bias is not None)
        return (self.statistics_flops + learned) * math.prod(input_shape)
