"""LayerNorm, RMSNorm: statistics of a sample's last axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fastbn import functional as F
from fastbn.nn import state
from fastbn.nn.module import Shape
from fastbn.nn.norms import SampleNorm
from fastbn.nn.onnx import Builder, Flow
from fastbn.nn.order import Order, OrderError, Orders

Array = NDArray[Any]


class _LastAxes(SampleNorm):
    """Of a sample's last axes."""

    normalized_shape: Shape

    def output_shape(self, input_shape: Shape) -> Shape:
        """Return the input's shape."""
        expected = self.normalized_shape
        if input_shape[-len(expected) :] != expected:
            raise ValueError(
                f"{self.where}: expected input of shape "
                f"(N, ..., {', '.join(map(str, expected))}), got {state.batch_of(input_shape)}"
            )
        return input_shape

    def follow_order(self, found: Orders, *orders: Order) -> Order:
        """Permute the parameters: each feature has its own, and the statistics are of all."""
        (order,) = orders
        if order is not None and self.normalized_shape != order.shape:
            raise OrderError(
                f"{self.where}: the order of flattened image features cannot be followed through "
                "parts of them; only layout='NHWC' is possible"
            )
        for _, parameter in self.own_parameters():
            found.permute(parameter.data, 0, order)
        return order

    def _onnx(self, build: Builder, flow: Flow, nodes: Callable[..., Any], *inputs: Any) -> Flow:
        """Add ``nodes(value, axis, *inputs)`` with parameters as they lie in ONNX.

        Features, and whole images, are normalised where they are; else channels are brought to the
        end, and back.
        """
        rank, shape = len(flow.shape) + 1, self.normalized_shape
        if shape == flow.shape:
            weights = [
                build.weight(name, values if values.ndim == 1 else np.moveaxis(values, -1, 0))
                for name, values in inputs
            ]
            return flow.to(nodes(flow.value, 1, *weights))
        weights = [build.weight(name, values) for name, values in inputs]
        last = build.node("Transpose", [flow.value], "nhwc", perm=[0, *range(2, rank), 1])
        value = nodes(last, rank - len(shape), *weights)
        perm = [0, rank - 1, *range(1, rank - 1)]
        return flow.to(build.node("Transpose", [value], "nchw", perm=perm))

    def extra_repr(self) -> str:
        """Return the arguments."""
        shape = self.normalized_shape
        return f"{shape[0] if len(shape) == 1 else shape}, eps={self.eps}"


def _shape_of(layer: str, normalized_shape: int | Sequence[int]) -> Shape:
    one = isinstance(normalized_shape, int | np.integer)
    given: Any = (normalized_shape,) if one else normalized_shape
    sizes = tuple(given)
    if not sizes or any(not isinstance(n, int | np.integer) or n < 1 for n in sizes):
        raise ValueError(
            f"{layer}: normalized_shape should be positive integers, got {normalized_shape}"
        )
    return tuple(int(n) for n in sizes)


class LayerNorm(_LastAxes):
    """Normalise every sample by the mean and the variance of its last axes.

    Ba, Kiros & Hinton, "Layer Normalization" (2016).

    Parameters
    ----------
    normalized_shape : int or sequence of int
        The last axes of the input; channels are the last of them here. PyTorch's (C, H, W) is
        (H, W, C).
    eps : float, default 1e-5
        Added to the variance.
    elementwise_affine : bool, default True
        Whether there is a weight (and a bias, unless `bias` is False).
    bias : bool, default True
        Whether there is a bias.
    dtype : data-type, default float32
        float32 or float64.

    Attributes
    ----------
    weight, bias : Parameter or None, shape `normalized_shape`

    Examples
    --------
    >>> layer = LayerNorm(2)
    >>> layer(np.array([[1, 3], [10, 30]], dtype=np.float32)).round(3)
    array([[-1.,  1.],
           [-1.,  1.]], dtype=float32)
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        *,
        dtype: DTypeLike = np.float32,
    ) -> None:
        shape = _shape_of("LayerNorm", normalized_shape)
        super().__init__(shape, eps, elementwise_affine, elementwise_affine and bias, dtype)
        self.normalized_shape = shape
        self.elementwise_affine = elementwise_affine

    def forward(self, x: Array) -> tuple[Array, Any]:
        """Return the normalised x."""
        assert self.eps is not None
        return F.layer_norm(
            x,
            *self._parameters(),
            normalized_shape=self.normalized_shape,
            eps=self.eps,
            out=self._pool.take(x.shape, x.dtype),
        )

    def backward(self, dy: Array, saved: Any, need_dx: bool = True) -> Array | None:
        """Write the gradients of weight and bias; return dx."""
        return self._backward(F.layer_norm_backward, dy, saved, need_dx)

    def onnx(self, build: Builder, flow: Flow) -> Flow:
        """Add LayerNormalization."""
        build.require(17, "LayerNormalization")
        weight, bias = self._parameters()
        values = np.ones(self.normalized_shape) if weight is None else weight
        inputs = [("weight", values)] + ([] if bias is None else [("bias", bias)])

        def nodes(value: Any, axis: int, *weights: Any) -> Any:
            epsilon = float(self.eps or 0.0)
            return build.node("LayerNormalization", [value, *weights], axis=axis, epsilon=epsilon)

        return self._onnx(build, flow, nodes, *inputs)


class RMSNorm(_LastAxes):
    """Divide every sample by the root of the mean square of its last axes.

    Zhang & Sennrich, "Root Mean Square Layer Normalization" (2019).

    Parameters
    ----------
    normalized_shape : int or sequence of int
        The last axes of the input.
    eps : float or None, default None
        Added to the mean square; None is the spacing of the dtype at 1.
    elementwise_affine : bool, default True
        Whether there is a weight.
    dtype : data-type, default float32
        float32 or float64.

    Attributes
    ----------
    weight : Parameter or None, shape `normalized_shape`

    Examples
    --------
    >>> RMSNorm(2)(np.array([[1, 7]], dtype=np.float32)).round(3)
    array([[0.2, 1.4]], dtype=float32)
    """

    statistics_flops = 3  # mean of squares 2, quotient

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float | None = None,
        elementwise_affine: bool = True,
        *,
        dtype: DTypeLike = np.float32,
    ) -> None:
        shape = _shape_of("RMSNorm", normalized_shape)
        super().__init__(shape, eps, elementwise_affine, False, dtype)
        self.normalized_shape = shape
        self.elementwise_affine = elementwise_affine

    def forward(self, x: Array) -> tuple[Array, Any]:
        """Return the scaled x."""
        return F.rms_norm(
            x,
            self._parameters()[0],
            normalized_shape=self.normalized_shape,
            eps=self.eps,
            out=self._pool.take(x.shape, x.dtype),
        )

    def backward(self, dy: Array, saved: Any, need_dx: bool = True) -> Array | None:
        """Write the gradient of weight; return dx."""
        return self._backward(F.rms_norm_backward, dy, saved, need_dx)

    def onnx(self, build: Builder, flow: Flow) -> Flow:
        """Add RMSNormalization from opset 23 on, before it x / sqrt(mean(x²) + eps) · weight."""
        weight = self._parameters()[0]
        eps = float(np.finfo(np.float32).eps if self.eps is None else self.eps)

        def nodes(value: Any, axis: int, weight: Any) -> Any:
            if build.opset >= 23:
                return build.node("RMSNormalization", [value, weight], axis=axis, epsilon=eps)
            axes = list(range(axis, len(flow.shape) + 1))
            square = build.node("Mul", [value, value], "square")
            if build.opset >= 18:
                mean = build.node(
                    "ReduceMean", [square, build.weight("axes", axes, np.int64)], "mean"
                )
            else:
                mean = build.node("ReduceMean", [square], "mean", axes=axes)
            shifted = build.node("Add", [mean, build.weight("eps", eps)], "shifted")
            scaled = build.node("Div", [value, build.node("Sqrt", [shifted], "root")], "scaled")
            return build.node("Mul", [scaled, weight])

        values = np.ones(self.normalized_shape) if weight is None else weight
        return self._onnx(build, flow, nodes, ("weight", values))
