"""Activations that files spell out in several nodes: SiLU, Hardswish, Mish, GELU, Hardsigmoid."""

from __future__ import annotations

import math

from fastbn import nn
from fastbn.export.read.value import Value


def gated(x: nn.Symbol, gate: nn.Symbol) -> nn.Symbol | None:
    """Return x · gate(x) as one layer, where gate is σ, a hard σ, tanh(softplus) or Φ."""
    layer = gate.layer
    source = gate.inputs[0] if gate.inputs else None
    found: nn.Module | None = None
    if isinstance(layer, nn.Sigmoid) and source is x:
        found = nn.SiLU()
    elif isinstance(layer, nn.Hardsigmoid) and source is x:
        found = nn.Hardswish()
    elif isinstance(layer, nn.Tanh) and source is not None and _made_of(source, nn.Softplus, x):
        assert isinstance(source.layer, nn.Softplus)
        found = nn.Mish() if source.layer.beta == 1.0 else None
    elif (half := _scaled(gate)) is not None and _close(half[1], 0.5):
        found = nn.GELU() if _one_plus_erf(half[0]) is x else None
    elif (half := _scaled(x)) is not None and _close(half[1], 0.5):
        x = half[0]
        found = nn.GELU() if _one_plus_erf(gate) is x else None
    return None if found is None else _behind(found, x)


def recognised(x: Value, weight: float | None, bias: float | None) -> nn.Symbol | None:
    """Return ``weight * x + bias`` as the end of an activation that is spelled out.

    These are x · clip(x + 3, 0, 6) / 6, clip(x + 3, 0, 6) / 6, and GELU's x · (1 + erf(x / √2)) / 2
    with the factors in any order.
    """
    if weight is None or bias is not None:
        return None
    symbol = x.symbol
    if _close(weight, 1.0 / 6.0):
        source = _clipped(symbol)
        if source is not None:
            return _behind(nn.Hardsigmoid(), source)
        for a, b in _factors(symbol):
            if _clipped(b) is a:
                return _behind(nn.Hardswish(), a)
    if _close(weight, 0.5):
        for a, b in _factors(symbol):
            if _one_plus_erf(b) is a:
                return _behind(nn.GELU(), a)
    return None


def _behind(layer: nn.Module, x: nn.Symbol) -> nn.Symbol:
    result: nn.Symbol = layer(x)
    return result


def _factors(symbol: nn.Symbol) -> list[tuple[nn.Symbol, nn.Symbol]]:
    if not isinstance(symbol.layer, nn.Multiply):
        return []
    a, b = symbol.inputs
    return [(a, b), (b, a)]


def _clipped(symbol: nn.Symbol) -> nn.Symbol | None:
    """Return x, if this is clip(x + 3, 0, 6)."""
    if not isinstance(symbol.layer, nn.ReLU6):
        return None
    inner = symbol.inputs[0]
    return inner.inputs[0] if _shift(inner) == 3.0 else None


def _one_plus_erf(symbol: nn.Symbol) -> nn.Symbol | None:
    """Return x, if this is 1 + erf(x / √2)."""
    if _shift(symbol) != 1.0:
        return None
    [erf] = symbol.inputs
    if not (isinstance(erf.layer, nn.Pointwise) and erf.layer.function == "erf"):
        return None
    scaled = _scaled(erf.inputs[0])
    if scaled is None or not _close(scaled[1], math.sqrt(0.5)):
        return None
    return scaled[0]


def _shift(symbol: nn.Symbol) -> float | None:
    """Return c, if this is x + c for a number c."""
    layer = symbol.layer
    if not isinstance(layer, nn.Affine) or layer.weight is not None:
        return None
    assert layer.bias is not None
    return float(layer.bias.data[0]) if layer.bias.data.size == 1 else None


def _scaled(symbol: nn.Symbol) -> tuple[nn.Symbol, float] | None:
    """Return x and c, if this is c · x for a number c."""
    layer = symbol.layer
    return (symbol.inputs[0], layer.factor) if isinstance(layer, nn.Scale) else None


def _made_of(symbol: nn.Symbol, layer: type[nn.Module], x: nn.Symbol) -> bool:
    return isinstance(symbol.layer, layer) and symbol.inputs[0] is x


def _close(a: float, b: float) -> bool:
    return abs(a - b) <= 1e-6 * abs(b)
