"""Add, Sub, Mul, Div and their like: of two values, or of a value and a constant."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbn import nn
from fastbn.export.read.gates import gated, recognised
from fastbn.export.read.node import Node, floats, reads
from fastbn.export.read.value import UnreadableError, Value

Array = NDArray[Any]


@reads("Add", "Sub", "Mul", "Div")
def binary(node: Node) -> Value:
    """Read an operator of arithmetic."""
    a, b = node.input(0), node.input(1)
    if isinstance(a, Value) and isinstance(b, Value):
        return _of_values(node.operator, a, b)
    if isinstance(a, Value):
        return _with_constant(node, a, node.required(1))
    return _from_constant(node, node.required(0), node.value(1))


def _of_values(operator: str, a: Value, b: Value) -> Value:
    if operator == "Add":
        return combine(nn.Add(), a, b)
    if operator == "Sub":
        return combine(nn.Add(), a, b.through(nn.Pointwise("neg")))
    if operator == "Div":
        b = b.through(nn.Pointwise("reciprocal"))
    return combine(nn.Multiply(), a, b)


def _with_constant(node: Node, x: Value, c: Array) -> Value:
    match node.operator:
        case "Add":
            return add_constant(node, x, c)
        case "Sub":
            return add_constant(node, x, -c)
        case "Div":
            with np.errstate(divide="ignore"):
                c = (1.0 / c.astype(np.float64)).astype(c.dtype)
    return affine(node, x, weight=c)


def _from_constant(node: Node, c: Array, x: Value) -> Value:
    match node.operator:
        case "Add":
            return add_constant(node, x, c)
        case "Sub":
            return add_constant(node, x.through(nn.Pointwise("neg")), c)
        case "Div":
            x = x.through(nn.Pointwise("reciprocal"))
    return affine(node, x, weight=c)


@reads("Sum", "Mean")
def total(node: Node) -> Value:
    """Read a sum, or a mean, of any number of values and constants."""
    values = [x for x in node.inputs if isinstance(x, Value)]
    result = values[0]
    for other in values[1:]:
        result = combine(nn.Add(), result, other)
    for constant in node.inputs:
        if constant is not None and not isinstance(constant, Value):
            result = add_constant(node, result, floats(constant))
    if node.operator == "Mean" and len(node.inputs) > 1:
        result = result.through(nn.Scale(1.0 / len(node.inputs)))
    return result


def add_constant(node: Node, x: Value, c: Array) -> Value:
    """Add a constant: as the bias of the layer in front, if it has none and nobody else sees it."""
    layer = x.symbol.layer
    shown = x.beside(c)
    alone = any(node.input(k) is x and node.is_only_reader(k) for k in range(len(node.inputs)))
    fits = shown is not None and shown.shape == x.symbol.shape[-1:] and shown.size > 1
    if fits and alone and isinstance(layer, nn.Linear | nn.Conv2d | nn.Conv1d):
        assert shown is not None
        if layer.bias is None:
            layer.bias = nn.Parameter(shown, dtype=layer.weight.data.dtype)
            return x
    return affine(node, x, bias=c)


def affine(node: Node, x: Value, weight: Array | None = None, bias: Array | None = None) -> Value:
    """Multiply by a constant and add one; numbers alone are not trained, others are."""
    shown = [None if c is None else x.beside(floats(c)) for c in (weight, bias)]
    if any((c is None) != (s is None) for c, s in zip((weight, bias), shown, strict=True)):
        raise UnreadableError("its constant is larger than the value, or has a batch of its own")
    if all(c is None or c.size == 1 for c in shown):
        found = recognised(x, *(None if c is None else float(c.reshape(-1)[0]) for c in shown))
        if found is None and bias is None:
            assert shown[0] is not None
            found = nn.Scale(float(shown[0].reshape(-1)[0]))(x.symbol)
        if found is not None:
            return replace(x, symbol=found)
    dtype = np.float64 if any(c is not None and c.dtype == np.float64 for c in shown) else None
    layer = nn.Affine(*shown, dtype=dtype or np.float32)
    if all(c is None or c.size == 1 for c in shown):
        layer.requires_grad_(False)
    node.name(layer, next((k for k, x in enumerate(node.inputs) if not isinstance(x, Value)), None))
    return x.through(layer)


def combine(layer: nn.Add | nn.Multiply, a: Value, b: Value) -> Value:
    """Join two values by a layer for values of one shape; sizes of 1 are spread first."""
    if isinstance(layer, nn.Multiply):
        whole = _as_activation(a, b)
        if whole is not None:
            return whole
    rank = max(a.rank, b.rank)
    a, b = widened(a, rank), widened(b, rank)
    if a.axes == b.axes and a.symbol.shape == b.symbol.shape:
        return replace(a, symbol=layer(a.symbol, b.symbol))
    if isinstance(layer, nn.Multiply):
        for x, gate in ((a, b), (b, a)):
            symbol = _gate(x, gate)
            if symbol is not None and x.axes[0] == (0,):
                return x.from_channels_last(layer(x.channels_last(), symbol))
    sizes = np.broadcast_shapes(a.shape, b.shape)
    if rank == 1 or sizes[0] != a.batch:
        raise UnreadableError("its values have no common batch")
    symbols = []
    for x in (a, b):
        symbol = x.channels_last()
        wanted = (*sizes[2:], sizes[1])
        symbols.append(symbol if symbol.shape == wanted else nn.Broadcast(*wanted)(symbol))
    return a.from_channels_last(layer(*symbols))


def _as_activation(a: Value, b: Value) -> Value | None:
    """Return x times a gate of x as one activation, if it is one."""
    for x, gate in ((a, b), (b, a)):
        if x.axes == gate.axes and x.symbol.shape == gate.symbol.shape:
            symbol = gated(x.symbol, gate.symbol)
            if symbol is not None:
                return replace(x, symbol=symbol)
    return None


def _gate(x: Value, gate: Value) -> nn.Symbol | None:
    """Return one number for each channel as (C,), where this is that and x is larger."""
    shape = gate.shape
    if x.rank < 3 or shape[1] != x.shape[1] or any(n != 1 for n in shape[2:]):
        return None
    return gate.laid([gate.axes[1]]) if gate.axes[0] == (0,) else None


def widened(x: Value, rank: int) -> Value:
    """Return a value with axes of size 1 in front, which is what broadcasting does.

    The batch would then be another axis; so that is possible only if it has one sample.
    """
    missing = rank - x.rank
    if not missing:
        return x
    if x.batch > 1:
        raise UnreadableError("its values have different numbers of axes")
    rest = [tuple(a for a in group if a != 0) for group in x.axes]
    return replace(x, axes=((0,), *(() for _ in range(missing - 1)), *rest))


@reads("Neg", "Abs", "Exp", "Log", "Sqrt", "Reciprocal", "Erf", "Softsign", "Sin", "Cos")
def function(node: Node) -> Value:
    """Read a function of one number."""
    return node.value().through(nn.Pointwise(node.operator.lower()))


@reads("Pow")
def power(node: Node) -> Value:
    """Read a power with a fixed exponent."""
    exponent = node.constant(1)
    if exponent is None or exponent.size != 1:
        raise UnreadableError("its exponent is not one number")
    number = float(exponent.reshape(-1)[0])
    if number == 0.5:
        return node.value().through(nn.Pointwise("sqrt"))
    return node.value().through(nn.Power(number))


@reads("Max", "Min")
def bound(node: Node) -> Value:
    """Read a bound; of two values, the larger is relu(a - b) + b."""
    values = [x for x in node.inputs if isinstance(x, Value)]
    result = values[0]
    for other in values[1:]:
        sign = nn.Pointwise("neg")
        first, second = (result, other) if node.operator == "Max" else (other, result)
        part = combine(nn.Add(), first, second.through(sign)).through(nn.ReLU())
        if node.operator == "Min":
            part = part.through(nn.Pointwise("neg"))
            result = combine(nn.Add(), part, first)
        else:
            result = combine(nn.Add(), part, second)
    for index, constant in enumerate(node.inputs):
        if constant is not None and not isinstance(constant, Value):
            result = clamped(result, node.operator, node.required(index))
    return result


def clamped(x: Value, operator: str, bound: Array) -> Value:
    """Bound a value by a constant."""
    shown = x.beside(bound)
    if shown is not None and operator == "Max" and shown.size == 1 and not shown.any():
        return x.through(nn.ReLU())
    if shown is None or shown.ndim > 1:
        symbol_last = x.from_channels_last(x.channels_last())
        shown = symbol_last.beside(bound)
        x = symbol_last
    if shown is None or shown.ndim > 1:
        raise UnreadableError("its bounds are not one number for each channel")
    return x.through(nn.Clamp(shown) if operator == "Max" else nn.Clamp(None, shown))
