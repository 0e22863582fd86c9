"""What the tests of public reports share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from fastbn.export.evaluator import Float64Evaluator
from fastbn.export.rounding import coarsest_eps, quantises
from fastbn.export.runtime import Session
from fastbn.export.samples import input_specs, random_sample, same_sizes
from fastbn.export.sparse import dense

# Of one output, in roundings of its largest number; an int32 bias moves by whole steps.
ROUNDINGS, STEPS = 16.0, 2.0**-12


def kinds(model: onnx.ModelProto) -> list[str]:
    """Operators, in order."""
    return [node.op_type for node in model.graph.node]


def require_equal(
    model: onnx.ModelProto, folded: onnx.ModelProto, shape: Sequence[int] | None = None
) -> None:
    """The folded model gives what the original does, in onnxruntime and in float64."""
    specs = input_specs(model)
    sample = random_sample(specs, same_sizes(specs, 2, 16), seed=11)
    if shape is not None:
        sample = {specs[0].name: np.random.default_rng(11).standard_normal(shape, np.float32)}
    before = Session(model, "lowest").run(sample)
    exact = Float64Evaluator(dense(model, None)).run(sample)
    eps = coarsest_eps(model) * ROUNDINGS
    if quantises(model):
        eps = max(eps, STEPS)
    for level in ("lowest", "highest"):
        after = Session(folded, level).run(sample)
        for old, new, truth in zip(before, after, exact, strict=True):
            assert old.shape == new.shape
            assert old.dtype == new.dtype
            size = np.abs(truth).max(initial=0.0)
            lost = np.abs(old.astype(np.float64) - truth).max(initial=0.0)
            error = np.abs(new.astype(np.float64) - truth).max(initial=0.0)
            assert size > 0, "an output that is zero shows nothing"
            assert error <= 2 * lost + eps * size
