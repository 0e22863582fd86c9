"""A picture of a network for the page of a run: boxes in rows, an edge for every value."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from html import escape
from typing import Any

from fastbn.nn import BatchNorm, Concat, Graph, Module, Residual, Sequential
from fastbn.nn.elementwise import Elementwise

WIDTH, HEIGHT, GAP = 260, 34, 22  # of a box, and what is between two
MARGIN = 10
LETTERS = 46  # of a title that fits
BEND = 0.8  # how far an edge that passes rows goes aside, in units of a box


@dataclass
class Box:
    """What one or several layers make of other boxes' values."""

    title: str
    shape: Any
    inputs: list[int] = field(default_factory=list)
    joins: bool = False  # whether it may stand in the box in front
    behind: str = ""  # what has joined it
    row: int = 0
    x: float = 0.0


def svg(net: Module) -> str:
    """Return a drawing of a network whose input shape is known; "" if a layer tells no shapes.

    A BatchNorm or an activation stands in the box of the layer in front, where nothing else takes
    that one's value.

    Examples
    --------
    >>> from fastbn import models
    >>> svg(models.mlp(rng=0)).count("<rect")
    5
    """
    try:
        boxes = merged(boxes_of(net))
    except NotImplementedError:
        return ""
    rows: dict[int, list[Box]] = defaultdict(list)
    for box in boxes:
        box.row = max((boxes[i].row + 1 for i in box.inputs), default=0)
        rows[box.row].append(box)
    widest = max(map(len, rows.values()))
    for row in rows.values():
        for place, box in enumerate(row):
            box.x = (place + 0.5 - len(row) / 2) * (WIDTH + GAP)
    half = widest * (WIDTH + GAP) / 2 + BEND * WIDTH
    height = len(rows) * (HEIGHT + GAP) - GAP + 2 * MARGIN
    parts = [_edge(boxes[i], box) for box in boxes for i in box.inputs]
    parts += [_drawn(box) for box in boxes]
    return (
        f'<svg class="network" xmlns="http://www.w3.org/2000/svg" width="{2 * half:.0f}" '
        f'height="{height}" viewBox="{-half:.0f} {-MARGIN} {2 * half:.0f} {height}" '
        f'font-family="sans-serif" font-size="11">{"".join(parts)}</svg>'
    )


def boxes_of(net: Module) -> list[Box]:
    """Return a box for every input and every layer, each after those it takes."""
    shapes = net.input_shape if isinstance(net.input_shape[0], tuple) else (net.input_shape,)
    boxes = [Box("input", shape) for shape in shapes]
    _add(boxes, "", net, list(range(len(boxes))))
    return boxes


def _add(boxes: list[Box], name: str, layer: Module, inputs: list[int]) -> int:
    """Add the boxes of a layer, or of what it contains; return the number of the last."""
    children = {child: f"{name}.{own}".strip(".") for own, child in layer.named_children()}
    if type(layer) is Sequential:
        for child in layer:
            inputs = [_add(boxes, children[child], child, inputs)]
        return inputs[0]
    if isinstance(layer, Graph):
        values = [*inputs]
        for child, slots in layer.nodes:
            values.append(_add(boxes, children[child], child, [values[s] for s in slots]))
        return values[layer.outputs[0]]
    shape = layer.output_shape(*(boxes[i].shape for i in inputs))
    if isinstance(layer, Residual):
        ends = [_add(boxes, children[layer.body], layer.body, inputs)]
        ends.append(
            inputs[0]
            if layer.shortcut is None
            else _add(boxes, children[layer.shortcut], layer.shortcut, inputs)
        )
        title = "sum" if layer.activation is None else f"sum · {layer.activation}"
        boxes.append(Box(title, shape, ends))
    elif isinstance(layer, Concat):
        ends = [_add(boxes, children[branch], branch, inputs) for branch in layer.branches]
        boxes.append(Box("concatenation", shape, ends))
    else:
        joins = isinstance(layer, BatchNorm | Elementwise)
        title = f"{type(layer).__name__}({layer.extra_repr()})"
        boxes.append(Box(title if joins else f"{name}: {title}", shape, inputs, joins))
    return len(boxes) - 1


def merged(boxes: list[Box]) -> list[Box]:
    """Return the boxes with those that join the ones in front of them in there."""
    uses = [0] * len(boxes)
    for box in boxes:
        for i in box.inputs:
            uses[i] += 1
    found: list[Box] = []
    place: dict[int, int] = {}  # of an old number among those that are left
    for number, box in enumerate(boxes):
        if box.joins and box.inputs[0] > 0 and uses[box.inputs[0]] == 1:
            place[number] = place[box.inputs[0]]
            found[place[number]].behind += f" · {box.title.partition('(')[0]}"
        else:
            place[number] = len(found)
            found.append(replace(box, inputs=[place[i] for i in box.inputs]))
    return found


def _drawn(box: Box) -> str:
    top = box.row * (HEIGHT + GAP)
    size = "×".join(map(str, box.shape))
    below = f"{size}{escape(box.behind)}"
    title = box.title if len(box.title) <= LETTERS else box.title[: LETTERS - 1] + "…"
    return (
        f"<g><title>{escape(box.title + box.behind)}</title>"
        f'<rect x="{box.x - WIDTH / 2:.0f}" y="{top}" width="{WIDTH}" height="{HEIGHT}" rx="4" '
        'fill="#eef3f8" stroke="#8aa4bd"/>'
        f'<text x="{box.x:.0f}" y="{top + 14}" text-anchor="middle" fill="#1c2733">'
        f"{escape(title)}</text>"
        f'<text x="{box.x:.0f}" y="{top + 28}" text-anchor="middle" fill="#5b6b7a">{below}</text>'
        "</g>"
    )


def _edge(start: Box, end: Box) -> str:
    """Return a line; one that passes rows goes around the boxes in them."""
    top = start.row * (HEIGHT + GAP) + HEIGHT
    bottom = end.row * (HEIGHT + GAP)
    path = f"M{start.x:.0f} {top}"
    if end.row > start.row + 1:
        side = max(start.x, end.x) + BEND * WIDTH
        path += f"C{side:.0f} {top + GAP} {side:.0f} {bottom - GAP} {end.x:.0f} {bottom}"
    else:
        path += f"L{end.x:.0f} {bottom}"
    return f'<path d="{path}" fill="none" stroke="#8aa4bd"/>'
