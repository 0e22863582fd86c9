"""What all plans of a model share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from fastbn.export.fold.affine import Array, Refused
from fastbn.export.fold.constants import Constants

Dims = tuple[int | str | None, ...]


@dataclass(slots=True)
class Context:
    """What all plans of a model share."""

    model: ir.Model
    constants: Constants
    opset: int
    # Whether Max and Min may take longer than the BatchNorm they replace.
    allow_slower: bool = False
    # Whether a DequantizeLinear may get scales below zero.
    allow_negative_scales: bool = False
    # Original weights that must not be copied, because other nodes use them too.
    not_copied: set[ir.Value] = field(default_factory=set)
    # New constant -> the original weight it was made from.
    origins: dict[ir.Value, ir.Value] = field(default_factory=dict)
    # New constant -> type it is rounded to in the end.
    made: dict[ir.Value, np.dtype[Any]] = field(default_factory=dict)
    # Names of nodes and values, so that new ones differ.
    names: set[str] = field(default_factory=set)
    serial: int = 0
    # Nodes that plans have looked at.
    looked_at: int = 0
    # Scale and shift of BatchNorms as the graph has them, until a plan is committed.
    read: dict[ir.Node, tuple[Array, Array]] = field(default_factory=dict)

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
