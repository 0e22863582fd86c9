"""Random graphs: folded and original are one function.

Nothing is verified when it is folded, and the weights are float64, so that nothing is rounded to
float32: only wrong algebra shows.
"""

from __future__ import annotations

import os
import zlib

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_graphs import OPERATIONS, SOURCES, Drawer
from rule_pairs import PAIRS, PLACES, linear, pair_graph, watched

from fastbn.export import MismatchError, fold_batch_norm
from fastbn.export.evaluator import Float64Evaluator
from fastbn.export.fold.api import fold_once
from fastbn.export.fold.engine import STEPS
from fastbn.export.fold.moves import BACKWARD, FORWARD

# Continuous integration asks for thousands; the default keeps a local run short.
EXAMPLES = int(os.environ.get("FASTBN_FOLD_EXAMPLES", "400"))

CHOICES = st.lists(st.tuples(st.integers(0, 999), st.integers(0, 999)), min_size=1, max_size=12)
SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]
# An output may be zero, or nearly, because numbers of about 1 cancel: their roundings stay.
CANCELLED = 1e-6


def require_same_function(model, folded, seed, what=""):
    name = model.graph.input[0].name
    dims = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim[1:]]
    x = {name: np.random.default_rng(seed).standard_normal((2, *dims)) * 2}
    expected = Float64Evaluator(model).run(x)
    for y, y64 in zip(Float64Evaluator(folded).run(x), expected, strict=True):
        assert y.shape == y64.shape, what
        scale = max(np.abs(y64).max(), CANCELLED)
        np.testing.assert_allclose(y, y64, rtol=0, atol=1e-9 * scale, err_msg=what)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=SLOW)
@given(
    seed=st.integers(0, 2**20),
    choices=CHOICES,
    boldness=st.sampled_from(STEPS),
    allow_slower=st.booleans(),
    duplicate=st.booleans(),
    sample_norms=st.booleans(),
)
def test_in_float64(seed, choices, boldness, allow_slower, duplicate, sample_norms):
    model = Drawer(seed).run(choices)
    folded, report = fold_once(model, boldness, duplicate, allow_slower, sample_norms)
    onnx.checker.check_model(folded, full_check=True)
    # Only bias maps add anything, and each stands in for a BatchNorm.
    assert 0 <= report.affine_left <= report.bn_before - report.bn_left
    assert not any("malformed" in entry.reason for entry in report.nodes)
    assert report.bn_left <= report.bn_before
    assert report.nodes_after <= report.nodes_before + report.bn_before
    assert [o.name for o in model.graph.output] == [o.name for o in folded.graph.output]
    require_same_function(model, folded, seed)


def test_every_pair_of_operations():
    """Each in some of the places by default; in all of them where examples are asked for."""
    places = list(PLACES)
    with watched() as coverage:
        for first, second in PAIRS:
            drawn = zlib.crc32(f"{first} {second}".encode())
            count = len(places) * EXAMPLES // 2000 or 1
            for turn in range(count):
                place = places[(drawn + turn) % len(places)]
                seed = (drawn + turn) % 2**20
                graph = pair_graph(place, first, second, seed)
                if graph is None:
                    continue
                model, readers = graph
                coverage.graphs[place] += 1
                coverage.others[f"read by {readers}, too"] += 1
                boldness = STEPS[0 if drawn % 3 else turn % len(STEPS)]
                choices = bool(drawn % 2), bool(drawn % 5 < 3), bool(drawn % 7 < 4)
                folded, _ = fold_once(model, boldness, *choices)
                what = f"{place}: {first}, {second}, seed {seed}"
                require_same_function(model, folded, seed, what)
    print(coverage)
    asked = {f"{name} back" for name in BACKWARD} | {f"{name} forth" for name in FORWARD}
    # Of opset 9, and with weights in integers: both have graphs of their own elsewhere.
    left = {"Upsample back", "Upsample forth", "DequantizeLinear back"}
    assert asked - coverage.rules.keys() == left
    assert len(coverage.pairs) > 900
    assert {1, 2, 3} <= coverage.readers.keys()
    assert {"negative", "mixed and shift", "zero and shift"} <= coverage.affines.keys()


def test_norms_of_samples():
    """Their weight and bias go through any operation, into what is linear, or they stay."""
    folded = {}
    for turn, between in enumerate(OPERATIONS):
        for seed in range(turn, turn + max(EXAMPLES // 40, 4)):
            d = Drawer(seed, source=SOURCES[seed % len(SOURCES)])
            norm = d.add("sample_norm", d.values[0])
            middle = norm and (norm if seed % 3 == 0 else d.add(between, norm))
            if middle is None:
                continue
            model = d.model(*(linear(d, middle) for _ in range(1 + seed % 2)))
            after, report = fold_once(model, STEPS[0], True, sample_norms=True)
            onnx.checker.check_model(after, full_check=True)
            require_same_function(model, after, seed, f"{between}, seed {seed}")
            if report.sample_norms:
                folded[between] = folded.get(between, 0) + 1
                assert report.nodes_after <= report.nodes_before
    assert len(folded) > 30
    assert sum(folded.values()) > 100


@settings(max_examples=max(EXAMPLES // 8, 10), deadline=None, suppress_health_check=SLOW)
@given(seed=st.integers(0, 2**20), choices=CHOICES, opset=st.sampled_from([13, 15, 18, 21]))
def test_in_onnxruntime(seed, choices, opset):
    """In float32 the tolerance of every export holds, or less is folded until it does."""
    model = Drawer(seed, "float32", opset).run(choices)
    try:
        _, report = fold_batch_norm(model)
    except MismatchError as error:  # a graph like x − x, which proves nothing
        if "in every sample" not in str(error):
            raise
        return
    assert report.changed == (report.verification is not None)
    assert not report.changed or report.verification.agree


@pytest.mark.parametrize("seed", range(5))
def test_folding_twice_changes_nothing(seed):
    choices = [(seed * 7 + i, seed * 3 + i) for i in range(10)]
    once, first = fold_once(Drawer(seed).run(choices), STEPS[0], duplicate_shared=True)
    _, second = fold_once(once, STEPS[0], duplicate_shared=True)
    assert second.bn_left == first.bn_left
