"""A node as the one who reads it sees it, and the table of those who can."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from fastbn import nn
from fastbn.export.fold.constants import Constants
from fastbn.export.read.value import UnreadableError, Value

Array = NDArray[Any]
# Element types that layers compute with: float32, float16, float64, bfloat16.
FLOATS = (1, 10, 11, 16)
Result = Value | list[Value]
# What makes a layer that may have a bias, and what hands it on as it is.
_PRODUCTS = frozenset(["Conv", "Gemm", "MatMul"])
_VIEWS = frozenset(
    ["Cast", "CastLike", "Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose",
     "Unsqueeze"]
)  # fmt: skip


class Names(Protocol):
    """Who keeps the names of layers."""

    def __call__(self, layer: nn.Module, *hints: str | None) -> None:
        """Keep the names that a layer may have, the best one first."""


class Node:
    """A node of the file, with what its inputs are.

    Parameters
    ----------
    node : onnx_ir.Node
    inputs : list of Value, ndarray or None
        What is computed, constants, and inputs left out.
    opset : int
    constants : Constants
    named : callable
        Takes the layers made, with hints for their names.
    """

    def __init__(
        self,
        node: ir.Node,
        inputs: list[Value | Array | None],
        opset: int,
        constants: Constants,
        named: Names,
    ) -> None:
        self.node = node
        self.inputs = inputs
        self.opset = opset
        self.constants = constants
        self._named = named

    @property
    def operator(self) -> str:
        """The operator's name."""
        return self.node.op_type

    # --- inputs ---------------------------------------------------------------------------------

    def input(self, index: int) -> Value | Array | None:
        """Return an input, None if it is left out."""
        return self.inputs[index] if index < len(self.inputs) else None

    def value(self, index: int = 0) -> Value:
        """Return an input that is computed."""
        found = self.input(index)
        if not isinstance(found, Value):
            raise UnreadableError(f"its input {index} is a constant")
        return found

    def constant(self, index: int) -> Array | None:
        """Return an input that must be a constant, None if it is left out."""
        found = self.input(index)
        if isinstance(found, Value):
            raise UnreadableError(f"its input {index} is computed, not a constant")
        return found

    def weight(self, index: int) -> Array | None:
        """Return a constant of floating point; float32 where it is narrower."""
        return None if (found := self.constant(index)) is None else floats(found)

    def required(self, index: int) -> Array:
        """Return a constant of floating point that may not be left out."""
        found = self.weight(index)
        if found is None:
            raise UnreadableError(f"its input {index} is missing")
        return found

    def integers(self, index: int, name: str = "") -> list[int] | None:
        """Return whole numbers, from an input or from the attribute of older opsets."""
        found = self.constant(index)
        if found is None:
            return self.wholes(name) if name else None
        if found.dtype.kind not in "iu":
            raise UnreadableError(f"its input {index} should be integers")
        return [int(n) for n in found.reshape(-1)]

    # --- attributes -----------------------------------------------------------------------------

    def whole(self, name: str, default: int = 0) -> int:
        """Return a whole number."""
        found = self.node.attributes.get(name)
        return default if found is None else int(found.as_int())

    def number(self, name: str, default: float = 0.0) -> float:
        """Return a number."""
        found = self.node.attributes.get(name)
        return default if found is None else float(found.as_float())

    def text(self, name: str, default: str = "") -> str:
        """Return a text."""
        found = self.node.attributes.get(name)
        return default if found is None else str(found.as_string())

    def wholes(self, name: str) -> list[int] | None:
        """Return whole numbers, None if there are none."""
        found = self.node.attributes.get(name)
        return None if found is None else [int(n) for n in found.as_ints()]

    # --- what is made ---------------------------------------------------------------------------

    def name(self, layer: nn.Module, weight: int | None = None) -> nn.Module:
        """Say that a layer stands for this node, or for the weight it has; return it."""
        value = None
        if weight is not None and weight < len(self.node.inputs):
            value = self.node.inputs[weight]
        full = "" if value is None or value.name is None else value.name
        stem = full.removesuffix(".weight")
        hint = None if stem == full else stem
        self._named(layer, hint, self.node.name, self.node.outputs[0].name)
        return layer

    def is_only_reader(self, index: int) -> bool:
        """Whether an input is a product or a convolution that nobody else reads.

        What stands between may only say anew where axes lie, and have no other reader either: all
        that is the same symbol.
        """
        value = self.node.inputs[index]
        while value is not None and len(value.uses()) == 1 and not value.is_graph_output():
            maker = value.producer()
            if maker is None or maker.op_type not in _VIEWS:
                return maker is not None and maker.op_type in _PRODUCTS
            value = maker.inputs[0]
        return False


def floats(array: Array) -> Array:
    """Return numbers as layers take them: float64 as it is, all else as float32."""
    if array.dtype.kind not in "f" and array.dtype.name != "bfloat16":
        raise UnreadableError(f"expected floating point, got {array.dtype}")
    return array if array.dtype == np.float64 else array.astype(np.float32)


Reader = Callable[[Node], Result]
READERS: dict[str, Reader] = {}


def reads(*operators: str) -> Callable[[Reader], Reader]:
    """Enter a function into the table."""

    def enter(reader: Reader) -> Reader:
        for operator in operators:
            READERS[operator] = reader
        return reader

    return enter
