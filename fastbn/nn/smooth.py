"""Smooth and clipped activations: ELU, SELU, SiLU, GELU, Hardswish, Softplus, Mish and others.

What they compute, and where it comes from, is said in `fastbn.functional`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

from numpy.typing import NDArray

from fastbn import functional as F
from fastbn.functional.smooth import Approximate
from fastbn.nn.elementwise import Elementwise
from fastbn.nn.onnx import Builder, Flow

Array = NDArray[Any]
Pair = tuple[Callable[..., tuple[Array, Any]], Callable[..., Array]]


class Activation(Elementwise):
    """Base class of layers that are a pair of `fastbn.functional`, perhaps with a parameter."""

    pair: ClassVar[Pair]

    def parameter(self) -> tuple[Any, ...]:
        """Return what forward gets after x."""
        return ()

    def forward(self, x: Array) -> tuple[Array, Any]:
        """Return the activation of x."""
        return self.pair[0](x, *self.parameter(), out=self._pool.take(x.shape, x.dtype))

    def backward(self, dy: Array, saved: Any, need_dx: bool = True) -> Array | None:
        """Return dy times the derivative."""
        return self.pair[1](dy, saved, out=self._pool.take(dy.shape, dy.dtype))

    def extra_repr(self) -> str:
        """Return the parameter."""
        return ", ".join(map(repr, self.parameter()))


class ELU(Activation):
    """Return x where x > 0, else alpha (exp(x) - 1), for x of any shape.

    Parameters
    ----------
    alpha : float, default 1

    Examples
    --------
    >>> import numpy as np
    >>> ELU()(np.array([[-1.0, 2.0]])).round(4)
    array([[-0.6321,  2.    ]])
    """

    pair = (F.elu, F.elu_backward)

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__()
        self.alpha = float(alpha)

    def parameter(self) -> tuple[Any, ...]:
        """Return alpha."""
        return (self.alpha,)

    def onnx(self, build: Builder, flow: Flow) -> Flow:
        """Add Elu."""
        return flow.to(build.node("Elu", [flow.value], alpha=self.alpha))


class SELU(Activation):
    """Return ELU with alpha 1.6733, times 1.0507, for x of any shape.

    Examples
    --------
    >>> import numpy as np
    >>> SELU()(np.array([[-1.0, 2.0]])).round(4)
    array([[-1.1113,  2.1014]])
    """

    pair = (F.selu, F.selu_backward)

    def onnx(self, build: Builder, flow: Flow) -> Flow:
        """Add Selu, whose defaults are the paper's constants."""
        return flow.to(build.node("Selu", [flow.value]))


class SiLU(Activation):
    """Return x σ(x), for x of any shape.

    Examples
    --------
    >>> import numpy as np
    >>> SiLU()(np.array([[-1.0, 2.0]])).round(4)
    array([[-0.2689,  1.7616]])
    """

    pair = (F.silu, F.silu_backward)

    def onnx(self, build: Builder, flow: Flow) -> Flow:
        """Add Sigmoid and Mul."""
        gate = build.node("Sigmoid", [flow.value], "sigmoid")
        return flow.to(build.node("Mul", [flow.value, gate]))


class GELU(Activation):
    """Return x times the normal distribution's integral up to x, for x of any shape.

    Parameters
    ----------
    approximate : {"none", "tanh"}
        The form with tanh is off by up to 5e-4.

    Examples
    --------
    >>> import numpy as np
    >>> GELU()(np.array([[-1.0, 2.0]])).round(4)
    array([[-0.1587,  1.9545]])
    """

    pair = (F.gelu, F.gelu_backward)

    def __init__(self, approximate: Approximate = "none") -> None:
        super().__init__()
        if approximate not in {"none", "tanh"}:
            raise ValueError(
                f"GELU: approximate should be 'none' or 'tanh', but got {approximate!r}"
            )
        self.approximate: Approximate = approximate

    def parameter(self) -> tuple[Any, ...]:
        """Return the form."""
        return (self.approximate,)

    def onnx(self, build: Builder, flow: Flow) -> Flow:
        """Add Gelu from opset 20 on; before, x (1 + Erf(x / √2)) / 2, or the same with Tanh."""
        x = flow.value
        if build.opset >= 20:
            return flow.to(build.node("Gelu", [x], approximate=self.approximate))
        if self.approximate == "none":
            build.require(9, "Erf")
            inside = _number(build, "Mul", x, "scale", math.sqrt(0.5))
            value = build.node("Erf", [inside], "erf")
        else:
            square = build.node("Mul", [x, x], "square")
            inner = _number(build, "Mul", square, "cube", 0.044715)
            inner = _number(build, "Add", inner, "plus", 1.0)
            inner = _number(build, "Mul", inner, "scale", math.sqrt(2.0 / math.pi))
            value = build.node("Tanh", [build.node("Mul", [x, inner], "inside")], "tanh")
        gate = _number(build, "Mul", _number(build, "Add", value, "one", 1.0), "half", 0.5)
        return flow.to(build.node("Mul", [x, gate]))


class Hardsigmoid(Activation):
    """Return min(max(x + 3, 0), 6) / 6, for x of any shape.

    Examples
    --------
    >>> import numpy as np
    >>> Hardsigmoid()(np.array([[-1.0, 2.0]])).round(4)
    array([[0.3333, 0.8333]])
    """

    pair = (F.hardsigmoid, F.hardsigmoid_backward)

    def onnx(self, build: Builder, flow: Flow) -> Flow:
        """Add HardSigmoid with PyTorch's slope, 1/6."""
        return flow.to(build.node("HardSigmoid", [flow.value], alpha=1.0 / 6.0, beta=0.5))


class Hardswish(Activation):
    """Return x min(max(x + 3, 0), 6) / 6, for x of any shape.

    Examples
    --------
    >>> import numpy as np
    >>> Hardswish()(np.array([[-1.0, 2.0]])).round(4)
    array([[-0.3333,  1.6667]])
    """

    pair = (F.hardswish, F.hardswish_backward)

    def onnx(self, build: Builder, flow: Flow) -> Flow:
        """Add HardSwish from opset 14 on; before, HardSigmoid and Mul."""
        if build.opset >= 14:
            return flow.to(build.node("HardSwish", [flow.value]))
        gate = build.node("HardSigmoid", [flow.value], "gate", alpha=1.0 / 6.0, beta=0.5)
        return flow.to(build.node("Mul", [flow.value, gate]))


class ReLU6(Activation):
    """Return min(max(x, 0), 6), for x of any shape.

    Examples
    --------
    >>> import numpy as np
    >>> ReLU6()(np.array([[-1.0, 2.0]])).round(4)
    array([[0., 2.]])
    """

    pair = (F.relu6, F.relu6_backward)

    def onnx(self, build: Builder, flow: Flow) -> Flow:
        """Add Clip, whose bounds are inputs from opset 11 on, attributes before."""
        if build.opset < 11:
            return flow.to(build.node("Clip", [flow.value], min=0.0, max=6.0))
        bounds = [build.weight("min", 0.0), build.weight("max", 6.0)]
        return flow.to(build.node("Clip", [flow.value, *bounds]))


class Softplus(Activation):
    """Return log(1 + exp(beta x)) / beta, for x of any shape.

    Parameters
    ----------
    beta : float, default 1
        Positive.

    Examples
    --------
    >>> import numpy as np
    >>> Softplus()(np.array([[-1.0, 2.0]])).round(4)
    array([[0.3133, 2.1269]])
    """

    pair = (F.softplus, F.softplus_backward)

    def __init__(self, beta: float = 1.0) -> None:
        super().__init__()
        if not 0.0 < beta < math.inf:
            raise ValueError(f"Softplus: beta should be finite and > 0, but got {beta}")
        self.beta = float(beta)

    def parameter(self) -> tuple[Any, ...]:
        """Return beta."""
        return (self.beta,)

    def onnx(self, build: Builder, flow: Flow) -> Flow:
        """Add Softplus, between a Mul and a Div where beta is not 1."""
        if self.beta == 1.0:
            return flow.to(build.node("Softplus", [flow.value]))
        value = _number(build, "Mul", flow.value, "beta", self.beta)
        value = build.node("Softplus", [value], "softplus")
        return flow.to(_number(build, "Div", value, "divisor", self.beta))


class Mish(Activation):
    """Return x tanh(log(1 + exp(x))), for x of any shape.

    Examples
    --------
    >>> import numpy as np
    >>> Mish()(np.array([[-1.0, 2.0]])).round(4)
    array([[-0.3034,  1.944 ]])
    """

    pair = (F.mish, F.mish_backward)

    def onnx(self, build: Builder, flow: Flow) -> Flow:
        """Add Mish from opset 18 on; before, Softplus, Tanh and Mul."""
        if build.opset >= 18:
            return flow.to(build.node("Mish", [flow.value]))
        gate = build.node("Softplus", [flow.value], "softplus")
        gate = build.node("Tanh", [gate], "tanh")
        return flow.to(build.node("Mul", [flow.value, gate]))


def _number(build: Builder, operator: str, value: Any, name: str, number: float) -> Any:
    """Add an operator with a number after the value."""
    return build.node(operator, [value, build.weight(name, number)], name)
