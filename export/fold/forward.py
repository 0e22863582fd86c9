"""Forwards: the affine in front of a linear operator goes into its weights and bias.

    W (s·x + t) + b = (W·s) x + (b + W t)

What the weights cannot take (a shift that padding cuts off at the border, a bias where the
operator has none) is handed on to the consumers as a new affine, a map if it must be.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from fastbn.export.fold.affine import Affine, Array, Refused
from fastbn.export.fold.backward import add_bias
from fastbn.export.fold.moves import forward_rule, only_input, push_on
from fastbn.export.fold.plan import Plan, label
from fastbn.export.operators import convolve, transposed_geometry
from fastbn.export.windows import conv_transpose, windows

# Bias maps larger than this are not worth their memory.
MAP_LIMIT = 2**22
# And one that becomes a weight of its own has to be smaller.
ADDED_MAP_LIMIT = 2**18


def pads_nothing(plan: Plan, node: ir.Node, kernel: Sequence[int]) -> bool:
    """Whether a convolution sees only its input, no border around it."""
    mode = plan.attribute(node, "auto_pad", "NOTSET")
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        return all(k == 1 for k in kernel)
    return mode == "VALID" or not any(plan.attribute(node, "pads", []))


@forward_rule("Conv")
def out_of_conv(plan: Plan, node: ir.Node, indices: Sequence[int], affine: Affine) -> None:
    """Conv: weight (O, I/groups, *kernel), s along groups × I/groups.

    Without padding the shift is a bias. With padding it is missing at the border: it becomes a
    map (1, O, *size) after the node, which some consumer has to take in.
    """
    only_input(node, indices)
    weight = plan.constant(node, 1)
    if weight is None:
        raise Refused(f"the weight of {label(node)} is not constant")
    groups = plan.attribute(node, "group", 1)
    scale, shift = affine.vector(1, weight.shape[1] * groups)
    per_group = (groups, 1, weight.shape[1], *(1,) * (weight.ndim - 2))
    blocks = weight.reshape(groups, -1, *weight.shape[1:])
    folded = (blocks * scale.reshape(per_group)).reshape(weight.shape)
    plan.set_constant(node, 1, folded)
    plan.taken(node)
    if not shift.any():
        return
    kernel = weight.shape[2:]
    if pads_nothing(plan, node, kernel):
        contribution = (blocks * shift.reshape(per_group)).reshape(weight.shape)
        bias = contribution.sum(axis=tuple(range(1, weight.ndim)))
        add_bias(plan, node, 2, np.ones_like(bias), bias)
        return
    try:
        border = _border_map(plan, node, weight, shift, groups)
        plan.first_of(
            lambda: push_bias_or_map(plan, node, border), lambda: _add_map(plan, node, border)
        )
    except Refused as refusal:
        raise Refused(
            f"{label(node)} pads its input, which cuts the shift off at the border ({refusal})"
        ) from refusal


def _border_map(plan: Plan, node: ir.Node, weight: Array, shift: Array, groups: int) -> Array:
    """Convolve the shift alone: (1, O, *size), weaker at the border that is padded."""
    spatial = _static_spatial(plan, node)
    geometry = windows(
        spatial,
        weight.shape[2:],
        strides=plan.attribute(node, "strides", None),
        dilations=plan.attribute(node, "dilations", None),
        pads=plan.attribute(node, "pads", None),
        auto_pad=plan.attribute(node, "auto_pad", None),
    )
    if weight.shape[0] * int(np.prod(geometry.size)) > MAP_LIMIT:
        raise Refused(f"the bias map of {label(node)} would be too large")
    flat = np.broadcast_to(shift.reshape(1, -1, *(1,) * len(spatial)), (1, shift.size, *spatial))
    return convolve(flat, weight, None, geometry, groups)


def _add_map(plan: Plan, node: ir.Node, image: Array) -> None:
    """Plan an addition after a convolution: it stands in for a BatchNorm on a larger image."""
    if not plan.allow_maps or image.size > ADDED_MAP_LIMIT:
        raise Refused(f"{label(node)} would need a bias map")
    plan.maps[node] = plan.maps.get(node, 0.0) + image


def _static_spatial(plan: Plan, node: ir.Node) -> list[int]:
    dims = plan.context.need_dims(node.inputs[0])[2:]
    if not all(isinstance(d, int) for d in dims):
        raise Refused(f"the size of the input of {label(node)} is not fixed")
    return [int(d) for d in dims if d is not None]


@forward_rule("ConvTranspose")
def out_of_conv_transpose(
    plan: Plan, node: ir.Node, indices: Sequence[int], affine: Affine
) -> None:
    """ConvTranspose: weight (I, O/groups, *kernel), s along I.

    The number of taps that reach an output depends on its place, so the shift is always a map.
    """
    only_input(node, indices)
    weight = plan.constant(node, 1)
    if weight is None:
        raise Refused(f"the weight of {label(node)} is not constant")
    scale, shift = affine.vector(1, weight.shape[0])
    plan.set_constant(node, 1, weight * scale.reshape(-1, *(1,) * (weight.ndim - 1)))
    plan.taken(node)
    if not shift.any():
        return
    rank = weight.ndim - 2
    spatial = _static_spatial(plan, node)
    strides = plan.attribute(node, "strides", None) or [1] * rank
    dilations = plan.attribute(node, "dilations", None) or [1] * rank
    begin, size = transposed_geometry(
        spatial,
        weight.shape[2:],
        strides,
        dilations,
        plan.attribute(node, "output_padding", None) or [0] * rank,
        pads=plan.attribute(node, "pads", None),
        auto_pad=plan.attribute(node, "auto_pad", None),
        output_shape=plan.attribute(node, "output_shape", None),
    )
    groups = plan.attribute(node, "group", 1)
    if weight.shape[1] * groups * int(np.prod(size)) > MAP_LIMIT:
        raise Refused(f"the bias map of {label(node)} would be too large")
    flat = np.broadcast_to(shift.reshape(1, -1, *(1,) * rank), (1, shift.size, *spatial))
    image = conv_transpose(
        np.ascontiguousarray(flat),
        weight,
        None,
        groups=groups,
        strides=strides,
        dilations=dilations,
        begin=begin,
        size=size,
    )
    push_bias_or_map(plan, node, image)


def push_bias_or_map(plan: Plan, node: ir.Node, image: Array) -> None:
    """Take a map that is the same everywhere as a bias; hand any other on to the consumers."""
    affine = Affine.of(np.ones((1,) * image.ndim), image)
    if all(n == 1 for n in affine.shape[2:]):
        bias = np.broadcast_to(affine.shift.reshape(-1), (image.shape[1],))
        add_bias(plan, node, 2, np.ones_like(bias), bias)
    else:
        push_on(plan, node, affine)


@forward_rule("Gemm")
def out_of_gemm(plan: Plan, node: ir.Node, indices: Sequence[int], affine: Affine) -> None:
    """Gemm: s along the inner axis goes into the other factor, alpha·(t B') into C."""
    if list(indices) == [2]:
        _through_gemm_bias(plan, node, affine)
        return
    side = indices[0]
    if len(indices) != 1 or side > 1:
        raise Refused(f"{label(node)} takes the value more than once")
    matrix = plan.constant(node, 1 - side)
    if matrix is None:
        raise Refused(f"the weight of {label(node)} is not constant")
    flipped = bool(plan.attribute(node, "transB" if side == 0 else "transA", 0))
    inner_flipped = bool(plan.attribute(node, "transA" if side == 0 else "transB", 0))
    # Axis of the moving factor that is summed over; normally 1 for A, 0 for B.
    axis = (1 - side) if not inner_flipped else side
    other = side if not flipped else 1 - side
    length = matrix.shape[other]
    scale, shift = affine.vector(axis, length)
    column = scale[:, None] if other == 0 else scale[None, :]
    plan.set_constant(node, 1 - side, matrix * column)
    plan.taken(node)
    if not shift.any():
        return
    alpha = float(plan.attribute(node, "alpha", 1.0))
    beta = float(plan.attribute(node, "beta", 1.0))
    bias = alpha * (shift @ (matrix if other == 0 else matrix.T))
    if side == 1:
        bias = bias[:, None]  # one number for every row
    old = plan.constant(node, 2)
    if not plan.has_input(node, 2) or beta == 0.0:
        plan.set_constant(node, 2, bias)
    elif old is not None:
        plan.set_constant(node, 2, beta * old + bias)
    else:
        raise Refused(f"the bias of {label(node)} is not constant")
    plan.set_attribute(node, "beta", 1.0)


def _through_gemm_bias(plan: Plan, node: ir.Node, affine: Affine) -> None:
    """C + t: beta·t goes on, a scale of C alone cannot."""
    if affine.scales:
        raise Refused(f"{label(node)} adds the value to a product")
    beta = float(plan.attribute(node, "beta", 1.0))
    lead = (1,) * (2 - affine.rank)
    shift = beta * affine.shift.reshape(lead + affine.shift.shape)
    push_on(plan, node, Affine.of(np.ones((1, 1)), shift))


@forward_rule("MatMul")
def out_of_matmul(plan: Plan, node: ir.Node, indices: Sequence[int], affine: Affine) -> None:
    """MatMul: s along the summed axis goes into the other factor, t B on to the consumers.

    A product of two matrices becomes a Gemm if no consumer takes t B.
    """
    if len(indices) != 1:
        raise Refused(f"{label(node)} takes the value more than once")
    side = indices[0]
    matrix = plan.constant(node, 1 - side)
    if matrix is None:
        raise Refused(f"the weight of {label(node)} is not constant")
    if matrix.ndim < 2 or affine.rank < 2:
        raise Refused(f"{label(node)} takes a vector")
    axis = affine.rank - 1 if side == 0 else affine.rank - 2
    inner = matrix.ndim - 2 if side == 0 else matrix.ndim - 1
    scale, shift = affine.vector(axis, matrix.shape[inner])
    shape = [1] * matrix.ndim
    shape[inner] = -1
    plan.set_constant(node, 1 - side, matrix * scale.reshape(shape))
    plan.taken(node)
    if not shift.any():
        return
    if side == 0:
        image = shift @ matrix  # (*batch, N)
        image = image[..., None, :]
    else:
        image = (matrix @ shift)[..., None]
    rank = max(affine.rank, matrix.ndim)
    image = image.reshape((1,) * (rank - image.ndim) + image.shape)
    plan.first_of(
        lambda: push_on(plan, node, Affine.of(np.ones((1,) * rank), image)),
        lambda: _bias_by_gemm(plan, node, side, image),
    )


def _bias_by_gemm(plan: Plan, node: ir.Node, side: int, image: Array) -> None:
    if side != 0 or image.ndim != 2:
        raise Refused(f"{label(node)} has no bias for the shift")
    plan.operators[node] = "Gemm"
    plan.set_constant(node, 2, image.reshape(-1))
