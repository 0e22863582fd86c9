"""Concat and Split: the affine is cut into parts or put together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from fastbn.export.fold.affine import Affine, Refused
from fastbn.export.fold.moves import (
    backward_rule,
    forward_rule,
    only_input,
    push_back,
    push_forward,
    push_on,
)
from fastbn.export.fold.plan import Plan, label


def _lengths(plan: Plan, values: Sequence[ir.Value | None], axis: int, node: ir.Node) -> list[int]:
    lengths = []
    for value in values:
        dims = plan.context.need_dims(value)
        size = dims[axis]
        if not isinstance(size, int):
            raise Refused(f"the lengths of {label(node)} are not fixed")
        lengths.append(size)
    return lengths


def _axis(plan: Plan, node: ir.Node, rank: int, default: int) -> int:
    return int(plan.attribute(node, "axis", default)) % rank


@backward_rule("Concat")
def concat_back(plan: Plan, node: ir.Node, affine: Affine, _: int) -> None:
    """Every input takes its slice."""
    axis = _axis(plan, node, affine.rank, 1)
    if affine.shape[axis] == 1:
        for index in range(len(node.inputs)):
            push_back(plan, node, index, affine)
        return
    start = 0
    for index, length in enumerate(_lengths(plan, node.inputs, axis, node)):
        push_back(plan, node, index, affine.part(axis, start, start + length))
        start += length


@forward_rule("Concat")
def concat_forth(plan: Plan, node: ir.Node, indices: Sequence[int], affine: Affine) -> None:
    """Complete the affine with the identity of the other inputs."""
    axis = _axis(plan, node, affine.rank, 1)
    lengths = _lengths(plan, node.inputs, axis, node)
    shape = [max(n, 1) for n in affine.shape]
    shape[axis] = sum(lengths)
    scale, shift = np.ones(shape), np.zeros(shape)
    start = 0
    for index, length in enumerate(lengths):
        if index in indices:
            where = (slice(None),) * axis + (slice(start, start + length),)
            scale[where], shift[where] = affine.scale, affine.shift
        start += length
    push_on(plan, node, Affine.of(scale, shift))


def _split_lengths(plan: Plan, node: ir.Node, axis: int) -> list[int]:
    given = plan.attribute(node, "split", None)
    if given is None and len(node.inputs) > 1 and node.inputs[1] is not None:
        given = plan.context.constants.integers(node.inputs[1])
    return list(given) if given is not None else _lengths(plan, node.outputs, axis, node)


@backward_rule("Split")
def split_back(plan: Plan, node: ir.Node, affine: Affine, output: int) -> None:
    """Complete the affine of this output with the identity of the others."""
    axis = _axis(plan, node, affine.rank, 0)
    lengths = _split_lengths(plan, node, axis)
    shape = list(affine.shape)
    shape[axis] = sum(lengths)
    scale, shift = np.ones(shape), np.zeros(shape)
    start = sum(lengths[:output])
    where = (slice(None),) * axis + (slice(start, start + lengths[output]),)
    scale[where], shift[where] = affine.scale, affine.shift
    push_back(plan, node, 0, Affine.of(scale, shift))


@forward_rule("Split")
def split_forth(plan: Plan, node: ir.Node, indices: Sequence[int], affine: Affine) -> None:
    """Every output takes its slice."""
    only_input(node, indices)
    axis = _axis(plan, node, affine.rank, 0)
    if affine.shape[axis] == 1:
        for value in node.outputs:
            push_forward(plan, value, affine)
        return
    start = 0
    for value, length in zip(node.outputs, _split_lengths(plan, node, axis), strict=True):
        push_forward(plan, value, affine.part(axis, start, start + length))
        start += length
