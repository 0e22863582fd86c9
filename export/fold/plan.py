"""A plan: what would change if an affine were moved; nothing is touched until it is committed.

Rules read the graph *through* the plan (:meth:`Plan.constant` and others), so that a plan may
visit a node twice: each visit is a correct rewriting of the graph that the one before left. A
rule that cannot do its part raises :class:`Refused`, and the plan is dropped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from fastbn.export.fold.affine import Affine, Array, Refused, fits
from fastbn.export.fold.context import Context

# More rule calls than this in one plan mean a graph that fans out without end.
STEP_LIMIT = 4000
# When plans have looked at so many nodes, none may look at more than a few: that keeps folding in
# proportion to the number of nodes, whatever the graph is.
PATIENCE, FEW = 200_000, 16


@dataclass(frozen=True, slots=True)
class Bounds:
    """clip(x, low, high) per channel; infinite where open. Ranks are those of x."""

    low: Array
    high: Array


_ABSENT: Any = object()
_Trail = list[tuple["_Logged", Any, Any]]


class _Logged(dict[Any, Any]):
    """A dict that notes in a trail what it held before, so that a plan can go back."""

    def __init__(self, trail: _Trail) -> None:
        self._trail = trail

    def __setitem__(self, key: Any, value: Any) -> None:
        self._trail.append((self, key, self.get(key, _ABSENT)))
        super().__setitem__(key, value)


class Plan:
    """Changes to a graph, not yet made.

    Attributes
    ----------
    constants : dict
        (node, input index) -> new float64 value of that input.
    integers : dict
        (node, input index) -> new integers of that input, in their own type.
    bounds : dict
        Node of the Relu family -> its new bounds.
    maps : dict
        Convolution -> map (1, O, *size) to add to its result.
    norms : dict
        BatchNormalization -> its new (scale, shift) vectors.
    operators : dict
        Node -> new operator.
    attributes : dict
        (node, name) -> new value of that attribute.
    allow_bounds : bool
        Whether a Relu may become Max or Min.
    allow_changes : bool
        Whether a value with several consumers may carry an affine that all but one undo.
    allow_maps : bool
        Whether a map that no consumer takes in may be added after a convolution.
    open : set of Node and Value
        What a rewriting that has not ended yet is about; see :meth:`rewriting`.
    idle : dict of Node
        Identity and Dropout nodes on the way, which do nothing and can go.
    into : dict of str
        Names of the nodes that take the affine in.
    """

    def __init__(
        self,
        context: Context,
        *,
        allow_bounds: bool = False,
        allow_changes: bool = False,
        allow_maps: bool = False,
    ) -> None:
        self.context = context
        self.allow_bounds = allow_bounds
        self.allow_changes = allow_changes
        self.allow_maps = allow_maps
        trail: _Trail = []
        self.inputs: dict[tuple[ir.Node, int], Array] = _Logged(trail)
        self.integers: dict[tuple[ir.Node, int], NDArray[Any]] = _Logged(trail)
        self.bounds: dict[ir.Node, Bounds] = _Logged(trail)
        self.maps: dict[ir.Node, Array] = _Logged(trail)
        self.norms: dict[ir.Node, tuple[Array, Array]] = _Logged(trail)
        self.operators: dict[ir.Node, str] = _Logged(trail)
        self.attributes: dict[tuple[ir.Node, str], Any] = _Logged(trail)
        self.idle: dict[ir.Node, None] = _Logged(trail)
        self.into: dict[str, None] = _Logged(trail)
        self.open: set[ir.Node | ir.Value] = set()
        self._trail = trail
        self._steps = 0
        self._most = math.inf if context.looked_at < PATIENCE else FEW
        self._looked_at = 0

    def step(self) -> None:
        """Count a rule call."""
        self._steps += 1
        self.look_at(1)
        if self._steps > STEP_LIMIT:
            raise Refused("too many nodes would have to change")

    def look_at(self, nodes: int) -> None:
        """Count nodes that a rule is going to look at."""
        self._looked_at += nodes
        self.context.looked_at += nodes
        if self._looked_at > self._most:
            raise Refused("too many nodes would have to change")

    @contextmanager
    def rewriting(self, *members: ir.Node | ir.Value | None) -> Iterator[None]:
        """Keep other rewritings away from nodes and values until the block is done with them.

        While an affine is on its way to a value, the readers of that value already expect it. The
        graph is no function until it arrives: an affine that came by meanwhile, from a rewriting
        that this one began (a change of variable asks other readers to undo it, and they hand
        something on), would have to be seen through the one on its way.

        Raises
        ------
        Refused
            If one of them is being rewritten already.
        """
        fresh = [member for member in members if member is not None]
        for member in fresh:
            if member in self.open:
                name = label(member) if isinstance(member, ir.Node) else repr(member.name)
                raise Refused(f"{name} would have to change while it is being changed")
        self.open.update(fresh)
        try:
            yield
        finally:
            self.open.difference_update(fresh)

    def taken(self, node: ir.Node) -> None:
        """Note that a node takes in part of the affine."""
        self.into[node.name or (node.outputs[0].name or node.op_type)] = None

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
        if (node, name) in self.attributes:
            return self.attributes[node, name]
        return attribute(node, name, default)

    def set_attribute(self, node: ir.Node, name: str, value: Any) -> None:
        """Change an attribute."""
        self.attributes[node, name] = value

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Undo what the block planned if it ends in a refusal."""
        start = len(self._trail)
        try:
            yield
        except Refused:
            while len(self._trail) > start:
                changed, key, old = self._trail.pop()
                if old is _ABSENT:
                    dict.__delitem__(changed, key)
                else:
                    dict.__setitem__(changed, key, old)
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
