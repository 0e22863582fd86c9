"""ReLU, LeakyReLU, Sigmoid, Tanh: element by element; Softmax over the channels."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from fastbn import functional as F
from fastbn.nn.elementwise import Elementwise
from fastbn.nn.onnx import Builder, Flow

Array = NDArray[Any]


class ReLU(Elementwise):
    """Return max(x, 0), for x of any shape.

    After a BatchNorm, `Sequential` and `Residual` run both as one operation.

    Examples
    --------
    >>> import numpy as np
    >>> ReLU()(np.array([[-1.0, 2.0]]))
    array([[0., 2.]])
    """

    def forward(self, x: Array) -> tuple[Array, Any]:
        """Return max(x, 0)."""
        return F.relu(x, out=self._pool.take(x.shape, x.dtype))

    def backward(self, dy: Array, saved: Any, need_dx: bool = True) -> Array | None:
        """Return dy where x > 0, else 0."""
        return F.relu_backward(dy, saved, out=self._pool.take(dy.shape, dy.dtype))

    def onnx(self, build: Builder, flow: Flow) -> Flow:
        """Add Relu."""
        return flow.to(build.node("Relu", [flow.value]))


class LeakyReLU(Elementwise):
    """Return x where x > 0, else negative_slope · x, for x of any shape.

    Parameters
    ----------
    negative_slope : float, default 0.01

    Examples
    --------
    >>> import numpy as np
    >>> LeakyReLU(0.5)(np.array([[-1.0, 2.0]]))
    array([[-0.5,  2. ]])
    """

    def __init__(self, negative_slope: float = 0.01) -> None:
        super().__init__()
        self.negative_slope = float(negative_slope)

    def forward(self, x: Array) -> tuple[Array, Any]:
        """Return x where x > 0, else negative_slope · x."""
        return F.leaky_relu(x, self.negative_slope, out=self._pool.take(x.shape, x.dtype))

    def backward(self, dy: Array, saved: Any, need_dx: bool = True) -> Array | None:
        """Return dy where x > 0, else negative_slope · dy."""
        return F.leaky_relu_backward(dy, saved, out=self._pool.take(dy.shape, dy.dtype))

    def onnx(self, build: Builder, flow: Flow) -> Flow:
        """Add LeakyRelu."""
        return flow.to(build.node("LeakyRelu", [flow.value], alpha=self.negative_slope))

    def extra_repr(self) -> str:
        """Return the slope."""
        return f"{self.negative_slope}"


class Sigmoid(Elementwise):
    """Return 1 / (1 + exp(-x)), for x of any shape.

    Examples
    --------
    >>> import numpy as np
    >>> Sigmoid()(np.array([[0.0, 1000.0]]))
    array([[0.5, 1. ]])
    """

    def forward(self, x: Array) -> tuple[Array, Any]:
        """Return 1 / (1 + exp(-x))."""
        return F.sigmoid(x, out=self._pool.take(x.shape, x.dtype))

    def backward(self, dy: Array, saved: Any, need_dx: bool = True) -> Array | None:
        """Return dy · y · (1 - y)."""
        return F.sigmoid_backward(dy, saved, out=self._pool.take(dy.shape, dy.dtype))

    def onnx(self, build: Builder, flow: Flow) -> Flow:
        """Add Sigmoid."""
        return flow.to(build.node("Sigmoid", [flow.value]))


class Tanh(Elementwise):
    """Return the hyperbolic tangent, for x of any shape.

    Examples
    --------
    >>> import numpy as np
    >>> Tanh()(np.array([[0.0, 1000.0]]))
    array([[0., 1.]])
    """

    def forward(self, x: Array) -> tuple[Array, Any]:
        """Return tanh(x)."""
        return F.tanh(x, out=self._pool.take(x.shape, x.dtype))

    def backward(self, dy: Array, saved: Any, need_dx: bool = True) -> Array | None:
        """Return dy · (1 - y²)."""
        return F.tanh_backward(dy, saved, out=self._pool.take(dy.shape, dy.dtype))

    def onnx(self, build: Builder, flow: Flow) -> Flow:
        """Add Tanh."""
        return flow.to(build.node("Tanh", [flow.value]))


class Softmax(Elementwise):
    """Return exp(x) over its sum along the channels, the last axis.

    `CrossEntropyLoss` takes what goes in here, not what comes out.

    Examples
    --------
    >>> import numpy as np
    >>> Softmax()(np.array([[0.0, 0.0]]))
    array([[0.5, 0.5]])
    """

    flops_per_value = 5  # maximum, difference, exp, sum, quotient

    def forward(self, x: Array) -> tuple[Array, Any]:
        """Return the shares."""
        return F.softmax(x, out=self._pool.take(x.shape, x.dtype))

    def backward(self, dy: Array, saved: Any, need_dx: bool = True) -> Array | None:
        """Return y · (dy - sum(dy · y))."""
        return F.softmax_backward(dy, saved, out=self._pool.take(dy.shape, dy.dtype))

    def onnx(self, build: Builder, flow: Flow) -> Flow:
        """Add Softmax."""
        if len(flow.shape) > 1:
            build.require(13, "Softmax over the channels of an image")
        return flow.to(build.node("Softmax", [flow.value], axis=1))
