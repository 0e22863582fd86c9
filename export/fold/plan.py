"""A plan: what would change if an affine were moved; nothing is touched until it is committed.

Rules read the graph *through* the plan (:meth:`Plan.constant` and others), so that a plan may
visit a node twice: each visit is a correct rewriting of the graph that the one before left. A
rule that cannot do its part raises :class:`Refused`, and the plan is dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from fastbn.export.fold.affine import Affine, Array, Refused, fits
from fastbn.export.fold.constants import Constants

# More rule calls than this in one plan mean a graph that fans out without end.
STEP_LIMIT = 4000

Dims = tuple[int | str | None, ...]


@dataclass(slots=True)
class Context:
    """What all plans of a model share."""

    model: ir.Model
    constants: Constants
    opset: int
    # Whether Max and Min may take longer than the BatchNorm they replace.
    allow_slower: bool = False
    # Original weights that must not be copied, because other nodes use them too.
    not_copied: set[ir.Value] = field(default_factory=set)
    # New constant -> the original weight it was made from.
    origins: dict[ir.Value, ir.Value] = field(default_factory=dict)
    # New constant -> type it is rounded to in the end.
    made: dict[ir.Value, np.dtype[Any]] = field(default_factory=dict)
    # Names of nodes and values, so that new ones differ.
    names: set[str] = field(default_factory=set)
    serial: int = 0

    def fresh_name(self, stem: str) -> str:
        """Make a name that no node and no value has."""
        name, count = stem, 1
        while name in self.names:
            count += 1
            name = f"{stem}_{count}"
        self.names.add(name)
        return name

    def dims(self, value: ir.Value | None) -> Dims | None:
        """Shape of a value: numbers, names or None for what is not known; None if no rank is."""
        if value is None:
            return None
        if value.shape is not None:
            return tuple(d if isinstance(d, int) else d.value for d in value.shape)
        array = self.constants.get(value)
        return None if array is None else tuple(array.shape)

    def need_dims(self, value: ir.Value | None) -> Dims:
        """Shape of a value of known rank."""
        dims = self.dims(value)
        if dims is None:
            name = None if value is None else value.name
            raise Refused(f"the rank of {name!r} is not known")
        return dims


@dataclass(frozen=True, slots=True)
class Bounds:
    """clip(x, low, high) per channel; infinite where open. Ranks are those of x."""

    low: Array
    high: Array


class Plan:
    """Changes to a graph, not yet made.

    Attributes
    ----------
    constants : dict
        (node, input index) -> new float64 value of that input.
    bounds : dict
        Node of the Relu family -> its new bounds.
    norms : dict
        BatchNormalization -> its new (scale, shift) vectors.
    operators, attributes : dict
        Node -> new operator, new attributes.
    allow_bounds : bool
        Whether a Relu may become Max or Min.
    idle : list of Node
        Identity and Dropout nodes on the way, which do nothing and can go.
    into : list of str
        Names of the nodes that take the affine in.
    """

    def __init__(self, context: Context, *, allow_bounds: bool = False) -> None:
        self.context = context
        self.allow_bounds = allow_bounds
        self.inputs: dict[tuple[ir.Node, int], Array] = {}
        self.bounds: dict[ir.Node, Bounds] = {}
        self.norms: dict[ir.Node, tuple[Array, Array]] = {}
        self.operators: dict[ir.Node, str] = {}
        self.attributes: dict[ir.Node, dict[str, Any]] = {}
        self.idle: list[ir.Node] = []
        self.into: list[str] = []
        self._steps = 0

    def step(self) -> None:
        """Count a rule call."""
        self._steps += 1
        if self._steps > STEP_LIMIT:
            raise Refused("too many nodes would have to change")

    def taken(self, node: ir.Node) -> None:
        """Note that a node takes in part of the affine."""
        label = node.name or (node.outputs[0].name or node.op_type)
        if label not in self.into:
            self.into.append(label)

    def constant(self, node: ir.Node, index: int) -> Array | None:
        """Floating-point constant at a node's input, as the plan has it so far."""
        if (node, index) in self.inputs:
            return self.inputs[node, index]
        if index >= len(node.inputs):
            return None
        return self.context.constants.floats(node.inputs[index])

    def has_input(self, node: ir.Node, index: int) -> bool:
        """Whether a node has this optional input, as the plan has it so far."""
        if (node, index) in self.inputs:
            return True
        return index < len(node.inputs) and node.inputs[index] is not None

    def set_constant(self, node: ir.Node, index: int, values: Array) -> None:
        """Give a node's input a new constant value.

        Raises
        ------
        Refused
            If the values overflow the input's type, or the weight is shared and must not be
            copied.
        """
        old = node.inputs[index] if index < len(node.inputs) else None
        label = node.name or node.op_type
        fits(values, self.dtype(node, index), f"a weight of {label!r}")
        if old is not None and old in self.context.not_copied and len(old.uses()) > 1:
            raise Refused(
                f"weight {old.name!r} is shared by {len(old.uses())} nodes (duplicate_shared "
                "copies it)"
            )
        self.inputs[node, index] = values

    def dtype(self, node: ir.Node, index: int) -> np.dtype[Any]:
        """Element type of a floating-point input, or of the node if the input is new."""
        sources = [node.inputs[index]] if index < len(node.inputs) else []
        for value in (*sources, *node.inputs, *node.outputs):
            if value is None:
                continue
            if value.dtype is not None and value.dtype.is_floating_point():
                return np.dtype(value.dtype.numpy())
            array = self.context.constants.get(value)
            if array is not None and (array.dtype.kind == "f" or array.dtype.name == "bfloat16"):
                return array.dtype
        return np.dtype(np.float32)

    def operator(self, node: ir.Node) -> str:
        """Operator of a node, as the plan has it so far."""
        return self.operators.get(node, node.op_type)

    def attribute(self, node: ir.Node, name: str, default: Any) -> Any:
        """Attribute of a node, as the plan has it so far."""
        changed = self.attributes.get(node, {})
        if name in changed:
            return changed[name]
        return attribute(node, name, default)

    def set_attribute(self, node: ir.Node, name: str, value: Any) -> None:
        """Change an attribute."""
        self.attributes.setdefault(node, {})[name] = value

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Undo what the block planned if it ends in a refusal."""
        kept = (
            dict(self.inputs),
            dict(self.bounds),
            dict(self.norms),
            dict(self.operators),
            {node: dict(changes) for node, changes in self.attributes.items()},
            list(self.idle),
            list(self.into),
        )
        try:
            yield
        except Refused:
            (
                self.inputs,
                self.bounds,
                self.norms,
                self.operators,
                self.attributes,
                self.idle,
                self.into,
            ) = kept
            raise

    def first_of(self, *alternatives: Callable[[], None]) -> None:
        """Take the first alternative that is not refused; else refuse with the first reason."""
        reasons = []
        for alternative in alternatives:
            try:
                with self.attempt():
                    alternative()
                return
            except Refused as refusal:
                reasons.append(refusal)
        raise reasons[0]


def attribute(node: ir.Node, name: str, default: Any) -> Any:
    """Value of an attribute, strings decoded, sequences as lists."""
    found = node.attributes.get(name)
    if found is None or found.is_ref():
        return default
    value = found.value
    if isinstance(value, bytes):
        return value.decode()
    return list(value) if isinstance(value, tuple | list) else value


def aligned(plan: Plan, affine: Affine, node: ir.Node, index: int) -> Affine:
    """Affine of an elementwise node's output, as it has to be at one of its inputs.

    The input may have a smaller rank, or length 1 where the output does not; then the affine
    must not vary there.
    """
    dims = plan.context.need_dims(node.inputs[index])
    lead = affine.rank - len(dims)
    if lead < 0 or any(n > 1 for n in affine.shape[:lead]):
        raise Refused(f"{label(node)} broadcasts its input")
    for size, dim in zip(affine.shape[lead:], dims, strict=True):
        if size > 1 and dim != size:
            raise Refused(f"{label(node)} broadcasts its input")
    keep = (0,) * lead
    return Affine(affine.scale[keep], affine.shift[keep])


def widened(affine: Affine, rank: int) -> Affine:
    """Affine of an elementwise node's input, as it arrives at its output of higher rank."""
    lead = (1,) * (rank - affine.rank)
    return Affine(
        affine.scale.reshape(lead + affine.scale.shape),
        affine.shift.reshape(lead + affine.shift.shape),
    )


def label(node: ir.Node) -> str:
    """Operator and name of a node, for reports."""
    name = node.name or (node.outputs[0].name if node.outputs else "")
    return f"{node.op_type} {name!r}"


# A rule for the way back: (plan, node, affine of its output, index of the output).
BackwardRule = Callable[[Plan, ir.Node, Affine, int], None]
# A rule for the way forth: (plan, node, indices of its inputs, affine those inputs lack).
ForwardRule = Callable[[Plan, ir.Node, Sequence[int], Affine], None]

BACKWARD: dict[str, BackwardRule] = {}
FORWARD: dict[str, ForwardRule] = {}


def backward_rule(*operators: str) -> Callable[[BackwardRule], BackwardRule]:
    """Register how an affine behind these operators moves in front of or into them."""

    def register(rule: BackwardRule) -> BackwardRule:
        BACKWARD.update(dict.fromkeys(operators, rule))
        return rule

    return register


def forward_rule(*operators: str) -> Callable[[ForwardRule], ForwardRule]:
    """Register how an affine in front of these operators moves behind or into them."""

    def register(rule: ForwardRule) -> ForwardRule:
        FORWARD.update(dict.fromkeys(operators, rule))
        return rule

    return register


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
    if len(value.uses()) != 1:
        raise Refused(f"{value.name!r} has {len(value.uses())} consumers")
    rule = BACKWARD.get(plan.operator(producer))
    if rule is None or producer.domain not in ("", "ai.onnx"):
        raise Refused(f"{label(producer)} does not take an affine in")
    with plan.attempt():
        rule(plan, producer, affine, value.index() or 0)


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
    consumers: dict[ir.Node, list[int]] = {}
    for use in value.uses():
        consumers.setdefault(use.node, []).append(use.idx)
    home = value.graph
    for node, indices in consumers.items():
        if node.graph is not home:
            raise Refused(f"{value.name!r} is used inside a subgraph")
        rule = FORWARD.get(plan.operator(node))
        if rule is None or node.domain not in ("", "ai.onnx"):
            raise Refused(f"{label(node)} does not take an affine in")
        with plan.attempt():
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
