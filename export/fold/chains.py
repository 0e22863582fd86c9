"""A BatchNorm with the constant Mul, Add and BatchNorm nodes next to it, taken as one affine."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from fastbn.export.fold.affine import Affine, Refused
from fastbn.export.fold.elementwise import keeps_shape, ranked
from fastbn.export.fold.normalization import affine_of, is_batch_norm
from fastbn.export.fold.plan import Plan

CONSTANT_AFFINES = ("Mul", "Add", "Sub", "Div")
# Neighbours on either side that are looked at; a longer row of affines is folded piece by piece.
REACH = 16


@dataclass(frozen=True, slots=True)
class Chain:
    """Nodes in a row, each the only consumer of the one before, that make one affine.

    ``entry`` is the input index by which the value enters the first node.
    """

    nodes: tuple[ir.Node, ...]
    entry: int
    affine: Affine

    @property
    def source(self) -> ir.Value:
        """What enters."""
        value = self.nodes[0].inputs[self.entry]
        assert value is not None
        return value

    @property
    def result(self) -> ir.Value:
        """What leaves."""
        return self.nodes[-1].outputs[0]


def single(plan: Plan, node: ir.Node) -> Chain:
    """Make a chain of the BatchNorm alone."""
    return Chain((node,), 0, affine_of(plan, node))


def longest(plan: Plan, node: ir.Node) -> Chain:
    """Make a chain of the BatchNorm and its affine neighbours on either side."""
    chain = single(plan, node)
    rank = chain.affine.rank
    behind, more = affines_behind(plan, node, rank)
    affine = chain.affine.then(more) if behind else chain.affine
    nodes, entry = [node, *behind], 0
    most = len(nodes) + REACH
    while len(nodes) < most and (before := _before(plan, nodes[0], entry, rank)) is not None:
        nodes.insert(0, before[0])
        affine = before[1].then(affine)
        entry = before[2]
    return Chain(tuple(nodes), entry, affine)


def constant_affine(plan: Plan, node: ir.Node) -> Chain | None:
    """Make a chain of one Mul, Add, Sub or Div with a constant; None if it is no such node."""
    if node.op_type not in CONSTANT_AFFINES or len(node.inputs) != 2:
        return None
    index = 0 if plan.constant(node, 1) is not None else 1
    value = node.inputs[index]
    if value is None or value.producer() is None or plan.constant(node, index) is not None:
        return None
    affine = _as_affine(plan, node, index, len(plan.context.need_dims(value)))
    return None if affine is None else Chain((node,), index, affine)


def affines_behind(plan: Plan, node: ir.Node, rank: int) -> tuple[list[ir.Node], Affine]:
    """Affine neighbours after a node, each the only consumer of the one before, and their product.

    `rank` is that of the node's result.
    """
    nodes, affine = [node], Affine.identity(rank)
    while len(nodes) <= REACH and (step := _after(plan, nodes[-1], rank)) is not None:
        nodes.append(step[0])
        affine = affine.then(step[1])
    return nodes[1:], affine


def only_consumer(value: ir.Value) -> tuple[ir.Node, int] | None:
    """Return the only node that reads a value, and at which input; None if there are others."""
    uses = list(value.uses())
    if len(uses) != 1 or value.is_graph_output():
        return None
    return uses[0].node, uses[0].idx


def _after(plan: Plan, node: ir.Node, rank: int) -> tuple[ir.Node, Affine] | None:
    use = only_consumer(node.outputs[0])
    if use is None or use[0].graph is not node.graph:
        return None
    affine = _as_affine(plan, use[0], use[1], rank)
    return None if affine is None else (use[0], affine)


def _before(plan: Plan, node: ir.Node, entry: int, rank: int) -> tuple[ir.Node, Affine, int] | None:
    value = node.inputs[entry]
    producer = None if value is None else value.producer()
    if value is None or producer is None or producer.graph is not node.graph:
        return None
    if only_consumer(value) is None or value.index() != 0:
        return None
    if producer.op_type not in CONSTANT_AFFINES and not is_batch_norm(producer):
        return None
    for index in range(min(len(producer.inputs), 2)):
        if plan.constant(producer, index) is not None:
            continue
        affine = _as_affine(plan, producer, index, rank)
        if affine is not None:
            return producer, affine, index
    return None


def _as_affine(plan: Plan, node: ir.Node, index: int, rank: int) -> Affine | None:
    """Affine that a node applies to its input ``index``; None if it is not one."""
    if node.domain not in ("", "ai.onnx"):
        return None
    if is_batch_norm(node):
        try:
            return affine_of(plan, node) if index == 0 else None
        except Refused:
            return None
    if node.op_type not in CONSTANT_AFFINES or len(node.inputs) != 2:
        return None
    constant = plan.constant(node, 1 - index)
    if constant is None or plan.constant(node, index) is not None:
        return None
    if not keeps_shape(plan, node, index, constant) or constant.ndim > rank:
        return None
    value = ranked(constant, rank)
    one, zero = np.ones((1,) * rank), np.zeros((1,) * rank)
    if node.op_type == "Mul":
        return Affine.of(value, zero)
    if node.op_type == "Add":
        return Affine.of(one, value)
    if node.op_type == "Div":
        return Affine.of(1.0 / value, zero) if index == 0 and value.all() else None
    return Affine.of(one, -value) if index == 0 else Affine.of(-one, value)
