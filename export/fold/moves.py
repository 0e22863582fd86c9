"""Moving an affine through the graph, node by node; every operator registers its own rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir

from fastbn.export.fold.affine import Affine, Refused
from fastbn.export.fold.plan import Plan, label

# A rule for the way back: (plan, node, affine of its output, index of the output).
BackwardRule = Callable[[Plan, ir.Node, Affine, int], None]
# A rule for the way forth: (plan, node, indices of its inputs, affine those inputs lack).
ForwardRule = Callable[[Plan, ir.Node, Sequence[int], Affine], None]

BACKWARD: dict[str, BackwardRule] = {}
FORWARD: dict[str, ForwardRule] = {}
# Operators that take nothing in, but hand all on to or from their first input.
HANDS_ON: set[str] = set()
# Of these in a row, a way through is far.
FAR = 16


def backward_rule(*operators: str) -> Callable[[BackwardRule], BackwardRule]:
    """Register how an affine after these operators moves in front of or into them."""

    def register(rule: BackwardRule) -> BackwardRule:
        BACKWARD.update(dict.fromkeys(operators, rule))
        return rule

    return register


def forward_rule(*operators: str) -> Callable[[ForwardRule], ForwardRule]:
    """Register how an affine in front of these operators moves after or into them."""

    def register(rule: ForwardRule) -> ForwardRule:
        FORWARD.update(dict.fromkeys(operators, rule))
        return rule

    return register


def hands_on(*operators: str) -> None:
    """Register that operators take nothing of an affine in."""
    HANDS_ON.update(operators)


def is_far(value: ir.Value | None) -> bool:
    """Whether an affine that goes back from a value passes many nodes before it gets anywhere."""
    for _ in range(FAR):
        producer = None if value is None else value.producer()
        if producer is None or producer.op_type not in HANDS_ON:
            return False
        value = producer.inputs[0]
    return True


class _SharedError(Refused):
    """A refusal that names a value of several consumers; those in front of it add nothing."""

    def __init__(self, value: ir.Value, why: str = "") -> None:
        super().__init__(f"{value.name!r} has {len(value.uses())} consumers{why}")


def push_back(plan: Plan, node: ir.Node, index: int, affine: Affine) -> None:
    """Make a node's input carry the affine, by changing whatever produces it.

    Raises
    ------
    Refused
        If the producer cannot, or someone else sees the value too.
    """
    if affine.is_identity:
        return
    plan.step()
    old = plan.constant(node, index)
    if old is not None:
        plan.set_constant(node, index, old * affine.scale + affine.shift)
        plan.taken(node)
        return
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None:
        raise Refused(f"{label(node)} has no input {index}")
    producer = value.producer()
    if producer is None:
        raise Refused(f"{value.name!r} is a graph input")
    if value.is_graph_output():
        raise Refused(f"{value.name!r} is a graph output")
    if producer.graph is not node.graph:
        raise Refused(f"{value.name!r} comes from an outer graph")
    with plan.rewriting(value, producer):
        others = _others(plan, value, (node, index)) if len(value.uses()) != 1 else {}
        if producer in plan.maps:
            raise Refused(f"a map is added to {value.name!r}")
        rule = BACKWARD.get(plan.operator(producer))
        if rule is None or producer.domain not in ("", "ai.onnx"):
            raise Refused(f"{label(producer)} does not take an affine in")
        with plan.attempt():
            # The producer first: it refuses more often, and others may be many.
            try:
                rule(plan, producer, affine, value.index() or 0)
            except _SharedError:
                raise
            except Refused as refusal:
                if others:
                    raise _SharedError(value, f", and {refusal}") from None
                raise
            _tell(plan, value, others, affine)


def _others(plan: Plan, value: ir.Value, asking: tuple[ir.Node, int]) -> dict[ir.Node, list[int]]:
    """All consumers but the one that asks, which have to undo what the value is going to carry.

    A change of variable: v becomes s·v + t, and whoever else reads it takes (v − t)/s in.
    """
    plan.look_at(len(value.uses()))
    others = _consumers(value)
    if asking[0] in others:
        others[asking[0]].remove(asking[1])
        if others[asking[0]]:
            raise Refused(f"{label(asking[0])} reads {value.name!r} more than once")
        del others[asking[0]]
    if not plan.allow_changes:
        raise _SharedError(value)
    return others


def _tell(plan: Plan, value: ir.Value, others: dict[ir.Node, list[int]], affine: Affine) -> None:
    """Let consumers undo an affine that a value carries now."""
    if not others:
        return
    try:
        inverse = affine.inverse()
        for node, indices in others.items():
            _into_consumer(plan, value, node, indices, inverse)
    except Refused as refusal:
        raise _SharedError(value, f", and not all can undo it ({refusal})") from refusal


def push_forward(plan: Plan, value: ir.Value, affine: Affine) -> None:
    """Make every consumer of a value act as if the value carried the affine.

    Raises
    ------
    Refused
        If a consumer cannot, or the value leaves the graph.
    """
    if affine.is_identity:
        return
    plan.step()
    if value.is_graph_output():
        raise Refused(f"{value.name!r} is a graph output")
    plan.look_at(len(value.uses()))
    with plan.rewriting(value):
        for node, indices in _consumers(value).items():
            _into_consumer(plan, value, node, indices, affine)


def _consumers(value: ir.Value) -> dict[ir.Node, list[int]]:
    """Nodes that read a value, and at which of their inputs."""
    found: dict[ir.Node, list[int]] = {}
    for use in value.uses():
        found.setdefault(use.node, []).append(use.idx)
    return found


def _into_consumer(
    plan: Plan, value: ir.Value, node: ir.Node, indices: list[int], affine: Affine
) -> None:
    """Make one consumer of a value act as if the value carried the affine."""
    if node.graph is not value.graph:
        raise Refused(f"{value.name!r} is used inside a subgraph")
    rule = FORWARD.get(plan.operator(node))
    if rule is None or node.domain not in ("", "ai.onnx"):
        raise Refused(f"{label(node)} does not take an affine in")
    with plan.rewriting(node), plan.attempt():
        rule(plan, node, sorted(indices), affine)


def push_on(plan: Plan, node: ir.Node, affine: Affine) -> None:
    """Hand an affine on to the consumers of a node's only output."""
    for extra in node.outputs[1:]:
        if extra.uses() or extra.is_graph_output():
            raise Refused(f"{label(node)} has more than one output in use")
    push_forward(plan, node.outputs[0], affine)


def only_input(node: ir.Node, indices: Sequence[int], index: int = 0) -> None:
    """Refuse unless the affine arrives at this one input."""
    if list(indices) != [index]:
        raise Refused(f"{label(node)} takes the value at input {indices[-1]}")
