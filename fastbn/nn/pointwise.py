"""Pointwise: functions of one number that are no layers by themselves; LogSoftmax."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastbn import functional as F
from fastbn.nn.elementwise import Elementwise
from fastbn.nn.onnx import Builder, Flow

Array = NDArray[Any]


class _Function(NamedTuple):
    operator: str  # of ONNX
    forward: Callable[[Array], Array]
    derivative: Callable[[Array, Array], Array]  # of x and y
    opset: int = 7


def _erf(x: Array) -> Array:
    """Return erf(x) = 2 Φ(√2 x) - 1, by way of gelu(z) = z Φ(z) in float64."""
    z = np.maximum(np.abs(x).astype(np.float64) * math.sqrt(2.0), 1e-30)
    return np.copysign(2.0 * F.gelu(z)[0] / z - 1.0, x).astype(x.dtype)


_FUNCTIONS = {
    "abs": _Function("Abs", np.abs, lambda x, y: np.sign(x)),
    "cos": _Function("Cos", np.cos, lambda x, y: -np.sin(x)),
    "erf": _Function("Erf", _erf, lambda x, y: np.exp(-x * x) * (2.0 / math.sqrt(math.pi)), 9),
    "exp": _Function("Exp", np.exp, lambda x, y: y),
    "log": _Function("Log", np.log, lambda x, y: 1.0 / x),
    "neg": _Function("Neg", np.negative, lambda x, y: np.full_like(x, -1.0)),
    "reciprocal": _Function("Reciprocal", lambda x: 1.0 / x, lambda x, y: -y * y),
    "sin": _Function("Sin", np.sin, lambda x, y: np.cos(x)),
    "softsign": _Function(
        "Softsign", lambda x: x / (1.0 + np.abs(x)), lambda x, y: (1.0 + np.abs(x)) ** -2.0
    ),
    "sqrt": _Function("Sqrt", np.sqrt, lambda x, y: 0.5 / y),
}


class Pointwise(Elementwise):
    """Return a function of every element, for x of any shape.

    Parameters
    ----------
    function : str
        "abs", "cos", "erf", "exp", "log", "neg", "reciprocal", "sin", "softsign" or "sqrt".

    Examples
    --------
    >>> import numpy as np
    >>> Pointwise("sqrt")(np.array([[4.0, 9.0]]))
    array([[2., 3.]])
    """

    def __init__(self, function: str) -> None:
        super().__init__()
        if function not in _FUNCTIONS:
            raise ValueError(
                f"Pointwise: function should be one of {', '.join(_FUNCTIONS)}, got {function!r}"
            )
        self.function = function

    def forward(self, x: Array) -> tuple[Array, Any]:
        """Return the function of x."""
        y = self._pool.take(x.shape, x.dtype)
        np.copyto(y, _FUNCTIONS[self.function].forward(x))
        return y, (x, y)

    def backward(self, dy: Array, saved: Any, need_dx: bool = True) -> Array | None:
        """Return dy times the derivative."""
        dx: Array = self._pool.take(dy.shape, dy.dtype)
        return np.multiply(dy, _FUNCTIONS[self.function].derivative(*saved), out=dx)

    def onnx(self, build: Builder, flow: Flow) -> Flow:
        """Add the operator of that name."""
        function = _FUNCTIONS[self.function]
        build.require(function.opset, function.operator)
        return flow.to(build.node(function.operator, [flow.value]))

    def extra_repr(self) -> str:
        """Return the function's name."""
        return repr(self.function)


class Power(Elementwise):
    """Return x to a fixed power, for x of any shape.

    Examples
    --------
    >>> import numpy as np
    >>> Power(2.0)(np.array([[3.0]]))
    array([[9.]])
    """

    def __init__(self, exponent: float) -> None:
        super().__init__()
        self.exponent = float(exponent)

    def forward(self, x: Array) -> tuple[Array, Any]:
        """Return the power."""
        y = self._pool.take(x.shape, x.dtype)
        if self.exponent == 2.0:
            return np.multiply(x, x, out=y), x
        return np.power(x, x.dtype.type(self.exponent), out=y), x

    def backward(self, dy: Array, saved: Any, need_dx: bool = True) -> Array | None:
        """Return dy times the derivative."""
        p = self.exponent
        dx = self._pool.take(dy.shape, dy.dtype)
        slope: Array = 2.0 * saved if p == 2.0 else p * saved ** saved.dtype.type(p - 1.0)
        return np.multiply(dy, slope, out=dx)

    def onnx(self, build: Builder, flow: Flow) -> Flow:
        """Add Pow."""
        exponent = build.weight("exponent", self.exponent)
        return flow.to(build.node("Pow", [flow.value, exponent]))

    def extra_repr(self) -> str:
        """Return the exponent."""
        return f"{self.exponent:g}"


class LogSoftmax(Elementwise):
    """Return x minus the logarithm of the sum of exp(x) along the channels, the last axis.

    Examples
    --------
    >>> import numpy as np
    >>> LogSoftmax()(np.array([[0.0, 0.0]])).round(4)
    array([[-0.6931, -0.6931]])
    """

    flops_per_value = 5  # as Softmax

    def forward(self, x: Array) -> tuple[Array, Any]:
        """Return the logarithms of the shares."""
        y = self._pool.take(x.shape, x.dtype)
        np.subtract(x, x.max(axis=-1, keepdims=True), out=y)
        y -= np.log(np.exp(y).sum(axis=-1, keepdims=True))
        return y, y

    def backward(self, dy: Array, saved: Any, need_dx: bool = True) -> Array | None:
        """Return dy - exp(y) · sum(dy)."""
        dx = self._pool.take(dy.shape, dy.dtype)
        np.multiply(np.exp(saved), dy.sum(axis=-1, keepdims=True), out=dx)
        return np.subtract(dy, dx, out=dx)

    def onnx(self, build: Builder, flow: Flow) -> Flow:
        """Add LogSoftmax."""
        if len(flow.shape) > 1:
            build.require(13, "LogSoftmax over the channels of an image")
        return flow.to(build.node("LogSoftmax", [flow.value], axis=1))
