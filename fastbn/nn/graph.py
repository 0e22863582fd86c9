"""Graph: any acyclic network of layers, with several inputs and outputs.

It is drawn by calling layers on symbolic values, and planned once: chains between forks run as the
steps that a Sequential would run (see `fusion`), a sum takes the BatchNorm in front of it and the
activation after it along, and gradients that meet at a fork are added in one sweep. A value goes
with its last use, so that its memory serves others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from fastbn import functional as F
from fastbn.nn.calls import as_called
from fastbn.nn.chains import Node, Op, planned
from fastbn.nn.module import Module, Shape, Traced
from fastbn.nn.onnx import Builder, Flow
from fastbn.nn.order import Order, Orders
from fastbn.nn.run import here
from fastbn.nn.symbol import Symbol, listed, ordered

Array = NDArray[Any]


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
        sources, ends = listed(inputs, "inputs"), listed(outputs, "outputs")
        order = ordered(sources, ends)
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
        if layer is None:
            raise ValueError(f"{self.where}: {value!r} is not made by a layer of this graph")
        return self.rename({layer: name})

    def rename(self, names: Mapping[Module, str]) -> Graph:
        """Name many layers at once.

        Returns
        -------
        Graph
            This object.

        Raises
        ------
        ValueError
            As `name`; no name was changed then.
        """
        now = {layer: name for name, layer in self.named_children()}
        strangers = [layer for layer in names if layer not in now]
        if strangers:
            raise ValueError(f"{self.where}: {strangers[0]!r} is not made by a layer of this graph")
        counts = Counter((now | dict(names)).values())
        for name in names.values():
            if not name or counts[name] > 1:
                raise ValueError(f"{self.where}: the name {name!r} is empty or taken")
        for layer, name in names.items():
            self._given[layer] = name
            layer._name = name
        self.invalidate_upwards()
        return self

    def insert_behind(self, layers: Mapping[Module, Module]) -> Graph:
        """Put layers after others: what read their outputs reads the new ones'.

        Names stay; a layer after ``c`` is called by its class's initials, as in ``c_bn``.

        Parameters
        ----------
        layers : mapping of Module to Module
            By a layer of this graph what is put after it.

        Returns
        -------
        Graph
            This object.
        """
        names = {layer: name for name, layer in self.named_children()}
        self.rename({layer: name for layer, name in names.items() if layer not in self._given})
        place = {slot: slot for slot in range(self.input_count)}
        nodes: list[Node] = []
        for index, (layer, inputs) in enumerate(self.nodes):
            nodes.append((layer, tuple(place[slot] for slot in inputs)))
            own = self.input_count + len(nodes) - 1
            if layer in layers:
                nodes.append((layers[layer], (own,)))
                own += 1
            place[self.input_count + index] = own
        for layer, behind in layers.items():
            kind = "".join(letter for letter in type(behind).__name__ if letter.isupper()).lower()
            name = f"{names[layer]}_{kind}"
            while name in names.values():
                name += "_"
            self.adopt(name, behind)
            names[behind] = self._given[behind] = name
        self.nodes = nodes
        self.outputs = [place[slot] for slot in self.outputs]
        self.invalidate_upwards()
        return self

    # --- forward and backward ---------------------------------------------------------------

    def _planned(self) -> list[Op]:
        ops = planned(self.nodes, self.input_count, self.outputs)
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
