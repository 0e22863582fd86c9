"""Activations: one layer each, element by element; Softmax along an axis."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from fastbn import nn
from fastbn.export.read.arithmetic import affine, clamped, combine
from fastbn.export.read.node import FLOATS, Node, reads
from fastbn.export.read.value import UnreadableError, Value

_PLAIN: dict[str, Callable[[Node], nn.Module]] = {
    "Relu": lambda node: nn.ReLU(),
    "LeakyRelu": lambda node: nn.LeakyReLU(node.number("alpha", 0.01)),
    "Sigmoid": lambda node: nn.Sigmoid(),
    "Tanh": lambda node: nn.Tanh(),
    "Elu": lambda node: nn.ELU(node.number("alpha", 1.0)),
    "Softplus": lambda node: nn.Softplus(),
    "HardSwish": lambda node: nn.Hardswish(),
    "Mish": lambda node: nn.Mish(),
}


@reads(*_PLAIN)
def plain(node: Node) -> Value:
    """Read an activation that is one layer."""
    return node.value().through(_PLAIN[node.operator](node))


@reads("Gelu")
def gelu(node: Node) -> Value:
    """Read GELU, in one of its two forms."""
    return node.value().through(nn.GELU("tanh" if node.text("approximate") == "tanh" else "none"))


@reads("Swish")
def swish(node: Node) -> Value:
    """Read x σ(alpha x)."""
    x, alpha = node.value(), node.number("alpha", 1.0)
    if alpha == 1.0:
        return x.through(nn.SiLU())
    return combine(nn.Multiply(), x, x.through(nn.Scale(alpha)).through(nn.Sigmoid()))


@reads("Selu")
def selu(node: Node) -> Value:
    """Read SELU; with constants of its own it is a scaled ELU."""
    alpha, gamma = node.number("alpha", 1.67326319), node.number("gamma", 1.05070102)
    x = node.value()
    if math.isclose(alpha, 1.67326319, rel_tol=1e-6) and math.isclose(
        gamma, 1.05070102, rel_tol=1e-6
    ):
        return x.through(nn.SELU())
    return x.through(nn.ELU(alpha)).through(nn.Scale(gamma))


@reads("Celu")
def celu(node: Node) -> Value:
    """Read max(x, 0) + min(alpha (exp(x / alpha) - 1), 0), an ELU of x / alpha."""
    x, alpha = node.value(), node.number("alpha", 1.0)
    if alpha == 1.0:
        return x.through(nn.ELU())
    return x.through(nn.Scale(1.0 / alpha)).through(nn.ELU()).through(nn.Scale(alpha))


@reads("HardSigmoid")
def hard_sigmoid(node: Node) -> Value:
    """Read min(max(alpha x + beta, 0), 1), which is PyTorch's for 1/6 and 1/2."""
    x, alpha, beta = node.value(), node.number("alpha", 0.2), node.number("beta", 0.5)
    if beta == 0.5:
        if not math.isclose(alpha, 1.0 / 6.0, rel_tol=1e-6):
            x = x.through(nn.Scale(6.0 * alpha))
        return x.through(nn.Hardsigmoid())
    line = nn.Affine(alpha, beta).requires_grad_(False)
    return x.through(line).through(nn.Clamp(0.0, 1.0))


@reads("PRelu")
def prelu(node: Node) -> Value:
    """Read slopes for every channel; for every place they are relu(x) - slope · relu(-x)."""
    x, slope = node.value(), node.required(1)
    shown = x.beside(slope)
    if shown is None or shown.ndim > 1:
        last = x.from_channels_last(x.channels_last())
        if (again := last.beside(slope)) is not None:
            x, shown = last, again
    if shown is not None and shown.ndim <= 1:
        layer = nn.PReLU(shown.size)
        layer.weight.data = shown.reshape(-1)
        return x.through(node.name(layer, 1))
    down = affine(node, x.through(nn.Pointwise("neg")).through(nn.ReLU()), weight=-slope)
    return combine(nn.Add(), x.through(nn.ReLU()), down)


@reads("ThresholdedRelu")
def thresholded(node: Node) -> Value:
    """Read x where x > alpha, else 0; only for 0 that is a layer."""
    if node.number("alpha", 1.0) != 0.0:
        raise UnreadableError("its threshold is not 0")
    return node.value().through(nn.ReLU())


@reads("Clip")
def clip(node: Node) -> Value:
    """Read bounds, from attributes or, from opset 11 on, inputs."""
    if node.opset < 11:
        low, high = node.number("min", -math.inf), node.number("max", math.inf)
    else:
        bounds = [node.weight(1), node.weight(2)]
        low, high = (
            default if bound is None else float(bound.reshape(-1)[0])
            for bound, default in zip(bounds, (-math.inf, math.inf), strict=True)
        )
    x = node.value()
    lowest = float(np.finfo(np.float32).min)
    if (low, high) == (0.0, 6.0):
        return x.through(nn.ReLU6())
    if low > lowest:
        x = clamped(x, "Max", np.array([low]))
    if high < -lowest:
        x = clamped(x, "Min", np.array([high]))
    return x


@reads("Softmax", "LogSoftmax")
def softmax(node: Node) -> Value:
    """Read a softmax along an axis; before opset 13 along all axes from that one on."""
    x = node.value()
    layer = nn.Softmax() if node.operator == "Softmax" else nn.LogSoftmax()
    axis = x.axis(node.whole("axis", -1 if node.opset >= 13 else 1))
    if node.opset < 13 and any(n > 1 for n in x.shape[axis + 1 :]):
        joined = sum(x.axes[axis:], ())
        flat = replace(x, axes=(*x.axes[:axis], joined)).ending(axis)
        y = flat.through(layer)
        sizes = x.shape[axis:]
        last = len(y.symbol.shape)
        groups: list[tuple[int, ...]] = []
        symbol = nn.Reshape(*y.symbol.shape[:-1], *sizes)(y.symbol)
        groups = [(last + k,) for k in range(len(sizes))]
        return replace(y, symbol=symbol, axes=(*y.axes[:axis], *groups))
    return x.ending(axis).through(layer)


@reads("Identity", "Cast", "CastLike")
def same(node: Node) -> Value:
    """Read nothing: numbers are of one floating point type here."""
    kind = node.whole("to")
    if node.operator == "CastLike":
        like = node.node.inputs[1]
        kind = 0 if like is None or like.dtype is None else like.dtype.value
    if node.operator != "Identity" and kind not in FLOATS:
        raise UnreadableError("it makes narrow or whole numbers of what is computed")
    return node.value()


@reads("Dropout")
def dropout(node: Node) -> Value:
    """Read a Dropout, which does nothing but in training."""
    ratio = node.weight(1) if node.opset >= 12 else np.array([node.number("ratio", 0.5)])
    p = 0.5 if ratio is None else float(ratio.reshape(-1)[0])
    training = node.constant(2)
    if training is not None and training.any():
        raise UnreadableError("it is in training mode")
    return node.value().through(nn.Dropout(p)) if 0.0 < p < 1.0 else node.value()
