"""Linear: a weighted sum of all features."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fastbn import functional as F
from fastbn.nn import init, state
from fastbn.nn.module import Module, Shape
from fastbn.nn.onnx import Builder, Flow
from fastbn.nn.order import Order, Orders
from fastbn.nn.parameter import Parameter

Array = NDArray[Any]


class Linear(Module):
    """Return ``x @ weight.T + bias``: x (..., in_features), y (..., out_features).

    Parameters
    ----------
    in_features, out_features : int
        Sizes of the last axis of input and output.
    bias : bool, default True
        Whether there is a bias.
    rng : numpy.random.Generator or int, optional
        Source of the initial values, PyTorch's: U(-b, b) with b = 1/√in_features.
    dtype : data-type, default float32
        float32 or float64.

    Attributes
    ----------
    weight : Parameter, shape (out_features, in_features)
        Stored as (in_features, out_features).
    bias : Parameter or None, shape (out_features,)

    Examples
    --------
    >>> import numpy as np
    >>> layer = Linear(3, 2, rng=0)
    >>> layer.weight.data = [[1, 0, 0], [0, 1, 1]]
    >>> layer.bias.data = [0.5, 0]
    >>> layer(np.array([[1, 2, 3]], dtype=np.float32))
    array([[1.5, 5. ]], dtype=float32)
    """

    saves_output = False

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        rng: init.Rng = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        super().__init__()
        init.check_sizes(self, in_features=in_features, out_features=out_features)
        self.in_features = in_features
        self.out_features = out_features
        rng = init.generator(rng)
        values = init.kaiming_uniform((out_features, in_features), rng=rng)
        self.weight = Parameter(values, order=(1, 0), dtype=dtype)
        self.bias: Parameter | None = None
        if bias:
            values = init.bias_uniform(out_features, in_features, rng=rng)
            self.bias = Parameter(values, dtype=dtype)

    def forward(self, x: Array) -> tuple[Array, Any]:
        """Return the sums."""
        return F.linear(
            x,
            self.weight.data,
            None if self.bias is None else self.bias.data,
            out=self._pool.take((*x.shape[:-1], self.out_features), x.dtype),
        )

    def backward(self, dy: Array, saved: Any, need_dx: bool = True) -> Array | None:
        """Write the gradients of weight and bias; return dx."""
        weight, bias = self.weight, self.bias
        dbias = None if bias is None else bias.grad_out
        dx, weight.grad, dbias = F.linear_backward(
            dy,
            saved,
            need_dx=need_dx,
            need_dweight=weight.grad_out is not None,
            need_dbias=dbias is not None,
            out=self._pool.take((*dy.shape[:-1], self.in_features), dy.dtype) if need_dx else None,
            dweight=weight.grad_out,
            dbias=dbias,
        )
        if bias is not None:
            bias.grad = dbias
        return dx

    def output_shape(self, input_shape: Shape) -> Shape:
        """Return (..., out_features)."""
        if not input_shape or input_shape[-1] != self.in_features:
            raise ValueError(
                f"{self.where}: mat1 and mat2 shapes cannot be multiplied, expected input of shape "
                f"(N, ..., {self.in_features}), got {state.batch_of(input_shape)}"
            )
        return (*input_shape[:-1], self.out_features)

    def own_flops(self, input_shape: Shape) -> int:
        """Return two for every weight, for every row of features."""
        return 2 * self.weight.size * math.prod(input_shape[:-1])

    def follow_order(self, found: Orders, *orders: Order) -> Order:
        """Permute the columns of the weight; the outputs have an order of their own."""
        found.permute(self.weight.data, 1, orders[0])
        return None

    def onnx(self, build: Builder, flow: Flow) -> Flow:
        """Add Gemm; on images and sequences, whose channels are axis 1, a convolution of size 1."""
        shape = self.output_shape(flow.shape)
        spatial = len(flow.shape) - 1
        bias = [] if self.bias is None else [build.weight("bias", self.bias.data)]
        if spatial:
            weight = build.weight(
                "weight", self.weight.data.reshape(*self.weight.shape, *(1,) * spatial)
            )
            value = build.node("Conv", [flow.value, weight, *bias], kernel_shape=[1] * spatial)
            return flow.to(value, shape)
        weight = build.weight("weight", self.weight.data)
        if not bias and build.opset < 11:
            bias = [build.weight("bias", np.zeros(self.out_features))]
        return flow.to(build.node("Gemm", [flow.value, weight, *bias], transB=1), shape)

    def extra_repr(self) -> str:
        """Return the arguments."""
        bias = "" if self.bias is not None else ", bias=False"
        return f"{self.in_features}, {self.out_features}{bias}"
