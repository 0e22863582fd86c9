"""Reshape, Transpose and their kin, which mostly move nothing; see `value`."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from fastbn import nn
from fastbn.export.read.node import Node, reads
from fastbn.export.read.pooling import dropped
from fastbn.export.read.value import UnreadableError, Value, reshaped


@reads("Transpose")
def transpose(node: Node) -> Value:
    """Read a permutation of axes."""
    x = node.value()
    perm = node.wholes("perm") or [*range(x.rank)][::-1]
    if sorted(perm) != [*range(x.rank)]:
        raise UnreadableError(f"perm {perm} does not fit {x.rank} axes")
    return replace(x, axes=tuple(x.axes[axis] for axis in perm))


@reads("Reshape")
def reshape(node: Node) -> Value:
    """Read another shape, in which 0 is the size before, and -1 what is left."""
    x, wanted = node.value(), node.integers(1, "shape")
    if wanted is None:
        raise UnreadableError("its shape is missing")
    if not node.whole("allowzero"):
        wanted = [
            x.shape[k] if n == 0 and k < x.rank else n for k, n in enumerate(wanted)
        ]  # fmt: skip
    return shaped(x, wanted)


@reads("Flatten")
def flatten(node: Node) -> Value:
    """Read a matrix of what lies before an axis, and what lies after."""
    x = node.value()
    axis = node.whole("axis", 1)
    axis += x.rank if axis < 0 else 0
    if not 0 <= axis <= x.rank:
        raise UnreadableError(f"there is no axis {axis} of {x.rank}")
    return shaped(x, [math.prod(x.shape[:axis]), math.prod(x.shape[axis:])])


@reads("Squeeze")
def squeeze(node: Node) -> Value:
    """Read a shape without some axes of size 1."""
    x, axes = node.value(), node.integers(1, "axes")
    if axes is None:
        places = [k for k, n in enumerate(x.shape) if n == 1 and 0 not in x.axes[k]]
    else:
        places = [x.axis(a) for a in axes]
    if any(0 in x.axes[k] for k in places):
        raise UnreadableError("it takes the batch away")
    if any(x.shape[k] != 1 for k in places):
        raise UnreadableError("it takes away an axis that is not of size 1")
    return dropped(x, places)


@reads("Unsqueeze")
def unsqueeze(node: Node) -> Value:
    """Read a shape with more axes of size 1."""
    x, axes = node.value(), node.integers(1, "axes") or []
    rank = x.rank + len(axes)
    places = {a + rank if a < 0 else a for a in axes}
    if len(places) < len(axes) or not places <= set(range(rank)):
        raise UnreadableError(f"axes {axes} do not fit")
    old = iter(x.axes)
    return replace(x, axes=tuple(() if k in places else next(old) for k in range(rank)))


@reads("Expand")
def expand(node: Node) -> Value:
    """Read axes of size 1 that are repeated."""
    x, wanted = node.value(), node.integers(1)
    if wanted is None:
        raise UnreadableError("its shape is missing")
    try:
        shape = np.broadcast_shapes(x.shape, tuple(wanted))
    except ValueError:
        raise UnreadableError(f"{x.shape} cannot be expanded to {tuple(wanted)}") from None
    if shape == x.shape:
        return x
    if len(shape) != x.rank or shape[0] != x.batch or x.axes[0] != (0,):
        raise UnreadableError("it repeats the samples of a batch")
    symbol = nn.Broadcast(*shape[1:])(x.arranged(range(1, x.rank)))
    return Value.natural(symbol, x.batch)


@reads("DepthToSpace")
def depth_to_space(node: Node) -> Value:
    """Read channels as pixels, in one of two orders."""
    x, r = node.value(), node.whole("blocksize", 1)
    n, c, h, w = x.shape
    if r < 1 or c % r**2:
        raise UnreadableError(f"{c} channels as blocks of {r} by {r}")
    if node.text("mode", "DCR") == "CRD":
        return x.from_channels_last(nn.PixelShuffle(r)(x.channels_last()))
    parts = shaped(x, [n, r, r, c // r**2, h, w])
    parts = replace(parts, axes=tuple(parts.axes[k] for k in (0, 3, 4, 1, 5, 2)))
    return shaped(parts, [n, c // r**2, h * r, w * r])


@reads("SpaceToDepth")
def space_to_depth(node: Node) -> Value:
    """Read pixels as channels."""
    x, r = node.value(), node.whole("blocksize", 1)
    n, c, h, w = x.shape
    if r < 1 or h % r or w % r:
        raise UnreadableError(f"an image of {h} by {w} as blocks of {r} by {r}")
    parts = shaped(x, [n, c, h // r, r, w // r, r])
    parts = replace(parts, axes=tuple(parts.axes[k] for k in (0, 3, 5, 1, 2, 4)))
    return shaped(parts, [n, c * r**2, h // r, w // r])


def shaped(x: Value, wanted: list[int]) -> Value:
    """Give a value another shape: axes are joined and split where they lie, if that is possible."""
    size = math.prod(x.shape)
    known = math.prod(n for n in wanted if n != -1)
    if -1 in wanted and known > 0 and size % known == 0:
        wanted = [size // known if n == -1 else n for n in wanted]
    if wanted.count(-1) or math.prod(wanted) != size:
        raise UnreadableError(f"a value of shape {x.shape} cannot become {tuple(wanted)}")
    found = _regrouped(x, wanted)
    if found is not None:
        return found
    if x.axes[0] != (0,) or wanted[0] != x.batch:
        raise UnreadableError(f"shape {tuple(wanted)} mixes the samples of a batch")
    return Value.natural(reshaped(x.arranged(range(1, x.rank)), tuple(wanted[1:])), x.batch)


def _regrouped(x: Value, wanted: list[int]) -> Value | None:
    """Give a value another shape by joining axes, and by splitting those of the symbol.

    None where a boundary of the new shape lies within no axis of the old one.
    """
    pending = [axis for group in x.axes for axis in group]
    groups: list[tuple[int, ...]] = []
    for size in wanted:
        group: list[int] = []
        left = size
        while pending:
            axis = pending[0]
            has = x.batch if axis == 0 else x.symbol.shape[axis - 1]
            if left == 1 and not (has == 1 and (axis == 0) and not group):
                break
            if left % has == 0:
                left //= has
                group.append(pending.pop(0))
            elif has % left == 0 and axis != 0:
                x, (first, second) = x.split(axis, (left, has // left))
                pending = [second, *(a + (a > axis) for a in pending[1:])]
                groups = [tuple(a + (a > axis) for a in g) for g in groups]
                group = [a + (a > axis) for a in group]
                group.append(first)
                left = 1
            else:
                return None
            if left == 1 and size > 1:
                break
        if left != 1:
            return None
        groups.append(tuple(group))
    sizes = (x.batch, *x.symbol.shape)
    if any(sizes[axis] > 1 for axis in pending):
        return None
    if not any(0 in group for group in groups):
        return None
    return replace(x, axes=tuple(groups))
