"""Add, Sub, Mul, Div, Neg, Sum: constants take affines in, values pass parts of them on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from fastbn.export.fold.affine import Affine, Array, Refused
from fastbn.export.fold.moves import backward_rule, forward_rule, push_back, push_on
from fastbn.export.fold.plan import Plan, aligned, label, widened


def _rank(plan: Plan, node: ir.Node) -> int:
    return len(plan.context.need_dims(node.outputs[0]))


def ranked(values: Array, rank: int) -> Array:
    """Constant with leading axes of length 1 up to the given rank."""
    if values.ndim > rank:
        raise Refused("a constant has more axes than the value")
    return values.reshape((1,) * (rank - values.ndim) + values.shape)


def _constant_side(plan: Plan, node: ir.Node) -> tuple[int, Array] | None:
    """Index and value of the constant operand of a two-sided node, if there is just one."""
    if len(node.inputs) != 2:
        return None
    found = [(i, c) for i in (0, 1) if (c := plan.constant(node, i)) is not None]
    return found[0] if len(found) == 1 else None


def keeps_shape(plan: Plan, node: ir.Node, index: int, constant: Array) -> bool:
    """Whether a constant operand leaves the value's shape as it is, so that it may vanish."""
    dims = plan.context.dims(node.inputs[index])
    if dims is None or constant.ndim > len(dims):
        return False
    tail = dims[len(dims) - constant.ndim :]
    return all(n in (1, dim) for n, dim in zip(constant.shape, tail, strict=True))


def _require_same_shape(plan: Plan, node: ir.Node, index: int, constant: Array) -> None:
    if not keeps_shape(plan, node, index, constant):
        raise Refused(f"{label(node)} broadcasts its input")


# --- Sums ---------------------------------------------------------------------------------------


@backward_rule("Add", "Sub", "Sum")
def sum_back(plan: Plan, node: ir.Node, affine: Affine, _: int) -> None:
    """s·(a + b) + t = (s·a + t) + s·b: one operand takes the shift too, all take the scale.

    A constant is preferred for the shift. If it ends as zero, the node disappears.
    """
    constants = [i for i in range(len(node.inputs)) if plan.constant(node, i) is not None]
    if len(node.inputs) == 2 and constants:
        index = constants[0]
        plan.first_of(
            lambda: _vanish_back(plan, node, index, affine),
            lambda: _shares_back(plan, node, index, affine),
        )
        return
    candidates = constants or list(range(len(node.inputs)))
    plan.first_of(*(lambda i=i: _shares_back(plan, node, i, affine) for i in candidates))


def _signs(node: ir.Node) -> list[float]:
    return [1.0, -1.0] if node.op_type == "Sub" else [1.0] * len(node.inputs)


def _shares_back(plan: Plan, node: ir.Node, taker: int, affine: Affine) -> None:
    """Give the shift to one operand and the scale to all."""
    for index, sign in enumerate(_signs(node)):
        share = affine.only_scale()
        if index == taker:
            share = Affine.of(affine.scale, sign * affine.shift)
        if plan.constant(node, index) is None:
            share = aligned(plan, share, node, index)
        push_back(plan, node, index, share)


def _vanish_back(plan: Plan, node: ir.Node, constant: int, affine: Affine) -> None:
    """s·(x + c) + t = s·x + (s·c + t), with nothing left to add."""
    value = plan.constant(node, constant)
    signs = _signs(node)
    if value is None or signs[1 - constant] < 0:
        raise Refused(f"{label(node)} subtracts the value")
    _require_same_shape(plan, node, 1 - constant, value)
    c = signs[constant] * ranked(value, affine.rank)
    whole = Affine.of(affine.scale, affine.scale * c + affine.shift)
    plan.set_constant(node, constant, np.zeros((1,) * value.ndim))
    push_back(plan, node, 1 - constant, aligned(plan, whole, node, 1 - constant))


@forward_rule("Add", "Sub", "Sum")
def sum_forth(plan: Plan, node: ir.Node, indices: Sequence[int], affine: Affine) -> None:
    """Put a shift into the constant or hand it on; a scale passes only a constant sum."""
    rank = _rank(plan, node)
    arriving = widened(affine, rank)
    signs = _signs(node)
    side = _constant_side(plan, node)
    if side is not None and len(indices) == 1 and side[0] != indices[0]:
        index, value = side
        sign = signs[indices[0]]
        plan.first_of(
            lambda: _vanish_forth(plan, node, index, value, sign, arriving),
            lambda: _into_constant(plan, node, index, value, sign, arriving),
            lambda: _past_constant(plan, node, index, value, sign, arriving),
        )
        return
    if arriving.scales:
        raise Refused(f"{label(node)} adds the value to another")
    weight = sum(signs[i] for i in indices)
    push_on(plan, node, Affine.of(arriving.scale, weight * arriving.shift))


def _vanish_forth(
    plan: Plan, node: ir.Node, constant: int, value: Array, sign: float, affine: Affine
) -> None:
    """(s·x + t) + c = s·x + (t + c), with nothing left to add."""
    if sign < 0:
        raise Refused(f"{label(node)} subtracts the value")
    _require_same_shape(plan, node, 1 - constant, value)
    other = _signs(node)[constant]
    whole = Affine.of(affine.scale, affine.shift + other * ranked(value, affine.rank))
    plan.set_constant(node, constant, np.zeros((1,) * value.ndim))
    push_on(plan, node, whole)


def _into_constant(
    plan: Plan, node: ir.Node, constant: int, value: Array, sign: float, affine: Affine
) -> None:
    """Add the shift to the constant; a scale would have to go on."""
    if affine.scales:
        raise Refused(f"{label(node)} adds the value to a constant")
    if sign < 0 and constant == 0:
        plan.set_constant(node, constant, value - affine.shift)  # c − (x + t)
    else:
        plan.set_constant(node, constant, value + _signs(node)[constant] * affine.shift)
    plan.taken(node)


def _past_constant(
    plan: Plan, node: ir.Node, constant: int, value: Array, sign: float, affine: Affine
) -> None:
    """±(s·x + t) ± c = s·(±x ± c/s) ± t: the constant is divided, the rest goes on."""
    if not affine.scale.all():
        raise Refused(f"{label(node)} adds the value to a constant, and a scale is zero")
    plan.set_constant(node, constant, ranked(value, affine.rank) / affine.scale)
    push_on(plan, node, Affine.of(affine.scale, sign * affine.shift))


# --- Products -----------------------------------------------------------------------------------


@backward_rule("Mul", "Div")
def product_back(plan: Plan, node: ir.Node, affine: Affine, _: int) -> None:
    """s·(m·x) + t: m disappears, or m becomes s·m and only the shift t/(s·m) goes further."""
    side = _constant_side(plan, node)
    if side is None or (node.op_type == "Div" and side[0] == 0):
        _scale_one_factor(plan, node, affine)
        return
    index, value = side
    factor = ranked(value, affine.rank)
    factor = 1.0 / factor if node.op_type == "Div" else factor
    if not np.isfinite(factor).all():
        raise Refused(f"{label(node)} divides by zero")

    def vanish() -> None:
        _require_same_shape(plan, node, 1 - index, value)
        whole = Affine.of(affine.scale * factor, affine.shift)
        plan.set_constant(node, index, np.ones((1,) * value.ndim))
        push_back(plan, node, 1 - index, aligned(plan, whole, node, 1 - index))

    def absorb() -> None:
        total = affine.scale * factor
        if (affine.shifts or node.op_type == "Div") and not total.all():
            raise Refused(f"{label(node)} would multiply by zero")
        plan.set_constant(node, index, 1.0 / total if node.op_type == "Div" else total)
        plan.taken(node)
        if affine.shifts:
            rest = Affine.of(np.ones((1,) * affine.rank), affine.shift / total)
            push_back(plan, node, 1 - index, aligned(plan, rest, node, 1 - index))

    plan.first_of(vanish, absorb)


def _scale_one_factor(plan: Plan, node: ir.Node, affine: Affine) -> None:
    """s·(a·b) = (s·a)·b; a shift cannot pass."""
    if affine.shifts:
        raise Refused(f"{label(node)} multiplies two values, which lets no shift through")
    factors = [0] if node.op_type == "Div" else [0, 1]
    plan.first_of(
        *(lambda i=i: push_back(plan, node, i, aligned(plan, affine, node, i)) for i in factors)
    )


@forward_rule("Mul", "Div")
def product_forth(plan: Plan, node: ir.Node, indices: Sequence[int], affine: Affine) -> None:
    """m·(s·x + t) = (m·s)·x + m·t: m disappears, or takes s in and hands m·t on."""
    arriving = widened(affine, _rank(plan, node))
    side = _constant_side(plan, node)
    if len(indices) != 1:
        raise Refused(f"{label(node)} multiplies the value by itself")
    if side is None or side[0] == indices[0]:
        if arriving.shifts or (node.op_type == "Div" and indices[0] == 1):
            raise Refused(f"{label(node)} multiplies two values, which lets no shift through")
        push_on(plan, node, arriving)
        return
    index, value = side
    if node.op_type == "Div" and index == 0:
        raise Refused(f"{label(node)} divides by the value")
    factor = ranked(value, arriving.rank)
    factor = 1.0 / factor if node.op_type == "Div" else factor
    if not np.isfinite(factor).all():
        raise Refused(f"{label(node)} divides by zero")

    def vanish() -> None:
        _require_same_shape(plan, node, 1 - index, value)
        plan.set_constant(node, index, np.ones((1,) * value.ndim))
        push_on(plan, node, Affine.of(factor * arriving.scale, factor * arriving.shift))

    def absorb() -> None:
        total = factor * arriving.scale
        if node.op_type == "Div" and not total.all():
            raise Refused("a scale is zero")
        plan.set_constant(node, index, 1.0 / total if node.op_type == "Div" else total)
        plan.taken(node)
        rest = Affine.of(np.ones((1,) * arriving.rank), factor * arriving.shift)
        push_on(plan, node, rest)

    plan.first_of(vanish, absorb)


@backward_rule("Neg")
def negation_back(plan: Plan, node: ir.Node, affine: Affine, _: int) -> None:
    """s·(−x) + t = −(s·x − t)."""
    push_back(plan, node, 0, Affine.of(affine.scale, -affine.shift))


@forward_rule("Neg")
def negation_forth(plan: Plan, node: ir.Node, indices: Sequence[int], affine: Affine) -> None:
    """−(s·x + t) = s·(−x) − t."""
    push_on(plan, node, Affine.of(affine.scale, -affine.shift))
