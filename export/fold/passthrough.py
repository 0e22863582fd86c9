"""Nodes that move, select or average numbers: the affine passes through, in both directions.

Shape nodes reorder the axes of scale and shift. Averages keep both as long as the border does not
count as zeros; maxima keep them where the scale is not negative.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from fastbn.export.fold.affine import Affine, Array, Refused
from fastbn.export.fold.context import Dims
from fastbn.export.fold.moves import (
    backward_rule,
    forward_rule,
    hands_on,
    only_input,
    push_back,
    push_on,
)
from fastbn.export.fold.plan import Plan, label

# How an affine at one end of a node looks at its other end.
Through = Callable[[Plan, ir.Node, Affine], Affine]


def transparent(*operators: str, inverse: Through | None = None) -> Callable[[Through], Through]:
    """Register a forwards rule and, with ``inverse`` or the same function, the backwards one."""

    def register(forth: Through) -> Through:
        back = inverse or forth

        hands_on(*operators)

        @backward_rule(*operators)
        def _back(plan: Plan, node: ir.Node, affine: Affine, _: int) -> None:
            push_back(plan, node, 0, back(plan, node, affine))

        @forward_rule(*operators)
        def _forth(plan: Plan, node: ir.Node, indices: Sequence[int], affine: Affine) -> None:
            only_input(node, indices)
            push_on(plan, node, forth(plan, node, affine))

        return forth

    return register


@transparent("Identity")
def identity(plan: Plan, node: ir.Node, affine: Affine) -> Affine:
    """Identity changes nothing."""
    plan.idle[node] = None
    return affine


@transparent("Dropout")
def dropout(plan: Plan, node: ir.Node, affine: Affine) -> Affine:
    """Dropout does nothing outside of training."""
    if plan.context.opset >= 12 and len(node.inputs) > 2 and node.inputs[2] is not None:
        training = plan.context.constants.get(node.inputs[2])
        if training is None or training.any():
            raise Refused(f"{label(node)} may be in training mode")
    plan.idle[node] = None
    return affine


# --- Axes ---------------------------------------------------------------------------------------


def _permutation(plan: Plan, node: ir.Node, rank: int) -> list[int]:
    given = plan.attribute(node, "perm", None)
    return list(range(rank))[::-1] if given is None else list(given)


def _transpose_back(plan: Plan, node: ir.Node, affine: Affine) -> Affine:
    """Undo the permutation."""
    return affine.transpose(list(np.argsort(_permutation(plan, node, affine.rank))))


@transparent("Transpose", inverse=_transpose_back)
def transpose(plan: Plan, node: ir.Node, affine: Affine) -> Affine:
    """Transpose permutes the axes of scale and shift."""
    return affine.transpose(_permutation(plan, node, affine.rank))


def _reshape_back(plan: Plan, node: ir.Node, affine: Affine) -> Affine:
    """Undo a change of shape."""
    dims = plan.context.need_dims(node.inputs[0])
    return reshaped(affine, _known(plan, node.outputs[0], affine), dims, label(node))


@transparent("Reshape", "Flatten", "Squeeze", "Unsqueeze", inverse=_reshape_back)
def reshape(plan: Plan, node: ir.Node, affine: Affine) -> Affine:
    """Reshape and its relatives keep the order of the numbers."""
    value = node.inputs[0]
    assert value is not None
    dims = plan.context.need_dims(node.outputs[0])
    return reshaped(affine, _known(plan, value, affine), dims, label(node))


def _known(plan: Plan, value: ir.Value, affine: Affine) -> Dims:
    """Shape of a value, completed by the lengths the affine itself has."""
    dims = plan.context.dims(value) or (None,) * affine.rank
    return tuple(n if n > 1 else d for d, n in zip(dims, affine.shape, strict=True))


def reshaped(affine: Affine, source: Dims, target: Dims, what: str) -> Affine:
    """Scale and shift after the numbers of ``source`` were laid out as ``target``.

    Two ways are sound without knowing every length. Leading axes that both shapes share keep
    their affine. And where the trailing axes that the affine varies along are as many numbers as
    trailing axes of the target, one is the other in row-major order.

    >>> a = Affine.along([1.0, 2.0], [0.0, 0.0], axis=1, rank=4)
    >>> reshaped(a, ("N", 2, 2, 1), ("N", 4), "Flatten").scale.tolist()
    [[1.0, 1.0, 2.0, 2.0]]
    """
    varying = [axis for axis, n in enumerate(affine.shape) if n > 1]
    if not varying:
        return Affine(
            affine.scale.reshape((1,) * len(target)), affine.shift.reshape((1,) * len(target))
        )
    shared = 0
    for a, b in zip(source, target, strict=False):
        if a is None or a != b:
            break
        shared += 1
    if varying[-1] < shared:
        return Affine(
            _leading(affine.scale, shared, len(target)), _leading(affine.shift, shared, len(target))
        )
    found = _matching_tails(source, target, varying[0])
    if found is None:
        raise Refused(f"the shapes {_show(source)} -> {_show(target)} of {what} are not fixed")
    start, end = found
    shape = (1,) * end + tuple(int(d or 0) for d in target[end:])
    tail = (1,) * start + tuple(int(d or 0) for d in source[start:])
    scale, shift = affine.full(tail)
    return Affine.of(scale.reshape(shape), shift.reshape(shape))


def _leading(values: Array, shared: int, rank: int) -> Array:
    return values.reshape(values.shape[:shared] + (1,) * (rank - shared))


def _matching_tails(source: Dims, target: Dims, first: int) -> tuple[int, int] | None:
    """Find where equally many trailing numbers begin in both, at or before axis ``first``."""
    for start in range(first, -1, -1):
        count = _product(source[start:])
        if count is None:
            return None
        for end in range(len(target), -1, -1):
            other = _product(target[end:])
            if other is None or other > count:
                break
            if other == count:
                return start, end
    return None


def _product(dims: Dims) -> int | None:
    numbers = [d for d in dims if isinstance(d, int)]
    return math.prod(numbers) if len(numbers) == len(dims) else None


def _show(dims: Dims) -> str:
    return "(" + ", ".join("?" if d is None else str(d) for d in dims) + ")"


# --- Borders and sizes --------------------------------------------------------------------------


def _constant_in_space(node: ir.Node, affine: Affine) -> None:
    if any(n > 1 for n in affine.shape[2:]):
        raise Refused(f"it would differ from place to place in front of {label(node)}")


@transparent("MaxPool", "GlobalMaxPool")
def max_pool(_: Plan, node: ir.Node, affine: Affine) -> Affine:
    """max(s·x + t) = s·max(x) + t for s ≥ 0; padding never wins."""
    _constant_in_space(node, affine)
    if (affine.scale < 0).any():
        raise Refused(f"a scale is negative, which {label(node)} does not let through")
    if any(v.uses() or v.is_graph_output() for v in node.outputs[1:]):
        raise Refused(f"{label(node)} hands out indices")
    return affine


@transparent("AveragePool")
def average_pool(plan: Plan, node: ir.Node, affine: Affine) -> Affine:
    """mean(s·x + t) = s·mean(x) + t where no zeros of the border count."""
    _constant_in_space(node, affine)
    counts = bool(plan.attribute(node, "count_include_pad", 0))
    mode = plan.attribute(node, "auto_pad", "NOTSET")
    border = mode in ("SAME_UPPER", "SAME_LOWER") or (
        mode == "NOTSET" and any(plan.attribute(node, "pads", []))
    )
    if affine.shifts and counts and (border or plan.attribute(node, "ceil_mode", 0)):
        raise Refused(f"{label(node)} counts its padding, which cuts the shift off")
    return affine


def _global_average_back(_: Plan, node: ir.Node, affine: Affine) -> Affine:
    """In front of the mean the affine is the same at every place."""
    _constant_in_space(node, affine)
    return affine


@transparent("GlobalAveragePool", inverse=_global_average_back)
def global_average_pool(_: Plan, node: ir.Node, affine: Affine) -> Affine:
    """Average a shift that differs from place to place: it is a shift again."""
    if any(n > 1 for n in affine.scale.shape[2:]):
        raise Refused(f"its scale differs from place to place in front of {label(node)}")
    axes = tuple(range(2, affine.rank))
    return Affine.of(affine.scale, affine.shift.mean(axis=axes, keepdims=True))


def _reduced_axes(plan: Plan, node: ir.Node, rank: int) -> list[int]:
    axes = plan.attribute(node, "axes", None)
    if axes is None and len(node.inputs) > 1 and node.inputs[1] is not None:
        axes = plan.context.constants.integers(node.inputs[1])
        if axes is None:
            raise Refused(f"the axes of {label(node)} are not constant")
    if not axes:
        if plan.attribute(node, "noop_with_empty_axes", 0):
            return []
        return list(range(rank))
    return sorted(a % rank for a in axes)


def _reduce_back(plan: Plan, node: ir.Node, affine: Affine) -> Affine:
    """In front of the reduction the affine is the same along the reduced axes."""
    dims = plan.context.need_dims(node.inputs[0])
    axes = _reduced_axes(plan, node, len(dims))
    _check_reduction(node, affine, np.asarray(affine.scale))
    if plan.attribute(node, "keepdims", 1):
        return affine
    return Affine(np.expand_dims(affine.scale, axes), np.expand_dims(affine.shift, axes))


@transparent("ReduceMean", "ReduceMax", "ReduceMin", inverse=_reduce_back)
def reduce(plan: Plan, node: ir.Node, affine: Affine) -> Affine:
    """Mean, maximum or minimum over axes along which neither scale nor shift varies."""
    axes = _reduced_axes(plan, node, affine.rank)
    if any(affine.shape[a] > 1 for a in axes):
        raise Refused(f"{label(node)} reduces over an axis along which it differs")
    _check_reduction(node, affine, affine.scale)
    if plan.attribute(node, "keepdims", 1):
        return affine
    drop = tuple(axes)
    return Affine(affine.scale.squeeze(drop), affine.shift.squeeze(drop))


def _check_reduction(node: ir.Node, _: Affine, scale: Array) -> None:
    if node.op_type != "ReduceMean" and (scale < 0).any():
        raise Refused(f"a scale is negative, which {label(node)} does not let through")


@transparent("Resize", "Upsample")
def resize(plan: Plan, node: ir.Node, affine: Affine) -> Affine:
    """Interpolation weights add up to one, so scale and shift pass."""
    _constant_in_space(node, affine)
    if plan.attribute(node, "mode", "nearest") not in ("nearest", "linear", "bilinear"):
        raise Refused(f"{label(node)} does not take an affine in")
    if plan.attribute(node, "coordinate_transformation_mode", "") == "tf_crop_and_resize":
        raise Refused(f"{label(node)} fills in a value of its own")
    if plan.attribute(node, "axes", None) is not None:
        raise Refused(f"{label(node)} does not take an affine in")
    return affine


@transparent("DepthToSpace", "SpaceToDepth")
def depth_to_space(_: Plan, node: ir.Node, affine: Affine) -> Affine:
    """Channels become places: only what is the same in all of them passes."""
    if any(n > 1 for n in affine.shape):
        raise Refused(f"{label(node)} mixes channels and places")
    return affine


@transparent("Slice")
def cut(plan: Plan, node: ir.Node, affine: Affine) -> Affine:
    """Slice along axes where neither scale nor shift varies."""
    axes = plan.attribute(node, "axes", None)
    if axes is None and len(node.inputs) > 3 and node.inputs[3] is not None:
        axes = plan.context.constants.integers(node.inputs[3])
    elif axes is None and plan.attribute(node, "starts", None) is not None:
        axes = list(range(len(plan.attribute(node, "starts", []))))
    if axes is None or any(affine.shape[a % affine.rank] > 1 for a in axes):
        raise Refused(f"{label(node)} selects along an axis on which it differs")
    return affine


@transparent("Pad")
def pad(plan: Plan, node: ir.Node, affine: Affine) -> Affine:
    """Borders that repeat the data keep scale and shift; a border of constants does not."""
    _constant_in_space(node, affine)
    if plan.attribute(node, "mode", "constant") not in ("reflect", "edge", "wrap"):
        raise Refused(f"{label(node)} puts constants around its input")
    pads = plan.attribute(node, "pads", None)
    if pads is None and len(node.inputs) > 1:
        pads = plan.context.constants.integers(node.inputs[1])
    axes: list[int] | None = list(range(affine.rank))
    if len(node.inputs) > 3 and node.inputs[3] is not None:
        axes = plan.context.constants.integers(node.inputs[3])
    if pads is None or axes is None:
        raise Refused(f"the pads of {label(node)} are not constant")
    for axis, begin, end in zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True):
        if (begin or end) and axis % affine.rank < 2:
            raise Refused(f"{label(node)} pads channels")
    return affine
