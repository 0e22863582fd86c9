"""The list of patterns: a name, a builder, and how few BatchNorms can be left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx

from fastbn.bench.patterns.sketch import Sketch

Drawing = Callable[[Sketch], onnx.ModelProto]


@dataclass(frozen=True, slots=True)
class Pattern:
    """A small graph.

    Attributes
    ----------
    name : str
    draw : callable
        Draws it onto a sketch.
    best : int
        Smallest possible sum of BatchNormalization nodes and added affine nodes, if the model may
        not become slower.
    opset, ir_version : int
        Of the file.
    dtype : str
        Of inputs and weights.
    """

    name: str
    draw: Drawing
    best: int
    opset: int = 18
    ir_version: int = 8
    dtype: str = "float32"

    def build(self, seed: int = 0) -> onnx.ModelProto:
        """Draw the graph with seeded weights."""
        return self.draw(Sketch(seed, self.opset, self.ir_version, self.dtype))


PATTERNS: dict[str, Pattern] = {}


def pattern(
    name: str,
    best: int,
    *,
    opset: int = 18,
    ir_version: int = 8,
    dtype: str = "float32",
) -> Callable[[Drawing], Drawing]:
    """Register a drawing."""

    def register(draw: Drawing) -> Drawing:
        if name in PATTERNS:
            raise ValueError(f"pattern {name!r} exists twice")
        PATTERNS[name] = Pattern(name, draw, best, opset, ir_version, dtype)
        return draw

    return register
