"""Walk through a file, node by node, and draw the graph that computes the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from fastbn import nn
from fastbn.export.errors import ModelError, one_line
from fastbn.export.fold.constants import Constants
from fastbn.export.read.node import FLOATS, READERS, Node
from fastbn.export.read.value import UnreadableError, Value, permuted

Array = NDArray[Any]

SHOWN = 20  # of what cannot be read


class NotReadError(ModelError):
    """What cannot be read of a file; `hopeless` if other sizes would not change it."""

    hopeless = False


def inputs_of(model: ir.Model) -> list[ir.Value]:
    """Return the inputs that have no default value."""
    return [value for value in model.graph.inputs if not value.is_initializer()]


def sizes_of(value: ir.Value) -> list[int | None]:
    """Sizes as the file gives them, None where they are open."""
    if value.shape is None:
        raise NotReadError(f"input {value.name!r} has no shape")
    if 0 in value.shape.dims:
        raise NotReadError(f"input {value.name!r} of shape {value.shape} is empty")
    return [n if isinstance(n, int) and n > 0 else None for n in value.shape.dims]


class Reader:
    """One walk through a file.

    Parameters
    ----------
    model : onnx_ir.Model
    shapes : list of tuple of int, optional
        Of samples, as the network takes them.
    size, batch : int
        What the file leaves open.
    """

    def __init__(
        self, model: ir.Model, shapes: list[tuple[int, ...]] | None, size: int, batch: int
    ) -> None:
        self.model = model
        self.shapes = shapes
        self.size = size
        self.batch = batch
        self.opset = model.opset_imports.get("", 0)
        self.constants = Constants(model)
        for value in model.graph.initializers.values():
            if value.is_graph_input() and value.const_value is not None:  # a default
                self.constants.put(value, np.asarray(value.const_value.numpy()))
        self.values: dict[ir.Value, Value | None] = {}  # None: it could not be read
        self.problems: list[str] = []
        self.hopeless = False
        self.names: dict[nn.Module, tuple[str | None, ...]] = {}

    def graph(self) -> nn.Graph:
        """Return the network.

        Raises
        ------
        NotReadError
            With a list of what cannot be read.
        """
        inputs = inputs_of(self.model)
        if self.shapes is not None and len(self.shapes) != len(inputs):
            raise ModelError(
                f"input_shape is of {len(self.shapes)} inputs, the file has {len(inputs)}"
            )
        sources = [self._source(k, value) for k, value in enumerate(inputs)]
        wanted = self._wanted()
        for node in self.model.graph:
            if node in wanted:
                self._read(node)
        ends = [self._end(value) for value in self.model.graph.outputs]
        if self.problems:
            error = NotReadError(self._told())
            error.hopeless = self.hopeless
            raise error
        used = _reached(ends)
        kept = [source for source in sources if source in used]
        outputs = [end for end in ends if end is not None]
        try:
            net = nn.Graph(
                kept[0] if len(kept) == 1 else kept, outputs[0] if len(outputs) == 1 else outputs
            )
        except ValueError as error:
            raise NotReadError(one_line(error)) from error
        self._name(net)
        return net

    # --- ends -----------------------------------------------------------------------------------

    def _source(self, number: int, value: ir.Value) -> nn.Symbol:
        """Make an input, channels-last, unless the file begins by transposing it so."""
        dims = sizes_of(value)
        rank = len(dims)
        if rank < 2 or value.dtype is None or value.dtype.value not in FLOATS:
            raise NotReadError(
                f"input {value.name!r} of type {value.dtype} and shape {value.shape} is no batch "
                "of floating point numbers"
            )
        perm = [0, rank - 1, *range(1, rank - 1)]
        as_is = rank == 2 or (
            bool(value.uses()) and all(_transposes(use.node, perm) for use in value.uses())
        )
        outer = dims[1:] if as_is else [*dims[2:], dims[1]]
        given = None if self.shapes is None else self.shapes[number]
        if given is not None and (
            len(given) != len(outer)
            or any(n not in (None, m) for n, m in zip(outer, given, strict=True))
        ):
            shown = tuple("?" if n is None else n for n in outer)
            raise ModelError(f"input {value.name!r} takes samples of shape {shown}, not {given}")
        symbol = nn.Input(given or tuple(self.size if n is None else n for n in outer))
        found = Value.natural(symbol, self.batch)
        self.values[value] = (
            found
            if as_is
            else Value(symbol, ((0,), (rank - 1,), *((k,) for k in range(1, rank - 1))), self.batch)
        )
        return symbol

    def _end(self, output: ir.Value) -> nn.Symbol | None:
        """Bring an output into the order of the library."""
        found = self.values.get(output)
        if found is None:
            if output not in self.values:
                self.problems.append(f"output {output.name!r} is a constant")
            return None
        producer = output.producer()
        perm = [0, *range(2, found.rank), 1]
        as_is = producer is not None and found.rank > 2 and _transposes(producer, perm)
        try:
            if found.rank < 2:
                raise UnreadableError(f"it has {found.rank} axes")
            order = [*range(1, found.rank)] if as_is else [*range(2, found.rank), 1]
            symbol = found.arranged(order)
        except UnreadableError as error:
            self.problems.append(f"output {output.name!r}: {one_line(error)}")
            return None
        if symbol.layer is None:  # the input itself
            symbol = permuted(nn.Scale(1.0)(symbol), tuple(range(len(symbol.shape) + 1)))
        return symbol

    # --- nodes ----------------------------------------------------------------------------------

    def _wanted(self) -> set[ir.Node]:
        """Nodes that outputs depend on."""
        found: set[ir.Node] = set()
        pending = [value.producer() for value in self.model.graph.outputs]
        while pending:
            node = pending.pop()
            if node is None or node in found:
                continue
            found.add(node)
            pending += [value.producer() for value in node.inputs if value is not None]
        return found

    def _read(self, node: ir.Node) -> None:
        """Read one node; what cannot be read is noted, and so is that nothing after it can be."""
        computed = [value for value in node.inputs if value in self.values]
        if not computed and self._is_constant(node):
            return
        reader = None if node.domain else READERS.get(node.op_type)
        outputs = [value for value in node.outputs if value.name]
        self.values |= dict.fromkeys(outputs)
        if node.op_type in ("Shape", "Size") and len(computed) == 1 and not node.domain:
            self._shape(node, computed[0])
            return
        if reader is None:
            self.hopeless = True
            name = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
            self._note(node, f"no layer does what {name} does")
            return
        if any(self.values[value] is None for value in computed if value is not None):
            return  # what stands in front is noted
        try:
            inputs = [self._input(value) for value in node.inputs]
            seen = Node(node, inputs, self.opset, self.constants, self._named)
            found = reader(seen)
        except UnreadableError as error:
            self._note(node, one_line(error))
        except (ValueError, TypeError, ArithmeticError, LookupError) as error:
            self._note(node, f"{type(error).__name__}: {one_line(error)}")
        else:
            results = found if isinstance(found, list) else [found]
            known = dict(zip(node.outputs, results, strict=False))
            self.values |= {value: result for value, result in known.items() if value.name}
            for value in node.outputs[len(results) :]:
                if value.uses() or value.is_graph_output():
                    self._note(node, f"its output {value.name!r} is used")

    def _input(self, value: ir.Value | None) -> Value | Array | None:
        if value is None or not value.name:
            return None
        if value in self.values:
            return self.values[value]
        found = self.constants.get(value)
        if found is None:
            raise UnreadableError(f"its input {value.name!r} is not known before the run")
        return found

    def _is_constant(self, node: ir.Node) -> bool:
        """Whether a node without computed inputs is one that has a value."""
        return all(self.constants.get(value) is not None for value in node.outputs if value.name)

    def _shape(self, node: ir.Node, source: ir.Value | None) -> None:
        """Take sizes as constants, the batch with the size that stands for it."""
        found = None if source is None else self.values[source]
        if found is None:
            return
        start = node.attributes["start"].as_int() if "start" in node.attributes else 0
        end = node.attributes["end"].as_int() if "end" in node.attributes else found.rank
        sizes = np.array(found.shape[start:end], dtype=np.int64)
        output = node.outputs[0]
        self.constants.put(output, sizes if node.op_type == "Shape" else sizes.prod())
        del self.values[output]

    def _note(self, node: ir.Node, why: str) -> None:
        name = node.name or (node.outputs[0].name if node.outputs else "")
        self.problems.append(f"{node.op_type} {name!r}: {why}")

    def _told(self) -> str:
        shown = self.problems[:SHOWN]
        more = len(self.problems) - len(shown)
        return (
            f"cannot be read as a network: {'; '.join(shown)}"
            + (f"; and {more} more" if more else "")
        )  # fmt: skip

    # --- names ----------------------------------------------------------------------------------

    def _named(self, layer: nn.Module, *hints: str | None) -> None:
        self.names[layer] = hints

    def _name(self, net: nn.Graph) -> None:
        """Name layers that have weights by the first hint that is free, others by their number."""
        names: dict[nn.Module, str] = {}
        taken: set[str] = set()
        layers = [layer for layer, _ in net.nodes]
        for layer in layers:
            free = [hint for hint in self.names.get(layer, ()) if hint and hint not in taken]
            if free:
                names[layer] = free[0]
                taken.add(free[0])
        for number, layer in enumerate(layers):
            if layer not in names:
                name = str(number)
                while name in taken:
                    name += "_"
                names[layer] = name
                taken.add(name)
        net.rename(names)


def _transposes(node: ir.Node, perm: list[int]) -> bool:
    """Whether a node is this permutation of axes."""
    if node.op_type != "Transpose" or "perm" not in node.attributes:
        return False
    return [*node.attributes["perm"].as_ints()] == perm


def _reached(ends: Sequence[nn.Symbol | None]) -> set[nn.Symbol]:
    """Symbols that outputs depend on."""
    found: set[nn.Symbol] = set()
    pending = [end for end in ends if end is not None]
    while pending:
        symbol = pending.pop()
        if symbol not in found:
            found.add(symbol)
            pending += symbol.inputs
    return found
