"""A tensor or an output channel times 1.05: whatever moves an output, validation notices."""

from __future__ import annotations

import itertools
import zlib
from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from fastbn.bench.patterns import PATTERNS
from fastbn.bench.real import FILES, NotThereError, find
from fastbn.export import ModelError, validate
from fastbn.export.demands import subgraphs
from fastbn.export.evaluator import FLOATS, Float64Evaluator, widen
from fastbn.export.io import read_model
from fastbn.export.truth import Truth

FACTOR = 1.05
TRIES = 30  # until a change moves an output; most of a pattern's do
# From so many on, half of the models are real files, installed from packages.
LONG = 100


def test_corrupted_models_are_noticed(request: pytest.FixtureRequest) -> None:
    """A few patterns; ``--corrupted 100`` is the long form, with real files."""
    count = request.config.getoption("--corrupted")
    tried: Counter[str] = Counter()
    missed = []
    for name, what, report in itertools.islice(_drawn(count >= LONG), count):
        tried[name] += 1
        print(f"{name}: {what}: {report.verdict}", flush=True)
        if report.agree:
            missed.append((name, what))
    print(f"{tried.total()} corrupted models out of {len(tried)}, {len(missed)} not noticed")
    assert tried.total() == count
    assert not missed


def _drawn(real):
    """Give corrupted models, turn by turn: name, what was changed, and what validation found."""
    sources = [_patterns(), _real()] if real else [_patterns()]
    for pair in zip(*sources, strict=True):
        for name, model, seed in pair:
            try:
                truth = Truth(model)
            except ModelError as error:
                print(f"{name}: {error}")
                continue
            tolerances = [output.tolerance for output in truth.compare(model).outputs]
            rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
            for _ in range(TRIES):
                other, what = corrupted(model, rng)
                if _moves(truth, tolerances, other):
                    yield name, what, validate(model, other)
                    break


def _patterns():
    for seed in itertools.count():
        for name in list(PATTERNS)[seed % 5 :: 5]:
            yield name, read_model(PATTERNS[name].build()), seed


def _real():
    there = {}
    for name, file in FILES.items():
        try:
            there[name] = find(file)
        except NotThereError as error:
            print(f"{name}: {error}")
    if not there:
        pytest.skip("no package with a real file can be installed")
    for seed in itertools.count():
        for name, path in there.items():
            yield name, read_model(path), seed


def corrupted(model, rng):
    """Multiply a float tensor, or what makes one output channel, of a copy; tell which."""
    other = onnx.ModelProto()
    other.CopyFrom(model)
    weights = [
        (tensor, _channels(other.graph, name))
        for name, tensor in _tensors(other.graph)
        if tensor.data_type in FLOATS and numpy_helper.to_array(tensor).any()
    ]
    tensor, axis = weights[int(rng.integers(len(weights)))]
    values = numpy_helper.to_array(tensor).copy()
    what = f"tensor {tensor.name!r} {values.shape}"
    part = values
    if values.ndim > 1 and rng.integers(2):
        channel = int(rng.integers(values.shape[axis]))
        part = np.moveaxis(values, axis, 0)[channel : channel + 1]
        what += f", channel {channel} of axis {axis}"
    part[...] = (widen(part) * FACTOR).astype(values.dtype)
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return other, what


def _tensors(graph):
    """Give a graph's constants, those of its subgraphs included, with the names they have."""
    for tensor in graph.initializer:
        yield tensor.name, tensor
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.HasField("t"):
                yield node.output[0], attribute.t
        for inner in subgraphs(node):
            yield from _tensors(inner)


def _channels(graph, name):
    """Tell the axis of output channels of a weight."""
    for node in graph.node:
        if name not in node.input[1:2]:
            continue
        if node.op_type == "ConvTranspose":
            return 1
        transposed = any(a.name == "transB" and a.i for a in node.attribute)
        if node.op_type == "MatMul" or (node.op_type == "Gemm" and not transposed):
            return -1
    return 0


def _moves(truth, tolerances, other):
    """Whether some float64 output is moved by more than twice the tolerance."""
    try:
        run = Float64Evaluator(other).run
        for sample in truth.samples():
            pairs = zip(truth.expected(sample), run(sample), tolerances, strict=True)
            for y64, y, tolerance in pairs:
                if y64.shape != y.shape or y64.dtype.kind != "f" or not y64.size:
                    continue
                moved = np.abs(y - y64)
                if moved[np.isfinite(moved)].max(initial=0.0) > 2 * tolerance:
                    return True
    except Exception:  # a constant that must not change, such as the scales of a Resize
        return False
    return False
