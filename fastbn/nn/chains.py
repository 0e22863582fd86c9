"""What a graph runs: its chains between forks as plans, its joins with what is fused to them.

A chain continues as long as a value has one use and the next layer takes nothing else. A sum takes
along the last step of a chain in front, if that is a BatchNorm without an activation, and with it
the activation after it; without a BatchNorm a ReLU or LeakyReLU after it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from fastbn.nn.activation import LeakyReLU, ReLU
from fastbn.nn.fusion import (
    Normalised,
    Plan,
    Single,
    Step,
    Sum,
    is_activation,
    kind_of,
    steps_of,
)
from fastbn.nn.joins import Add
from fastbn.nn.module import Module

Array = NDArray[Any]
Node = tuple[Module, tuple[int, ...]]  # a layer, and the numbers of the values it takes


class Op:
    """What runs as one between values: a chain, a sum with what is fused to it, another join."""

    def __init__(
        self, step: Plan | Single | Normalised | Sum, inputs: tuple[int, ...], output: int
    ):
        self.step = step
        self.inputs = inputs
        self.output = output
        self.last_uses: tuple[int, ...] = ()
        self.saves_output = step.saves_output
        self.forward: Callable[..., tuple[Any, Any]] = step.forward

    def is_trained(self) -> bool:
        """Whether there is something to train."""
        if isinstance(self.step, Plan):
            return self.step.is_trained
        return any(parameter.requires_grad for parameter in self.step.parameters)

    def backward(self, dy: Array, saved: Any, needs: tuple[bool, ...]) -> tuple[Any, ...]:
        """Return dx for every input."""
        step = self.step
        if isinstance(step, Plan):
            return (step.backward(dy, saved, needs[0]),)
        if isinstance(step, Single):
            dxs: tuple[Any, ...] = step.backward(dy, saved, needs)
            return dxs
        return step.backward_sum(dy, saved, *needs)

    def fused(self) -> dict[Module, str]:
        """Return which layers run inside another one's operation."""
        return self.step.fused()


class Chain:
    """Layers one after another; the first of them may join several values."""

    def __init__(self, inputs: tuple[int, ...]) -> None:
        self.inputs = inputs
        self.layers: list[Module] = []
        self.slots: list[int] = []  # the numbers of what they make
        self.head: Single | Normalised | Sum | None = None  # what joins,
        self.head_slot = -1  # and the number of what it makes
        self.steps: list[Step] = []
        self.lost = False  # its last step has gone into a sum

    def plan(self, chain_of: dict[int, Chain], uses: list[int]) -> None:
        """Find the steps; chains that are planned already may lose one to a sum."""
        rest = [*self.layers]
        if len(self.inputs) > 1:
            join = rest.pop(0)
            self.head = Single(join)
            if type(join) is Add and len(self.inputs) == 2:
                self.head = self._fused_sum(join, rest, chain_of, uses)
            self.head_slot = self.slots[len(self.layers) - len(rest) - 1]
        self.steps = steps_of(rest)

    def _fused_sum(
        self,
        join: Add,
        rest: list[Module],
        chain_of: dict[int, Chain],
        uses: list[int],
    ) -> Normalised | Sum:
        """Return the step of the sum; an activation that goes with it is taken out of `rest`."""
        for place, slot in enumerate(self.inputs):
            before = chain_of.get(slot)
            if before is None or not before.steps or uses[slot] > 1:
                continue
            last = before.steps[-1]
            if isinstance(last, Normalised) and last.kind is None:
                before.steps.pop()
                before.lost = True
                activation = rest.pop(0) if rest and is_activation(rest[0]) else None
                last.kind, last.slope = kind_of(activation)
                last.inside = [join] if activation is None else [join, activation]
                self.inputs = (before.end(), self.inputs[1 - place])
                return last
        activation = rest.pop(0) if rest and type(rest[0]) in (ReLU, LeakyReLU) else None
        return Sum(join, *kind_of(activation), [] if activation is None else [activation])

    def end(self) -> int:
        """Return the number of the value that the chain ends in."""
        if self.steps or not self.lost:
            return self.slots[-1]
        return self.inputs[0] if self.head is None else self.head_slot

    def ops(self) -> list[Op]:
        """Return what is run."""
        ops: list[Op] = []
        at = self.inputs
        if self.head is not None:
            ops.append(Op(self.head, at, self.head_slot))
            at = (self.head_slot,)
        if at != (self.end(),):
            ops.append(Op(Plan(self.steps), at, self.end()))
        return ops


def planned(nodes: list[Node], first: int, outputs: list[int]) -> list[Op]:
    """Return what is run, in order, for nodes whose values are numbered from `first`."""
    uses = [0] * (first + len(nodes))
    for _, inputs in nodes:
        for slot in inputs:
            uses[slot] += 1
    for slot in outputs:
        uses[slot] += 2  # nothing may be fused over it
    chain_of: dict[int, Chain] = {}  # by the value it ends in, so far
    chains: list[Chain] = []
    for index, (layer, inputs) in enumerate(nodes):
        slot = first + index
        chain = chain_of.pop(inputs[0], None) if len(inputs) == 1 and uses[inputs[0]] == 1 else None
        if chain is None:
            chain = Chain(inputs)
            chains.append(chain)
        chain.layers.append(layer)
        chain.slots.append(slot)
        chain_of[slot] = chain

    for chain in chains:
        chain.plan(chain_of, uses)
    ops: list[Op] = []
    for chain in chains:
        ops += chain.ops()
    seen = set(outputs)
    for op in reversed(ops):
        op.last_uses = tuple(set(op.inputs) - seen)
        seen |= set(op.inputs)
    return ops
