"""The table that ``net.summary()`` returns, and what it costs to run a network."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbn.nn.state import shapes_of

if TYPE_CHECKING:
    from fastbn.nn.module import Module

HEADINGS = (
    "",
    "Layer",
    "Output shape",
    "Parameters",
    "FLOP",
    "Output size",
    "Fused with",
    "Convolution",
)
NUMBERS = slice(3, 6)  # columns that stand on the right


def trace(net: Module, shape: Any) -> Iterator[Any]:
    """Yield what ``net.trace`` yields for the shape of one input, or a tuple of several."""
    yield from net.trace(*shapes_of(shape))


def flops(net: Module, input_shape: Any) -> int:
    """Return the sum of all layers' operations; see `fastbn.nn.Module.flops`."""
    net.adopt_children()
    shape = net.input_shape if input_shape is None else input_shape
    if shape is None:
        raise ValueError(f"{net.where}: the shape of a sample is not known yet: pass input_shape")
    return sum(layer.own_flops(*shapes_of(seen)) or 0 for layer, seen, _ in trace(net, shape))


def summary(net: Module, input_shape: tuple[int, ...] | None) -> str:
    """Return the layers of `net` as a text table; see `fastbn.nn.Module.summary`."""
    net.adopt_children()
    shape = net.input_shape if input_shape is None else tuple(input_shape)
    names = {module: name for name, module in net.named_modules()}
    fused = net.fused()
    traced = {} if shape is None else {layer: seen for layer, *seen in trace(net, shape)}
    itemsize = np.dtype(net.dtype or np.float32).itemsize
    rows: list[tuple[str, ...]] = [HEADINGS]
    total, known, written = 0, True, 0
    for module, name in names.items():
        is_leaf = next(module.named_children(), None) is None
        if not (is_leaf if shape is None else module in traced):
            continue
        own = sum(parameter.size for _, parameter in module.own_parameters())
        layer = f"{type(module).__name__}({module.extra_repr()})"
        output = cost = size = "?"
        algorithm = ""
        if module in traced:
            seen, made = traced[module]
            output, algorithm = str(made), module.algorithm(seen)
            operations = module.own_flops(*shapes_of(seen))
            known = known and operations is not None
            total += operations or 0
            cost = "?" if operations is None else short(operations)
            values = itemsize * sum(map(math.prod, shapes_of(made)))
            written += values
            size = f"{short(values)}B"
        fusion = fused.get(module, "")
        rows.append((name, layer, output, f"{own:,}", cost, size, fusion, algorithm))
    if not any(row[-1] for row in rows[1:]):
        rows = [row[:-1] for row in rows]

    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        cells[NUMBERS] = [cell.strip().rjust(len(cell)) for cell in cells[NUMBERS]]
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "-" * max(len(line) for line in lines))
    count = sum(parameter.size for parameter in net.parameters())
    held = sum(parameter.data.nbytes for parameter in net.parameters())
    buffers = sum(buffer.size for _, buffer in net.named_buffers())
    start = "" if shape is None else f"Input shape: {shape}. "
    lines += [lines[1], f"{start}Parameters: {count:,}, {short(held)}B. Buffers: {buffers:,}."]
    if shape is not None:
        least = "" if known else "at least "
        lines.append(f"A sample: {least}{short(total)}FLOP, outputs of {short(written)}B.")
    return "\n".join(lines)


def short(number: int) -> str:
    """Return three digits of a number, and the letter of their unit.

    Examples
    --------
    >>> short(0), short(999), short(12_345), short(8_174_272_512), short(999_999)
    ('0 ', '999 ', '12.3 k', '8.17 G', '1 M')
    """
    value, unit = float(number), ""
    for larger in "kMGTPE":
        if value < 999.5:
            break
        value, unit = value / 1000.0, larger
    return f"{value:.3g} {unit}"
