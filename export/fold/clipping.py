"""The Relu family as clip(x, low, high) with a bound per channel, and what an affine does to it.

    s·clip(x, l, h) + t = clip(s·x + t, s·l + t, s·h + t)            for s > 0 (s < 0 swaps them)
    clip(s·x + t, l, h) = s·clip(x, (l − t)/s, (h − t)/s) + t

So BatchNorm → Relu → convolution becomes Max with a constant → convolution, and convolution → Relu
→ BatchNorm becomes convolution → Max: exact, and as fast as the Relu was.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from fastbn.export.fold.affine import Affine, Array, Refused, fits, largest
from fastbn.export.fold.elementwise import ranked
from fastbn.export.fold.moves import (
    backward_rule,
    forward_rule,
    hands_on,
    only_input,
    push_back,
    push_on,
)
from fastbn.export.fold.plan import Bounds, Plan, aligned, label, widened

hands_on("Relu", "Clip", "Max", "Min", "LeakyRelu", "PRelu", "Abs")
# Max and Min broadcast from this opset on, and know bfloat16 from the other.
BROADCAST_OPSET = 8
BFLOAT16_OPSET = 13


def read_bounds(plan: Plan, node: ir.Node, rank: int) -> tuple[int, Bounds]:
    """Index of the data input and the bounds of a Relu, Clip, Max or Min node."""
    if node in plan.bounds:
        return data_index(plan, node), plan.bounds[node]
    shape = (1,) * rank
    low, high = np.full(shape, -np.inf), np.full(shape, np.inf)
    if node.op_type == "Relu":
        return 0, Bounds(np.zeros(shape), high)
    if node.op_type == "Clip":
        return 0, _clip_bounds(plan, node, shape)
    index = data_index(plan, node)
    constant = plan.constant(node, 1 - index)
    if constant is None:
        raise Refused(f"{label(node)} compares two values")
    constant = ranked(constant, rank)
    return index, Bounds(constant, high) if node.op_type == "Max" else Bounds(low, constant)


def data_index(plan: Plan, node: ir.Node) -> int:
    """Tell which input of a Max or Min is the value; there has to be one, and one constant."""
    if node.op_type in ("Relu", "Clip"):
        return 0
    values = [i for i in range(len(node.inputs)) if plan.constant(node, i) is None]
    if len(node.inputs) != 2 or len(values) != 1:
        raise Refused(f"{label(node)} compares two values")
    return values[0]


def _clip_bounds(plan: Plan, node: ir.Node, shape: tuple[int, ...]) -> Bounds:
    found = []
    for index, (name, default) in enumerate((("min", -np.inf), ("max", np.inf)), start=1):
        bound = plan.attribute(node, name, default)
        if index < len(node.inputs) and node.inputs[index] is not None:
            constant = plan.constant(node, index)
            if constant is None or constant.size != 1:
                raise Refused(f"the bounds of {label(node)} are not constant")
            bound = float(constant.reshape(-1)[0])
        found.append(np.full(shape, bound))
    # ONNX lets the upper bound win where the two cross.
    return Bounds(np.minimum(found[0], found[1]), found[1])


def _set_bounds(plan: Plan, node: ir.Node, bounds: Bounds) -> None:
    """Plan new bounds, if the node can have them."""
    old = {
        "Relu": bool((bounds.low == 0).all() and np.isposinf(bounds.high).all()),
        "Clip": bounds.low.size == 1 and bounds.high.size == 1,
        "Max": bool(np.isposinf(bounds.high).all()),
        "Min": bool(np.isneginf(bounds.low).all()),
    }[node.op_type]
    dtype = plan.dtype(node, 0)
    if not old:
        if not plan.allow_bounds:
            raise Refused(f"{label(node)} would need a bound per channel")
        needed = BFLOAT16_OPSET if dtype.name == "bfloat16" else BROADCAST_OPSET
        if plan.context.opset < needed:
            raise Refused(f"{label(node)} would need Max of opset {needed}")
    for values in (bounds.low, bounds.high):
        fits(values, dtype, f"a bound of {label(node)}", infinite=True)
    plan.bounds[node] = bounds
    plan.taken(node)


@backward_rule("Relu", "Clip", "Max", "Min")
def bounds_back(plan: Plan, node: ir.Node, affine: Affine, _: int) -> None:
    """Move the affine in front of the clip and let it act on the bounds."""
    index, bounds = read_bounds(plan, node, affine.rank)
    scale, shift = np.broadcast_arrays(affine.scale, affine.shift)
    falls = scale < 0
    # A scale of zero leaves t alone; it keeps to the direction of its neighbours.
    if not (scale > 0).any():
        falls = scale <= 0
    with np.errstate(invalid="ignore"):
        at_low, at_high = scale * bounds.low + shift, scale * bounds.high + shift
    at_low = np.where(scale == 0, np.where(np.isfinite(bounds.low), shift, -np.inf), at_low)
    at_high = np.where(scale == 0, np.where(np.isfinite(bounds.high), shift, np.inf), at_high)
    low, high = np.where(falls, at_high, at_low), np.where(falls, at_low, at_high)
    if (scale == 0).any():
        low, high = _open_ends(low, high, falls & (scale == 0))
    _set_bounds(plan, node, _collapsed(low, high))
    push_back(plan, node, index, aligned(plan, affine, node, index))


def _open_ends(low: Array, high: Array, swapped: np.ndarray) -> tuple[Array, Array]:
    """Infinite bounds that a zero scale swapped point outwards again."""
    return (
        np.where(swapped & np.isposinf(low), -np.inf, low),
        np.where(swapped & np.isneginf(high), np.inf, high),
    )


@forward_rule("Relu", "Clip", "Max", "Min")
def bounds_forth(plan: Plan, node: ir.Node, indices: Sequence[int], affine: Affine) -> None:
    """Move the affine after the clip; the bounds are seen through it."""
    if node.op_type in ("Max", "Min"):
        rank = len(plan.context.need_dims(node.outputs[0]))
        affine = widened(affine, rank)
    index, bounds = read_bounds(plan, node, affine.rank)
    only_input(node, indices, index)
    scale, shift = np.broadcast_arrays(affine.scale, affine.shift)
    # Where s is so small that s·x can never count beside t, the result is the constant clip(t).
    reach = 1e-8 * largest(plan.dtype(node, 0))
    distance = np.zeros_like(scale)
    for bound in (bounds.low, bounds.high):
        gap = np.abs(np.where(np.isfinite(bound), bound - shift, 0.0))
        distance = np.maximum(distance, gap)
    dead = distance > np.abs(scale) * reach
    if plan.dtype(node, 0) == np.float16 and (dead & (scale != 0)).any():
        raise Refused(f"a bound of {label(node)} would overflow float16")
    dead |= scale == 0
    safe = np.where(dead, 1.0, scale)
    falls = safe < 0
    if not ((scale > 0) & ~dead).any() and falls.any():
        falls |= dead
    at_low, at_high = (bounds.low - shift) / safe, (bounds.high - shift) / safe
    low, high = np.where(falls, at_high, at_low), np.where(falls, at_low, at_high)
    if dead.any():
        constant = np.clip(shift, bounds.low, bounds.high)
        low, high = _dead_bounds(low, high, dead, falls, bounds)
        scale = np.where(dead, 0.0, scale)
        shift = np.where(dead, constant, shift)
    _set_bounds(plan, node, _collapsed(low, high))
    push_on(plan, node, Affine.of(scale, shift))


def _dead_bounds(
    low: Array, high: Array, dead: np.ndarray, falls: np.ndarray, bounds: Bounds
) -> tuple[Array, Array]:
    """Channels whose result is multiplied by zero keep whatever keeps the others' form."""
    has_low = np.where(falls, np.isfinite(bounds.high), np.isfinite(bounds.low))
    has_high = np.where(falls, np.isfinite(bounds.low), np.isfinite(bounds.high))
    low = np.where(dead, np.where(has_low, 0.0, -np.inf), low)
    return low, np.where(dead, np.where(has_high, 0.0, np.inf), high)


def _collapsed(low: Array, high: Array) -> Bounds:
    pair = Affine.of(low, high)  # an affine collapses the axes along which nothing varies
    return Bounds(pair.scale, pair.shift)


# --- Activations that are linear on either side of zero -------------------------------------------


def _positive(node: ir.Node, affine: Affine) -> None:
    if affine.shifts:
        raise Refused(f"{label(node)} lets no shift through")
    if not (affine.scale > 0).all():
        raise Refused(f"a scale is not positive, which {label(node)} does not let through")


@backward_rule("LeakyRelu", "PRelu", "Abs")
def halves_back(plan: Plan, node: ir.Node, affine: Affine, _: int) -> None:
    """f(s·x) = s·f(x) for s > 0."""
    _positive(node, affine)
    push_back(plan, node, 0, aligned(plan, affine, node, 0))


@forward_rule("LeakyRelu", "PRelu", "Abs")
def halves_forth(plan: Plan, node: ir.Node, indices: Sequence[int], affine: Affine) -> None:
    """f(s·x) = s·f(x) for s > 0."""
    only_input(node, indices)
    _positive(node, affine)
    push_on(plan, node, widened(affine, len(plan.context.need_dims(node.outputs[0]))))
