"""Graphs with a few things changed, read as networks: a network, or one line that says why not.

A few by default; ``FASTBN_FUZZ_GRAPHS=3000`` tries so many, ``FASTBN_FUZZ_SEED=1`` others.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from fastbn.bench.patterns import PATTERNS
from fastbn.export import ModelError, from_onnx
from fastbn.export.read.node import READERS

GRAPHS = int(os.environ.get("FASTBN_FUZZ_GRAPHS", "120"))
SEED = int(os.environ.get("FASTBN_FUZZ_SEED", "0"))
WHOLE = (-(2**63), -(2**31), -3, -1, 0, 1, 2, 3, 5, 7, 100, 2**20, 2**31, 2**40, 2**63 - 1)
NUMBERS = (float("nan"), float("inf"), -1.0, 0.0, 1e30, -1e-40)
Rng = np.random.Generator


def an_attribute(rng: Rng, model: onnx.ModelProto) -> None:
    node = model.graph.node[rng.integers(len(model.graph.node))]
    for attribute in node.attribute:
        if attribute.ints:
            attribute.ints[rng.integers(len(attribute.ints))] = int(rng.choice(WHOLE))
        elif attribute.type == onnx.AttributeProto.INT:
            attribute.i = int(rng.choice(WHOLE))
        elif attribute.type == onnx.AttributeProto.FLOAT:
            attribute.f = float(rng.choice(NUMBERS))


def a_weight(rng: Rng, model: onnx.ModelProto) -> None:
    """Another number in it, another shape, or another type."""
    if not model.graph.initializer:
        return
    tensor = model.graph.initializer[rng.integers(len(model.graph.initializer))]
    array = numpy_helper.to_array(tensor).copy()
    whole = array.dtype.kind == "i"
    if array.size:
        flat = array.reshape(-1)
        flat[rng.integers(array.size)] = (
            int(rng.choice(WHOLE)) if whole else float(rng.choice(NUMBERS))
        )
    changes: list[Callable[[Any], Any]] = [
        lambda a: a,
        lambda a: a.reshape(-1),
        lambda a: a[None],
        lambda a: a.T,
        lambda a: a.reshape(-1)[:0],
        lambda a: a.astype(np.float32 if whole else np.float64),
    ]
    changed = changes[rng.integers(len(changes))](array)
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(changed), tensor.name))


def an_operator(rng: Rng, model: onnx.ModelProto) -> None:
    node = model.graph.node[rng.integers(len(model.graph.node))]
    node.op_type = str(rng.choice([*READERS]))


def an_input(rng: Rng, model: onnx.ModelProto) -> None:
    node = model.graph.node[rng.integers(len(model.graph.node))]
    if node.input:
        other = model.graph.input[0].name if rng.integers(2) else ""
        node.input[rng.integers(len(node.input))] = other


def a_size(rng: Rng, model: onnx.ModelProto) -> None:
    dims = model.graph.input[0].type.tensor_type.shape.dim
    if dims:
        dims[rng.integers(len(dims))].dim_value = int(rng.choice(WHOLE))


def the_opset(rng: Rng, model: onnx.ModelProto) -> None:
    model.opset_import[0].version = int(rng.integers(6, 28))


CHANGES = (an_attribute, a_weight, an_operator, an_input, a_size, the_opset)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of weights that are not finite
def test_mutated_graphs() -> None:
    rng = np.random.default_rng(SEED)
    drawn = [pattern.build() for pattern in PATTERNS.values()]
    read, refused = 0, []
    for _ in range(GRAPHS):
        model = onnx.ModelProto()
        model.CopyFrom(drawn[rng.integers(len(drawn))])
        for _ in range(int(rng.integers(1, 4))):
            CHANGES[rng.integers(len(CHANGES))](rng, model)
        try:
            from_onnx(model)
        except ModelError as error:
            refused.append(str(error))
        else:
            read += 1
    assert read > GRAPHS // 10
    assert len(refused) > GRAPHS // 10
    assert not [text for text in refused if "\n" in text]
