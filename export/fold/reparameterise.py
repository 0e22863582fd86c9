"""Convolutions that add up, or follow one another, become one.

W₁ ∗ x + W₂ ∗ x = (W₁ + W₂) ∗ x, the smaller kernel surrounded by zeros; x itself, or an affine of
it, is a 1×1 convolution (RepVGG: Ding et al. 2021, section 3.3). And W₂ ∗ (W₁ ∗ x) = (W₂ W₁) ∗ x
for a 1×1 kernel W₂.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from fastbn.export.fold.affine import MALFORMED, Array, Refused
from fastbn.export.fold.cleanup import bypass, graphs_of
from fastbn.export.fold.commit import commit
from fastbn.export.fold.context import Context
from fastbn.export.fold.normalization import affine_of, is_batch_norm
from fastbn.export.fold.plan import Plan


@dataclass(frozen=True, slots=True)
class Branch:
    """A convolution of x, or what does the same: weight (O, I/groups, *kernel), bias (O,)."""

    weight: Array
    bias: Array
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]  # all begins, then all ends
    groups: int
    node: ir.Node | None = None

    @property
    def kernel(self) -> tuple[int, ...]:
        """Sizes of the kernel."""
        return self.weight.shape[2:]

    @property
    def reach(self) -> tuple[int, ...]:
        """What padding adds to the sizes of the input, less what the kernel takes from them."""
        begins, ends = self.pads[: len(self.kernel)], self.pads[len(self.kernel) :]
        sizes = zip(begins, ends, self.dilations, self.kernel, strict=True)
        return tuple(begin + end - d * (k - 1) for begin, end, d, k in sizes)


def merge_convolutions(context: Context, model: ir.Model) -> list[tuple[ir.Node, ir.Node]]:
    """Merge all that can be; return what went, and the convolution it went into."""
    merged: list[tuple[ir.Node, ir.Node]] = []
    for graph in graphs_of(model):
        for node in list(graph):
            if node.graph is None or node.domain not in ("", "ai.onnx"):
                continue
            try:
                if node.op_type == "Conv":
                    merged += filter(None, [_merge_row(context, node)])
                elif node.op_type in ("Add", "Sum"):
                    merged += _merge_sum(context, node)
            except (Refused, *MALFORMED):
                continue
    return merged


def convolution(plan: Plan, node: ir.Node) -> Branch | None:
    """Read a convolution of constant weights; None if it is none, or pads by a rule."""
    if node.op_type != "Conv" or node.domain not in ("", "ai.onnx"):
        return None
    weight = plan.constant(node, 1)
    if weight is None or plan.attribute(node, "auto_pad", "NOTSET") not in ("NOTSET", b"NOTSET"):
        return None
    bias = plan.constant(node, 2)
    if bias is None:
        if plan.has_input(node, 2):
            return None
        bias = np.zeros(len(weight))
    ones = (1,) * (weight.ndim - 2)
    return Branch(
        weight,
        bias,
        tuple(plan.attribute(node, "strides", ones)),
        tuple(plan.attribute(node, "dilations", ones)),
        tuple(plan.attribute(node, "pads", (0, 0) * len(ones))),
        int(plan.attribute(node, "group", 1)),
        node,
    )


# --- side by side -----------------------------------------------------------------------------


def _merge_sum(context: Context, node: ir.Node) -> list[tuple[ir.Node, ir.Node]]:
    """Merge operands of a sum that are convolutions of the same value, or can be."""
    rest = [value for value in node.inputs if value is not None]
    alike: dict[ir.Value, list[ir.Value]] = {}
    for value in rest:
        maker = _maker(value)
        sources = [value, *(maker.inputs[:1] if maker is not None else ())]
        for source in sources:
            if source is not None:
                alike.setdefault(source, []).append(value)
    merged: list[tuple[ir.Node, ir.Node]] = []
    for source, operands in alike.items():
        for kept, gone in _merge_alike(context, source, operands):
            rest.remove(gone)
            into = kept.producer()
            assert into is not None
            merged.append(((None if gone is source else gone.producer()) or node, into))
    if not merged:
        return []
    if len(rest) == 1:
        bypass(node, rest[0])
        return merged
    for index, value in enumerate(rest):
        node.replace_input_with(index, value)
    node.resize_inputs(len(rest))
    return merged


def _merge_alike(
    context: Context, source: ir.Value, operands: list[ir.Value]
) -> Iterator[tuple[ir.Value, ir.Value]]:
    """Merge operands that read one source, or are it; yield what stays beside what goes."""
    left, done = list(operands), set[ir.Value]()
    for operand in operands:
        kept, maker = operand, _maker(operand)
        found = operand not in done and maker is not None and maker.op_type == "Conv"
        while found and len(left) > 1:
            found = False
            for other in [value for value in left if value is not kept]:
                try:
                    pair = _merge_pair(context, source, kept, other)
                except (Refused, *MALFORMED):
                    continue
                if pair is not None:
                    found, (kept, gone) = True, pair
                    left.remove(gone)
                    done.update(pair)
                    yield kept, gone


def _merge_pair(
    context: Context, source: ir.Value, first: ir.Value, second: ir.Value
) -> tuple[ir.Value, ir.Value] | None:
    """Merge two operands, the first a convolution; return the one that stays, and the other."""
    plan, maker = Plan(context), _maker(first)
    found = None if maker is None else convolution(plan, maker)
    if found is None or maker is None or maker.inputs[0] is not source:
        return None
    other = _beside(plan, second, found, source)
    large, small = found, other
    if small is None:
        return None
    if small.node is not None and math.prod(small.kernel) > math.prod(large.kernel):
        large, small = small, large
    weight = _surrounded(large, small)
    if weight is None or large.node is None:
        return None
    plan.set_constant(large.node, 1, large.weight + weight)
    bias = large.bias + small.bias
    if bias.any() or plan.has_input(large.node, 2):
        plan.set_constant(large.node, 2, bias)
    commit(plan)
    return (first, second) if large is found else (second, first)


def _maker(value: ir.Value) -> ir.Node | None:
    """Return the node that makes a value for one reader alone."""
    producer = value.producer()
    if producer is None or value.index() != 0 or value.is_graph_output():
        return None
    return producer if len(value.uses()) == 1 else None


def _beside(plan: Plan, value: ir.Value, to: Branch, source: ir.Value | None) -> Branch | None:
    """Read the other operand: a convolution of the same value, that value, or an affine of it."""
    channels = len(to.weight)
    if value is source:
        return _pointwise(to, np.ones(channels), np.zeros(channels))
    maker = _maker(value)
    if maker is None or not maker.inputs or maker.inputs[0] is not source:
        return None
    if is_batch_norm(maker):
        return _pointwise(to, *affine_of(plan, maker).vector(1, channels))
    found = convolution(plan, maker)
    if found is None or found.groups != to.groups or found.strides != to.strides:
        return None
    return found if found.weight.shape[:2] == to.weight.shape[:2] else None


def _pointwise(to: Branch, scale: Array, shift: Array) -> Branch | None:
    """Write scale·x + shift as a 1×1 convolution like another; None if channels or sizes differ."""
    outputs, inputs = to.weight.shape[:2]
    if outputs != inputs * to.groups or set(to.strides) != {1}:
        return None
    ones = (1,) * len(to.kernel)
    weight = np.zeros((outputs, inputs, *ones))
    weight[(np.arange(outputs), np.arange(outputs) % inputs, *(0 for _ in ones))] = scale
    return Branch(weight, shift, to.strides, ones, (0, 0) * len(ones), to.groups)


def _surrounded(large: Branch, small: Branch) -> Array | None:
    """Put the smaller kernel where it belongs among zeros; None if there is no such place."""
    if large.reach != small.reach:
        return None  # their results have different sizes
    weight = np.zeros(large.weight.shape)
    places: list[slice] = []
    for axis, (length, size) in enumerate(zip(large.kernel, small.kernel, strict=True)):
        step = large.dilations[axis]
        if size > 1 and small.dilations[axis] != step:
            return None
        place, rest = divmod(large.pads[axis] - small.pads[axis], step)
        if rest or place < 0 or place + size > length:
            return None
        places.append(slice(place, place + size))
    weight[(slice(None), slice(None), *places)] = small.weight
    return weight


# --- one after the other ---------------------------------------------------------------------


def _merge_row(context: Context, node: ir.Node) -> tuple[ir.Node, ir.Node] | None:
    """Merge a 1×1 convolution into the one in front of it, where that is no more arithmetic."""
    plan = Plan(context)
    last = convolution(plan, node)
    maker = None if node.inputs[0] is None else _maker(node.inputs[0])
    first = None if maker is None else convolution(plan, maker)
    if last is None or first is None or maker is None or maker.graph is not node.graph:
        return None
    if last.groups != 1 or first.groups != 1 or set(last.kernel) != {1} or any(last.pads):
        return None
    middle, inputs = len(first.weight), first.weight[0].size
    outputs, skipped = len(last.weight), math.prod(last.strides)
    if inputs * outputs > skipped * inputs * middle + middle * outputs:
        return None
    matrix = last.weight.reshape(outputs, middle)
    plan.set_constant(maker, 1, np.tensordot(matrix, first.weight, axes=1))
    bias = matrix @ first.bias + last.bias
    if bias.any() or plan.has_input(maker, 2):
        plan.set_constant(maker, 2, bias)
    strides = [a * b for a, b in zip(first.strides, last.strides, strict=True)]
    plan.set_attribute(maker, "strides", strides)
    plan.taken(maker)
    commit(plan)
    maker.outputs[0].shape = node.outputs[0].shape
    bypass(node, maker.outputs[0])
    return node, maker
