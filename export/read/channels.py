"""Concat, Split, Slice, Gather, Pad, Tile: parts of values side by side, or cut out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from fastbn import nn
from fastbn.export.read.node import Node, reads
from fastbn.export.read.pooling import dropped
from fastbn.export.read.value import UnreadableError, Value


@reads("Concat")
def concat(node: Node) -> Value:
    """Read values side by side along an axis."""
    values = [node.value(k) for k in range(len(node.inputs))]
    first = values[0]
    axis = first.axis(node.whole("axis"))
    if len(values) == 1:
        return first
    if any(v.rank != first.rank for v in values):
        raise UnreadableError("its values have different numbers of axes")
    return joined(values, axis)


def joined(values: Sequence[Value], axis: int) -> Value:
    """Put values side by side along one of the file's axes."""
    first = values[0]
    order = [k for k in range(1, first.rank) if k != axis]
    if axis == 0:
        raise UnreadableError("it puts batches one behind the other")
    if axis != 1 and first.rank > 2:  # in the order that channels-last has anyway
        order = [k for k in (*range(2, first.rank), 1) if k != axis]
    symbols = [v.arranged([*order, axis]) for v in values]
    symbol = nn.concat(*symbols)
    axes = [(0,)] + [()] * (first.rank - 1)
    for place, k in enumerate([*order, axis], 1):
        axes[k] = (place,)
    return Value(symbol, tuple(axes), first.batch)


def part(x: Value, axis: int, indices: range | list[int]) -> Value:
    """Take places along one of the file's axes."""
    size = x.shape[axis]
    if 0 in x.axes[axis]:
        raise UnreadableError("it takes samples out of a batch")
    if [*indices] == [*range(size)]:
        return x
    if not len(indices):
        raise UnreadableError("it takes nothing")
    if len(x.axes[axis]) == 1:
        [dim] = x.axes[axis]
    else:
        x = x.ending(axis)
        dim = len(x.symbol.shape)
    if dim < len(x.symbol.shape):
        return x.through(nn.Take(indices, dim))
    start, stop = min(indices), max(indices) + 1
    if [*indices] == [*range(start, stop)]:
        return x.through(nn.Slice(start, stop))
    return x.through(_taken(indices, size))


def _taken(indices: Sequence[int], size: int) -> nn.Module:
    """Take channels one by one, or shuffle groups of them."""
    for groups in range(2, size // 2 + 1):
        if size % groups or indices[1:2] != [size // groups]:
            continue
        if [*indices] == np.arange(size).reshape(groups, -1).T.reshape(-1).tolist():
            return nn.ChannelShuffle(groups)
    return nn.Take(indices)


@reads("Split")
def split(node: Node) -> list[Value]:
    """Read parts one after another, of given sizes or all alike."""
    x = node.value()
    axis = x.axis(node.whole("axis"))
    size, count = x.shape[axis], len(node.node.outputs)
    sizes = node.integers(1, "split")
    if sizes is None:
        each = math.ceil(size / count)
        sizes = [min(each, size - k * each) for k in range(count)]
    if sum(sizes) != size or len(sizes) != count or min(sizes) < 1:
        raise UnreadableError(f"parts of {sizes} of {size} places")
    starts = np.cumsum([0, *sizes]).tolist()
    return [part(x, axis, range(a, b)) for a, b in itertools.pairwise(starts)]


@reads("Slice")
def slice_(node: Node) -> Value:
    """Read places from one to another in steps, along some axes."""
    x = node.value()
    starts, ends = node.integers(1, "starts"), node.integers(2, "ends")
    if starts is None or ends is None:
        raise UnreadableError("its bounds are missing")
    axes = node.integers(3, "axes")
    steps = node.integers(4) or [1] * len(starts)
    places = [*range(len(starts))] if axes is None else [x.axis(a) for a in axes]
    for axis, start, end, step in zip(places, starts, ends, steps, strict=True):
        if step == 0:
            raise UnreadableError("its step is 0")
        x = part(x, axis, range(x.shape[axis])[start:end:step])
    return x


@reads("Gather")
def gather(node: Node) -> Value:
    """Read chosen places along an axis; one place alone takes the axis away."""
    x, indices = node.value(), node.constant(1)
    axis = x.axis(node.whole("axis"))
    if indices is None or indices.dtype.kind not in "iu" or indices.ndim > 1:
        raise UnreadableError("its indices are not a list of numbers")
    size = x.shape[axis]
    chosen = [int(n) + size if n < 0 else int(n) for n in indices.reshape(-1)]
    if any(not 0 <= n < size for n in chosen):
        raise UnreadableError(f"its indices are not within {size} places")
    y = part(x, axis, chosen)
    return dropped(unit(y, axis), [axis]) if indices.ndim == 0 else y


def unit(x: Value, axis: int) -> Value:
    """Forget where an axis of size 1 lies."""
    return replace(x, axes=tuple(() if k == axis else g for k, g in enumerate(x.axes)))


@reads("Pad")
def pad(node: Node) -> Value:
    """Read a frame: of a number, of the border, or mirrored."""
    x = node.value()
    pads, mode = node.integers(1, "pads"), node.text("mode", "constant")
    if pads is None:
        raise UnreadableError("its pads are missing")
    if node.opset < 11:
        number = node.number("value")
    else:
        given = node.weight(2)
        number = 0.0 if given is None else float(given.reshape(-1)[0])
    axes = node.integers(3)
    places = [*range(x.rank)] if axes is None else [x.axis(a) for a in axes]
    half = len(places)
    if len(pads) != 2 * half:
        raise UnreadableError(f"{len(pads)} pads for {half} axes")
    frame = {a: (pads[k], pads[k + half]) for k, a in enumerate(places)}
    frame = {a: both for a, both in frame.items() if any(both)}
    for axis, both in list(frame.items()):
        if min(both) < 0:  # cut off
            size = x.shape[axis]
            x = part(x, axis, range(max(-both[0], 0), size - max(-both[1], 0)))
            frame[axis] = (max(both[0], 0), max(both[1], 0))
    frame = {a: both for a, both in frame.items() if any(both)}
    if not frame:
        return x
    if mode != "constant":
        for axis, both in frame.items():
            x = part(x, axis, _mirrored(x.shape[axis], both, mode))
        return x
    if x.rank == 4 and frame.keys() <= {2, 3}:
        (top, bottom), (left, right) = frame.get(2, (0, 0)), frame.get(3, (0, 0))
        four = (left, right, top, bottom)
        layer = nn.ZeroPad2d(four) if number == 0.0 else nn.ConstantPad2d(four, number)
        return x.from_channels_last(layer(x.channels_last()))
    for axis, (before, behind) in frame.items():
        y = x.ending(axis)
        shape = y.symbol.shape
        wide = reshaped_image(y.symbol)
        layer = nn.ConstantPad2d((before, behind, 0, 0), number)
        symbol = nn.Reshape(*shape[:-1], shape[-1] + before + behind)(layer(wide))
        x = replace(y, symbol=symbol)
    return x


def reshaped_image(symbol: nn.Symbol) -> nn.Symbol:
    """Return a symbol as an image of one channel, whose columns are the last axis."""
    shape = symbol.shape
    result: nn.Symbol = nn.Reshape(math.prod(shape[:-1]), shape[-1], 1)(symbol)
    return result


def _mirrored(size: int, both: tuple[int, int], mode: str) -> list[int]:
    """Return the places that a frame repeats."""
    before, behind = both
    if mode == "reflect":
        if max(both) >= size:
            raise UnreadableError(f"a mirrored frame of {both} around {size} places")
        return [*range(before, 0, -1), *range(size), *range(size - 2, size - 2 - behind, -1)]
    if mode == "edge":
        return [0] * before + [*range(size)] + [size - 1] * behind
    if mode == "wrap":
        return [n % size for n in range(-before, size + behind)]
    raise UnreadableError(f"mode {mode!r}")


@reads("Tile")
def tile(node: Node) -> Value:
    """Read repetitions along axes."""
    x, repeats = node.value(), node.integers(1)
    if repeats is None or len(repeats) != x.rank:
        raise UnreadableError("its repeats do not fit")
    for axis, count in enumerate(repeats):
        if count != 1:
            if axis == 0 or x.axes[axis] == ():
                raise UnreadableError("it repeats the batch, or an axis of size 1")
            x = part(x, axis, [*range(x.shape[axis])] * count)
    return x
