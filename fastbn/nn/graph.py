"""Graph: any acyclic network of layers, with several inputs and outputs.

It is drawn by calling layers on symbolic values, and planned once: chains between forks run as the
steps that a Sequential would run (see `fusion`), a sum takes the BatchNorm in front of it and the
activation behind it along, and gradients that meet at a fork are added in one sweep. A value goes
with its last use, so that its memory serves others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from numpy.typing import NDArray

from fastbn import functional as F
from fastbn.nn.activation import LeakyReLU, ReLU
from fastbn.nn.calls import as_called
from fastbn.nn.fusion import Normalised, Plan, Single, Step, Sum, kind_of, steps_of
from fastbn.nn.joins import Add
from fastbn.nn.module import Module, Shape, Traced
from fastbn.nn.onnx import Builder, Flow
from fastbn.nn.order import Order, Orders
from fastbn.nn.run import here
from fastbn.nn.symbol import Symbol

Array = NDArray[Any]
Node = tuple[Module, tuple[int, ...]]  # a layer, and the numbers of the values it takes


class Graph(Module):
    """A network of layers that were called on symbolic values.

    Values are numbered: first the inputs, then what the layers make, in the order they run.

    Parameters
    ----------
    inputs, outputs : Symbol or sequence of Symbol
        Where the network begins and ends. Of several outputs, a call returns a tuple, and
        `backward` takes one.

    Attributes
    ----------
    nodes : list of (Module, tuple of int)
        The layers, with the numbers of their inputs.

    Raises
    ------
    ValueError
        If an output does not depend on the inputs alone, an input is not used, or a layer object
        stands in two places.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn import nn
    >>> x = nn.Input((8, 8, 3))
    >>> h = nn.ReLU()(nn.BatchNorm(3)(nn.Conv2d(3, 3, 3, padding=1, bias=False, rng=0)(x)))
    >>> y = nn.Linear(3, 2, rng=1)(nn.GlobalAvgPool2d()(nn.add(h, x)))
    >>> net = nn.Graph(x, y).name(y, "head")
    >>> net(np.ones((4, 8, 8, 3), dtype=np.float32)).shape
    (4, 2)
    >>> sorted(net.state_dict())[-2:]
    ['head.bias', 'head.weight']
    """

    is_container = True
    transient = (*Module.transient, "_ops")

    def __init__(
        self, inputs: Symbol | Sequence[Symbol], outputs: Symbol | Sequence[Symbol]
    ) -> None:
        super().__init__()
        sources, ends = _listed(inputs, "inputs"), _listed(outputs, "outputs")
        order = _ordered(sources, ends)
        number = {id(value): index for index, value in enumerate([*sources, *order])}
        self.nodes: list[Node] = [
            (value.layer, tuple(number[id(x)] for x in value.inputs))
            for value in order
            if value.layer is not None
        ]
        self.outputs = [number[id(value)] for value in ends]
        self.several_outputs = not isinstance(outputs, Symbol)
        shapes = tuple(value.shape for value in sources)
        self.input_count = len(shapes)
        self.input_shape = shapes[0] if len(shapes) == 1 else shapes
        self._given: dict[Module, str] = {}
        self._ops: list[Op] | None = None
        seen: set[Module] = set()
        for name, layer in self.named_children():
            if layer in seen:
                raise ValueError(
                    f"Graph: {type(layer).__name__} object is used twice; one layer object stands "
                    "in one place"
                )
            seen.add(layer)
            self.adopt(name, layer)

    def __setstate__(self, kept: dict[str, Any]) -> None:
        self._ops = None
        super().__setstate__(kept)

    # --- names ------------------------------------------------------------------------------

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """Yield the layers: by the names given, those of attributes, or their numbers."""
        names = {value: name for name, value in vars(self).items() if isinstance(value, Module)}
        names |= self._given
        for number, (layer, _) in enumerate(self.nodes):
            yield names.get(layer, str(number)), layer

    def name(self, value: Symbol | Module, name: str) -> Graph:
        """Name a layer, or the one that makes a symbolic value; dots may be in it.

        Returns
        -------
        Graph
            This object.

        Raises
        ------
        ValueError
            If the layer is not a part of this graph, or another one has the name.
        """
        layer = value.layer if isinstance(value, Symbol) else value
        taken = dict(self.named_children())
        if layer is None or layer not in taken.values():
            raise ValueError(f"{self.where}: {value!r} is not made by a layer of this graph")
        if not name or taken.get(name, layer) is not layer:
            raise ValueError(f"{self.where}: the name {name!r} is empty or taken")
        self._given[layer] = name
        layer._name = name
        self.invalidate_upwards()
        return self

    # --- forward and backward ---------------------------------------------------------------

    def _planned(self) -> list[Op]:
        ops = planned(self)
        consumed = {slot for op in ops for slot in op.inputs}
        makers = {op.output: op for op in ops}
        self.saves_output = any(
            slot in consumed or slot not in makers or makers[slot].saves_output
            for slot in self.outputs
        )
        self._ops = ops
        return ops

    def forward(self, *inputs: Array) -> tuple[Any, Any]:
        """Return the outputs."""
        ops = self._ops or self._planned()
        saving = here.run.saving is not False
        values: list[Any] = [*inputs, *(None for _ in self.nodes)]
        kept: list[Any] = []
        for op in ops:
            y, saved = op.forward(*[values[slot] for slot in op.inputs])
            for slot in op.last_uses:
                values[slot] = None
            values[op.output] = y
            if saving:
                kept.append(saved)
            del y, saved
        if not self.several_outputs:
            return values[self.outputs[0]], kept
        return tuple([values[slot] for slot in self.outputs]), kept

    @as_called
    def backward(self, dy: Any, saved: Any, need_dx: Any = True) -> Any:
        """Write all gradients; return dx if asked, or if this is a part of another module."""
        ops = self._ops or self._planned()
        needs = need_dx if type(need_dx) is tuple else (need_dx,) * self.input_count
        needed = [*needs, *(False for _ in self.nodes)]
        for op in ops:
            needed[op.output] = op.is_trained() or any(needed[slot] for slot in op.inputs)
        gradients: list[list[Array]] = [[] for _ in needed]
        for slot, part in zip(self.outputs, dy if self.several_outputs else (dy,), strict=True):
            gradients[slot].append(part)
        del dy
        for op in reversed(ops):
            of_op = saved.pop()
            if needed[op.output]:
                wanted = tuple([needed[slot] for slot in op.inputs])
                total = self._total(gradients[op.output])
                for slot, dx in zip(op.inputs, op.backward(total, of_op, wanted), strict=True):
                    if needed[slot]:
                        gradients[slot].append(dx)
                del total
        found = [self._total(gradients[slot]) if need else None for slot, need in enumerate(needs)]
        return found[0] if self.input_count == 1 else tuple(found)

    def _total(self, parts: list[Array]) -> Array:
        """Return the sum of the gradients that meet at a value; the list is emptied."""
        if len(parts) == 1:
            return parts.pop()
        total = F.add(*parts, out=self._pool.take(parts[0].shape, parts[0].dtype))
        parts.clear()
        return total

    def invalidate(self) -> None:
        """Plan anew at the next call."""
        super().invalidate()
        self._ops = None

    # --- shapes, order of features, export --------------------------------------------------

    def _walk(self, values: list[Any], visit: Callable[..., Any]) -> list[Any]:
        """Return the outputs, where ``visit(layer, *inputs)`` stands for every layer."""
        if len(values) != self.input_count:
            raise ValueError(f"{self.where}: expected {self.input_count} inputs, got {len(values)}")
        for layer, inputs in self.nodes:
            values.append(visit(layer, *(values[slot] for slot in inputs)))
        return [values[slot] for slot in self.outputs]

    def output_shape(self, *input_shapes: Shape) -> Any:
        """Return the shape of one sample's output, a tuple of them where there are several."""
        shapes = self._walk([*input_shapes], lambda layer, *xs: layer.output_shape(*xs))
        return tuple(shapes) if self.several_outputs else shapes[0]

    def trace(self, *input_shapes: Shape) -> Iterator[Traced]:
        """Yield every layer with the shapes it sees."""
        steps: list[Traced] = []

        def visit(layer: Module, *shapes: Shape) -> Shape:
            steps.extend(layer.trace(*shapes))
            shape: Shape = layer.output_shape(*shapes)
            return shape

        self._walk([*input_shapes], visit)
        yield from steps

    def follow_order(self, found: Orders, *orders: Order) -> Order:
        """Go through all layers."""
        end: Order
        end, *_ = self._walk([*orders], lambda layer, *xs: layer.follow_order(found, *xs))
        return end

    def onnx(self, build: Builder, *flows: Flow) -> Any:
        """Add all layers."""
        ends = self._walk([*flows], build.layer)
        return tuple(ends) if self.several_outputs else ends[0]

    def fused(self) -> dict[Module, str]:
        """Return which layers run inside another one's operation."""
        found: dict[Module, str] = {}
        for op in self._ops or self._planned():
            found |= op.fused()
        return found

    def to_dot(self) -> str:
        r"""Return a drawing of the graph in Graphviz's language.

        Examples
        --------
        >>> from fastbn import nn
        >>> x = nn.Input((3,))
        >>> print(nn.Graph(x, nn.add(nn.ReLU()(x), x)).to_dot())
        digraph {
          rankdir=TB; node [shape=box, fontname="sans-serif"];
          v0 [label="Input\n(3,)"];
          v1 [label="0: ReLU()\n(3,)"];
          v2 [label="1: Add()\n(3,)"];
          v0 -> v1;
          v1 -> v2;
          v0 -> v2;
          v2 -> o0;
          o0 [label="Output", shape=plaintext];
        }
        """
        shapes: list[Any] = [self.input_shape] if self.input_count == 1 else [*self.input_shape]
        lines = [f'v{slot} [label="Input\\n{shape}"];' for slot, shape in enumerate(shapes)]
        edges = []
        for (name, layer), (_, inputs) in zip(self.named_children(), self.nodes, strict=True):
            slot = len(shapes)
            shapes.append(layer.output_shape(*(shapes[x] for x in inputs)))
            inside = "..." if next(layer.named_children(), None) else layer.extra_repr()
            label = f"{name}: {type(layer).__name__}({inside})".replace('"', "'")
            lines.append(f'v{slot} [label="{label}\\n{shapes[slot]}"];')
            edges += [f"v{x} -> v{slot};" for x in inputs]
        for index, slot in enumerate(self.outputs):
            edges.append(f"v{slot} -> o{index};")
            edges.append(f'o{index} [label="Output", shape=plaintext];')
        head = 'rankdir=TB; node [shape=box, fontname="sans-serif"];'
        return "\n".join(["digraph {", *(f"  {line}" for line in [head, *lines, *edges]), "}"])


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


def _listed(values: Symbol | Sequence[Symbol], what: str) -> list[Symbol]:
    found = [values] if isinstance(values, Symbol) else list(values)
    if not found or not all(isinstance(value, Symbol) for value in found):
        raise TypeError(f"Graph: {what} should be one symbolic value or several, got {values!r}")
    if what == "inputs" and any(value.layer is not None for value in found):
        raise ValueError("Graph: inputs should be what nn.Input returns")
    return found


def _ordered(sources: list[Symbol], ends: list[Symbol]) -> list[Symbol]:
    """Return what layers make, each behind what it is made of."""
    known = {id(value) for value in sources}
    if len(known) < len(sources):
        raise ValueError("Graph: an input is given twice")
    order: list[Symbol] = []
    used: set[int] = set()
    stack = [(value, False) for value in reversed(ends)]
    while stack:
        value, ready = stack.pop()
        if ready:
            order.append(value)
        elif value.layer is None:
            used.add(id(value))
            if id(value) not in known:
                raise ValueError(f"Graph: an output depends on {value!r}, which is no input given")
        elif id(value) not in known:
            known.add(id(value))
            stack.append((value, True))
            stack.extend((x, False) for x in reversed(value.inputs))
    if any(id(value) not in used for value in sources):
        raise ValueError("Graph: no output depends on one of the inputs")
    return order


def planned(graph: Graph) -> list[Op]:
    """Return what is run, in order, for a graph."""
    nodes, first = graph.nodes, graph.input_count
    uses = [0] * (first + len(nodes))
    for _, inputs in nodes:
        for slot in inputs:
            uses[slot] += 1
    for slot in graph.outputs:
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
    seen = set(graph.outputs)
    for op in reversed(ops):
        op.last_uses = tuple(set(op.inputs) - seen)
        seen |= set(op.inputs)
    return ops


class Chain:
    """Layers one behind another; the first of them may join several values."""

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
                activation: ReLU | LeakyReLU | None = None
                if rest and type(rest[0]) in (ReLU, LeakyReLU):
                    activation = rest.pop(0)  # type: ignore[assignment]
                self.head = self._fused_sum(join, activation, chain_of, uses)
            self.head_slot = self.slots[len(self.layers) - len(rest) - 1]
        self.steps = steps_of(rest)

    def _fused_sum(
        self,
        join: Add,
        activation: ReLU | LeakyReLU | None,
        chain_of: dict[int, Chain],
        uses: list[int],
    ) -> Normalised | Sum:
        kind, slope = kind_of(activation)
        inside: list[Module] = [] if activation is None else [activation]
        for place, slot in enumerate(self.inputs):
            before = chain_of.get(slot)
            if before is None or not before.steps or uses[slot] > 1:
                continue
            last = before.steps[-1]
            if isinstance(last, Normalised) and last.kind is None:
                before.steps.pop()
                before.lost = True
                last.kind, last.slope, last.inside = kind, slope, [join, *inside]
                self.inputs = (before.end(), self.inputs[1 - place])
                return last
        return Sum(join, kind, slope, inside)

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
