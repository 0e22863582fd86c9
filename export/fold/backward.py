"""Backwards: the affine after a linear operator goes into its weights and bias.

s·(W x + b) + t = (s·W) x + (s·b + t)
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from fastbn.export.fold.affine import Affine, Array, Refused
from fastbn.export.fold.moves import backward_rule, push_back
from fastbn.export.fold.plan import Plan, label
from fastbn.export.fold.quantised import scale_weight


def add_bias(plan: Plan, node: ir.Node, index: int, scale: Array, shift: Array) -> None:
    """Turn a bias vector b into s·b + t; one that does not exist counts as zero."""
    if plan.has_input(node, index):
        affine = Affine.along(scale, shift, axis=0, rank=1)
        known = plan.context.constants.dequantised(node.inputs[index])
        if known is None or plan.constant(node, index) is not None:
            push_back(plan, node, index, affine)
            return
        # A quantised bias that cannot take it becomes a floating-point one.
        plan.first_of(
            lambda: push_back(plan, node, index, affine),
            lambda: plan.set_constant(node, index, known * scale + shift),
        )
        return
    if shift.any():
        plan.set_constant(node, index, shift.copy())


@backward_rule("Conv")
def into_conv(plan: Plan, node: ir.Node, affine: Affine, _: int) -> None:
    """Conv: weight (O, I/groups, *kernel), s along O; any padding, stride, dilation, groups."""
    weight = plan.constant(node, 1)
    if weight is None:
        scale, shift = affine.vector(1, _channels(plan, node))
        scale_weight(plan, node, 1, scale, 0)
    else:
        scale, shift = affine.vector(1, weight.shape[0])
        plan.set_constant(node, 1, weight * scale.reshape(-1, *(1,) * (weight.ndim - 1)))
    add_bias(plan, node, 2, scale, shift)
    plan.taken(node)


def _channels(plan: Plan, node: ir.Node) -> int:
    """Return the number of output channels of a convolution whose weight is no constant."""
    size = plan.context.need_dims(node.inputs[1])[0]
    if not isinstance(size, int):
        raise Refused(f"the shape of the weight of {label(node)} is not fixed")
    return size


@backward_rule("ConvTranspose")
def into_conv_transpose(plan: Plan, node: ir.Node, affine: Affine, _: int) -> None:
    """ConvTranspose: weight (I, O/groups, *kernel), s along groups × O/groups."""
    weight = plan.constant(node, 1)
    groups = plan.attribute(node, "group", 1)
    if weight is None:
        scale, shift = _into_dequantised(plan, node, affine, groups)
    else:
        scale, shift = affine.vector(1, weight.shape[1] * groups)
        blocks = weight.reshape(groups, -1, *weight.shape[1:])
        factor = scale.reshape(groups, 1, weight.shape[1], *(1,) * (weight.ndim - 2))
        plan.set_constant(node, 1, (blocks * factor).reshape(weight.shape))
    add_bias(plan, node, 2, scale, shift)
    plan.taken(node)


def _into_dequantised(
    plan: Plan, node: ir.Node, affine: Affine, groups: int
) -> tuple[Array, Array]:
    """Scale a weight that is no constant along the one axis of it that tells its outputs."""
    inputs, outputs = plan.context.need_dims(node.inputs[1])[:2]
    if not isinstance(inputs, int) or not isinstance(outputs, int):
        raise Refused(f"the shape of the weight of {label(node)} is not fixed")
    scale, shift = affine.vector(1, outputs * groups)
    if groups == 1:
        scale_weight(plan, node, 1, scale, 1)
    elif outputs == 1:
        scale_weight(plan, node, 1, np.repeat(scale, inputs // groups), 0)
    else:
        raise Refused(f"the outputs of {label(node)} run along two axes of its weight")
    return scale, shift


@backward_rule("Gemm")
def into_gemm(plan: Plan, node: ir.Node, affine: Affine, _: int) -> None:
    """Gemm: y = alpha·A'B' + beta·C, s along the columns of B' or the rows of A'.

    alpha stays. C of any broadcast form becomes beta·(s·beta·C + t)/beta, that is s·beta·C + t
    with beta = 1, unless it is not constant.
    """
    _scale_product(plan, node, affine)
    beta = float(plan.attribute(node, "beta", 1.0))
    if not plan.has_input(node, 2) or beta == 0.0:
        if affine.shifts:
            columns = _columns(plan, node)
            if affine.shape[0] != 1:
                raise Refused("it would differ along the batch axis")
            plan.set_constant(node, 2, np.broadcast_to(affine.shift[0], (columns,)).copy())
            plan.set_attribute(node, "beta", 1.0)
    elif (bias := plan.constant(node, 2)) is not None:
        # Broadcasting C against (1, N) may raise its rank; Gemm takes every such form.
        whole = bias * (beta * affine.scale) + affine.shift
        # (1, N) says the same as (N,), which is what quantisers expect.
        plan.set_constant(node, 2, whole.reshape(-1) if len(whole) == 1 else whole)
        plan.set_attribute(node, "beta", 1.0)
    else:
        rank = len(plan.context.need_dims(node.inputs[2]))
        inner = Affine.of(affine.scale, affine.shift / beta)
        if rank != 2:
            inner = Affine.along(*inner.vector(1, inner.shape[1]), axis=rank - 1, rank=rank)
        dims = plan.context.need_dims(node.inputs[2])
        if inner.shape[-1] not in (1, dims[-1]):
            raise Refused(f"{label(node)} broadcasts its input")
        push_back(plan, node, 2, inner)
    plan.taken(node)


def _columns(plan: Plan, node: ir.Node) -> int:
    """Return the number of columns N of a Gemm's output."""
    size = plan.context.need_dims(node.inputs[1])[0 if plan.attribute(node, "transB", 0) else 1]
    if not isinstance(size, int):
        raise Refused(f"the shape of the weight of {label(node)} is not fixed")
    return size


def _scale_product(plan: Plan, node: ir.Node, affine: Affine) -> None:
    """Scale the product of a Gemm through whichever factor is constant."""
    if not affine.scales:
        return
    rows, columns = affine.shape
    if rows == 1:
        index, flipped, axis = 1, bool(plan.attribute(node, "transB", 0)), 1
    elif columns == 1:
        index, flipped, axis = 0, bool(plan.attribute(node, "transA", 0)), 0
    else:
        raise Refused("it would differ along both axes")
    matrix = plan.constant(node, index)
    along_rows = (axis == 0) != flipped
    if matrix is None:
        dims = plan.context.need_dims(node.inputs[index])
        size = dims[0 if along_rows else 1]
        if not isinstance(size, int):
            raise Refused(f"the shape of the weight of {label(node)} is not fixed")
        scale_weight(plan, node, index, affine.vector(axis, size)[0], 0 if along_rows else 1)
        return
    scale = affine.vector(axis, matrix.shape[0 if along_rows else 1])[0]
    plan.set_constant(node, index, matrix * (scale[:, None] if along_rows else scale[None, :]))


@backward_rule("MatMul")
def into_matmul(plan: Plan, node: ir.Node, affine: Affine, _: int) -> None:
    """MatMul: s along the last axis goes into the right factor, along the last but one left.

    A shift needs a bias, which a product of two matrices gets by becoming a Gemm.
    """
    if affine.rank < 2:
        raise Refused(f"{label(node)} makes a vector")
    if affine.shifts:
        _matmul_to_gemm(plan, node, affine)
        return
    if affine.scales:
        axis = affine.rank - 1 if affine.shape[-1] > 1 else affine.rank - 2
        if affine.shape[-1] == 1 and affine.shape[-2] == 1:
            axis = affine.rank - 1
        index = 1 if axis == affine.rank - 1 else 0
        matrix = plan.constant(node, index)
        if matrix is None and affine.shape[-1] == 1 and affine.shape[-2] == 1:
            index, matrix = 0, plan.constant(node, 0)
        if matrix is None:
            raise Refused(f"the weight of {label(node)} is not constant")
        if matrix.ndim < 2:
            raise Refused(f"{label(node)} takes a vector")
        inner = axis - affine.rank + matrix.ndim
        scale = affine.vector(axis, matrix.shape[inner])[0]
        shape = [1] * matrix.ndim
        shape[inner] = -1
        plan.set_constant(node, index, matrix * scale.reshape(shape))
    plan.taken(node)


def _matmul_to_gemm(plan: Plan, node: ir.Node, affine: Affine) -> None:
    weight = plan.constant(node, 1)
    left, right = plan.context.dims(node.inputs[0]), plan.context.dims(node.inputs[1])
    if left is None or len(left) != 2 or right is None or len(right) != 2:
        raise Refused(f"{label(node)} has no bias for the shift")
    columns = right[1] if weight is None else weight.shape[1]
    if not isinstance(columns, int):
        raise Refused(f"the shape of the weight of {label(node)} is not fixed")
    scale, shift = affine.vector(1, columns)
    plan.operators[node] = "Gemm"
    if weight is None:
        scale_weight(plan, node, 1, scale, 1)
    else:
        plan.set_constant(node, 1, weight * scale)
    plan.set_constant(node, 2, shift.copy())
    plan.taken(node)
