"""Weights behind DequantizeLinear: their integers stay, their scales take the affine in.

    s·(q − z)·d = (q − z)·(s·d)

One scale for a tensor becomes one for every output channel. An int32 bias takes a shift, too,
rounded to its steps: at most half a step of error, as when it was quantised.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from fastbn.export.fold.affine import Affine, Array, Refused
from fastbn.export.fold.moves import backward_rule, push_back
from fastbn.export.fold.plan import Plan, label

# DequantizeLinear knows one scale for every channel from this opset on.
PER_AXIS_OPSET = 13


def scale_weight(plan: Plan, node: ir.Node, index: int, scale: Array, axis: int) -> None:
    """Scale a weight that is no constant along one of its axes, if it is a quantised one."""
    value = node.inputs[index] if index < len(node.inputs) else None
    producer = None if value is None else value.producer()
    if producer is None or producer.op_type != "DequantizeLinear":
        raise Refused(f"the weight of {label(node)} is not constant")
    rank = len(plan.context.need_dims(value))
    push_back(plan, node, index, Affine.along(scale, np.zeros(scale.size), axis=axis, rank=rank))


@backward_rule("DequantizeLinear")
def into_scales(plan: Plan, node: ir.Node, affine: Affine, _: int) -> None:
    """DequantizeLinear of constants: the scale goes into the scales."""
    constants = plan.context.constants
    whole, steps = constants.get(node.inputs[0]), plan.constant(node, 1)
    if whole is None or steps is None:
        raise Refused(f"{label(node)} dequantises no constant")
    if plan.attribute(node, "block_size", 0) or plan.attribute(node, "output_dtype", 0):
        raise Refused(f"{label(node)} has scales of blocks")
    _require_signs(plan, node, affine)
    varying = [axis for axis, n in enumerate(affine.shape) if n > 1]
    if len(varying) > 1:
        raise Refused("it would differ along more than one axis")
    axis = int(plan.attribute(node, "axis", 1)) % max(affine.rank, 1)
    if steps.size == 1 and varying:
        axis = varying[0]
    elif varying and varying[0] != axis:
        raise Refused(f"the scales of {label(node)} run along axis {axis}, not {varying[0]}")
    if varying and steps.size == 1 and whole.shape[axis] > 1:
        _require_per_axis(plan, node, axis, whole.shape[axis])
    scale, shift = affine.vector(axis, whole.shape[axis])
    new = steps.reshape(-1) * (scale if varying else scale[:1])
    if affine.shifts:
        _shift_integers(
            plan, node, whole.astype(np.int64), np.broadcast_to(new, scale.shape), shift
        )
    plan.set_constant(node, 1, new.reshape(steps.shape) if new.size == steps.size else new)
    plan.taken(node)


def _require_signs(plan: Plan, node: ir.Node, affine: Affine) -> None:
    """Refuse a scale of 0, which loses the integers, and one below 0 unless it is asked for."""
    if not affine.scale.all():
        raise Refused(f"a scale is zero, which the scales of {label(node)} must not be")
    if (affine.scale < 0).any() and not plan.context.allow_negative_scales:
        raise Refused(
            f"a scale is negative, which the scales of {label(node)} should not be "
            "(allow_negative_scales folds)"
        )


def _require_per_axis(plan: Plan, node: ir.Node, axis: int, length: int) -> None:
    """Plan one zero point for every channel, as there will be scales."""
    if plan.context.opset < PER_AXIS_OPSET:
        raise Refused(f"{label(node)} would need scales per channel, of opset {PER_AXIS_OPSET}")
    plan.set_attribute(node, "axis", axis)
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        zero = plan.context.constants.get(node.inputs[2])
        if zero is None:
            raise Refused(f"the zero point of {label(node)} is not constant")
        plan.integers[node, 2] = np.broadcast_to(zero.reshape(-1), (length,)).copy()


def _shift_integers(
    plan: Plan, node: ir.Node, whole: np.ndarray, steps: Array, shift: Array
) -> None:
    """(q + t/d)·d = q·d + t, in whole steps; only an int32 bias has so many."""
    stored = plan.context.constants.get(node.inputs[0])
    if stored is None or stored.dtype != np.int32 or stored.ndim != 1:
        raise Refused(f"the integers of {label(node)} take no shift")
    if (node, 0) in plan.integers:
        whole = plan.integers[node, 0].astype(np.int64)
    moved = np.rint(whole + shift / steps)
    limit = np.iinfo(np.int32)
    if not ((moved >= limit.min) & (moved <= limit.max)).all():
        raise Refused(f"the bias {label(node)} would overflow int32")
    plan.integers[node, 0] = moved.astype(np.int32)
