"""The table that ``net.summary()`` returns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastbn.nn.module import Module

HEADINGS = ("", "Layer", "Output shape", "Parameters", "Fused with", "Convolution")


def trace(net: Module, shape: Any) -> Iterator[Any]:
    """Yield what ``net.trace`` yields for the shape of one input, or a tuple of several."""
    several = bool(shape) and isinstance(shape[0], tuple)
    yield from net.trace(*shape) if several else net.trace(shape)


def summary(net: Module, input_shape: tuple[int, ...] | None) -> str:
    """Return the layers of `net` as a text table; see `fastbn.nn.Module.summary`."""
    net.adopt_children()
    shape = net.input_shape if input_shape is None else tuple(input_shape)
    names = {module: name for name, module in net.named_modules()}
    fused = net.fused()
    traced = {} if shape is None else {layer: seen for layer, *seen in trace(net, shape)}
    rows: list[tuple[str, ...]] = [HEADINGS]
    for module, name in names.items():
        is_leaf = next(module.named_children(), None) is None
        if not (is_leaf if shape is None else module in traced):
            continue
        own = sum(parameter.size for _, parameter in module.own_parameters())
        layer = f"{type(module).__name__}({module.extra_repr()})"
        output, algorithm = "?", ""
        if module in traced:
            seen, made = traced[module]
            output, algorithm = str(made), module.algorithm(seen)
        rows.append((name, layer, output, f"{own:,}", fused.get(module, ""), algorithm))
    if not any(row[-1] for row in rows[1:]):
        rows = [row[:-1] for row in rows]

    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        cells[3] = row[3].rjust(widths[3])
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "-" * max(len(line) for line in lines))
    count = sum(parameter.size for parameter in net.parameters())
    buffers = sum(buffer.size for _, buffer in net.named_buffers())
    start = "" if shape is None else f"Input shape: {shape}. "
    lines += [lines[1], f"{start}Parameters: {count:,}. Buffers: {buffers:,}."]
    return "\n".join(lines)
