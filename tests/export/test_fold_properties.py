"""Random graphs: folded and original are one function."""

from __future__ import annotations

import os

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from random_graphs import Drawer

from fastbn.export import fold_batch_norm
from fastbn.export.evaluator import Float64Evaluator
from fastbn.export.fold.api import fold_once
from fastbn.export.fold.engine import STEPS

# Continuous integration asks for thousands; the default keeps a local run short.
EXAMPLES = int(os.environ.get("FASTBN_FOLD_EXAMPLES", "400"))

CHOICES = st.lists(st.tuples(st.integers(0, 999), st.integers(0, 999)), min_size=1, max_size=12)
SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]
# An output may be zero, or nearly, because numbers of about 1 cancel: their roundings stay.
CANCELLED = 1e-6


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=SLOW)
@given(
    seed=st.integers(0, 2**20),
    choices=CHOICES,
    boldness=st.sampled_from(STEPS),
    allow_slower=st.booleans(),
)
@example(  # zero, and 1e-17 when it is folded
    seed=139, choices=[(12, 0), (5, 0), (24, 0), (27, 344)], boldness=STEPS[0], allow_slower=False
)
def test_in_float64(seed, choices, boldness, allow_slower):
    """With float64 weights nothing is rounded to float32: only wrong algebra shows."""
    model = Drawer(seed).run(choices)
    folded, report = fold_once(model, boldness, True, allow_slower)
    onnx.checker.check_model(folded, full_check=True)
    # Only bias maps add anything, and each stands in for a BatchNorm.
    assert 0 <= report.affine_left <= report.bn_before - report.bn_left
    assert not any("malformed" in entry.reason for entry in report.nodes)
    assert report.bn_left <= report.bn_before
    assert report.nodes_after <= report.nodes_before + report.bn_before
    assert [o.name for o in model.graph.output] == [o.name for o in folded.graph.output]
    x = np.random.default_rng(seed).standard_normal((2, 4, 8, 8)) * 2
    inputs = {model.graph.input[0].name: x}
    expected = Float64Evaluator(model).run(inputs)
    for y, y64 in zip(Float64Evaluator(folded).run(inputs), expected, strict=True):
        assert y.shape == y64.shape
        scale = max(np.abs(y64).max(), CANCELLED)
        np.testing.assert_allclose(y, y64, rtol=0, atol=1e-9 * scale)


@settings(max_examples=max(EXAMPLES // 8, 10), deadline=None, suppress_health_check=SLOW)
@given(seed=st.integers(0, 2**20), choices=CHOICES, opset=st.sampled_from([13, 15, 18, 21]))
def test_in_onnxruntime(seed, choices, opset):
    """In float32 the tolerance of every export holds, or less is folded until it does."""
    model = Drawer(seed, "float32", opset).run(choices)
    _, report = fold_batch_norm(model)
    assert report.verification.agree


@pytest.mark.parametrize("seed", range(5))
def test_folding_twice_changes_nothing(seed):
    choices = [(seed * 7 + i, seed * 3 + i) for i in range(10)]
    once, first = fold_once(Drawer(seed).run(choices), STEPS[0], duplicate_shared=True)
    _, second = fold_once(once, STEPS[0], duplicate_shared=True)
    assert second.bn_left == first.bn_left
