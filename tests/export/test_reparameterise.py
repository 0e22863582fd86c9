"""Affines without a BatchNorm, and convolutions that become one: exact, and only where it pays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastbn.bench.patterns.sketch import Sketch
from fastbn.export import fold_batch_norm
from fastbn.export.evaluator import Float64Evaluator, to_float64
from fastbn.export.fold.api import fold_once
from fastbn.export.fold.engine import STEPS
from fastbn.export.samples import input_specs, random_sample, same_sizes


def folded(model: onnx.ModelProto) -> tuple[Counter[str], Any]:
    """Fold without verification; the algebra must hold to 1e-9 in float64."""
    wide = to_float64(model)
    result, report = fold_once(wide, STEPS[0], duplicate_shared=True)
    onnx.checker.check_model(result, full_check=True)
    specs = input_specs(wide)
    sample = random_sample(specs, same_sizes(specs, 2, 12), 0)
    before, after = (Float64Evaluator(m).run(sample) for m in (wide, result))
    for y64, y in zip(before, after, strict=True):
        assert y.shape == y64.shape
        assert np.abs(y - y64).max() <= 1e-9 * max(np.abs(y64).max(), 1.0)
    return Counter(node.op_type for node in result.graph.node), report


BRANCHES: dict[str, Callable[[Sketch, str], list[str]]] = {
    "RepVGG": lambda g, x: [g.bn(g.conv(x, 6, 3, pad=1)), g.bn(g.conv(x, 6, 1)), g.bn(x)],
    "another order": lambda g, x: [g.bn(x), g.bn(g.conv(x, 6, 1)), g.bn(g.conv(x, 6, 3, pad=1))],
    "plain residual": lambda g, x: [x, g.conv(x, 6, 3, pad=1, bias=True)],
    "depthwise": lambda g, x: [g.conv(x, 6, 3, pad=1, group=6), g.bn(g.conv(x, 6, 1, group=6)), x],
    "groups": lambda g, x: [g.conv(x, 6, 3, pad=1, group=2), g.bn(x)],
    "strides": lambda g, x: [
        g.conv(x, 8, 3, pad=1, strides=[2, 2]), g.conv(x, 8, 1, bias=True, strides=[2, 2])
    ],
    "two of a size": lambda g, x: [g.conv(x, 4, 3), g.conv(x, 4, 3, bias=True)],
    "5 and 3": lambda g, x: [g.conv(x, 4, 3, pad=1), g.conv(x, 4, 5, pad=2)],
    "dilated": lambda g, x: [g.conv(x, 4, 3, pad=2, dilations=[2, 2]), g.conv(x, 4, 1)],
    "no padding": lambda g, x: [g.conv(x, 4, 3, pads=[0, 0, 2, 2]), g.conv(x, 4, 1)],
    "line": lambda g, x: [g.conv(x, 6, 3, rank=1, pad=1), g.bn(x)],
}  # fmt: skip


@pytest.mark.parametrize("operator", ["Add", "Sum"])
@pytest.mark.parametrize("name", BRANCHES)
def test_branches_become_one_convolution(name: str, operator: str) -> None:
    g = Sketch(0)
    x = g.input(6, *(12,) * (1 if name == "line" else 2))
    branches = BRANCHES[name](g, x)
    if operator == "Sum":
        total = g.op("Sum", branches)
    else:
        total = branches[0]
        for branch in branches[1:]:
            total = g.op("Add", [total, branch])
    model = g.model(g.relu(total))
    operators, report = folded(model)
    assert operators == {"Conv": 1, "Relu": 1}
    assert report.bn_left == 0
    assert all(entry.action == "folded" and entry.into for entry in report.nodes)
    _, proven = fold_batch_norm(model)
    assert proven.verification.agree


APART: dict[str, Callable[[Sketch, str], list[str]]] = {
    "other strides": lambda g, x: [
        g.conv(x, 4, 3, pads=[1, 1, 13, 13], strides=[2, 2]), g.conv(x, 4, 1)
    ],
    "other places": lambda g, x: [
        g.conv(x, 4, 3, pads=[0, 0, 3, 3]), g.conv(x, 4, 1, pads=[1, 1, 0, 0])
    ],
    "neither holds the other": lambda g, x: [
        g.op("Conv", [x, g.constant(g.normal(4, 6, 1, 3))], channels=4, pads=[0, 1, 0, 1]),
        g.op("Conv", [x, g.constant(g.normal(4, 6, 3, 1))], channels=4, pads=[1, 0, 1, 0]),
    ],
    "other groups": lambda g, x: [g.conv(x, 6, 3, pad=1, group=2), g.conv(x, 6, 1)],
    "other input": lambda g, x: [g.conv(x, 6, 1), g.conv(g.input(6, 12, 12), 6, 1)],
    "activation between": lambda g, x: [g.relu(g.conv(x, 6, 1)), g.conv(x, 6, 1)],
    "padding by a rule": lambda g, x: [
        g.conv(x, 6, 3, auto_pad="SAME_UPPER"), g.conv(x, 6, 1)
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", APART)
def test_what_differs_stays_apart(name: str) -> None:
    g = Sketch(0)
    x = g.input(6, 12, 12)
    model = g.model(g.op("Add", APART[name](g, x)))
    before = Counter(node.op_type for node in model.graph.node)
    operators, report = folded(model)
    assert operators == before
    assert report.convolutions_merged == 0
    assert not report.changed


def test_a_branch_that_is_read_elsewhere_stays() -> None:
    g = Sketch(0)
    x = g.input(6, 12, 12)
    one, two = g.conv(x, 6, 3, pad=1), g.conv(x, 6, 1)
    model = g.model(g.op("Add", [g.op("Add", [one, two]), g.relu(one)]))
    operators, _ = folded(model)
    assert operators["Conv"] == 2


@pytest.mark.parametrize(("middle", "outputs", "merged"), [(16, 4, True), (4, 64, False)])
@pytest.mark.parametrize("strides", [1, 2])
def test_a_pointwise_convolution_joins_the_one_in_front(
    middle: int, outputs: int, merged: bool, strides: int
) -> None:
    g = Sketch(0)
    h = g.conv(g.input(4, 12, 12), middle, 3, pad=1, bias=True, strides=[strides] * 2)
    last = {"strides": [2, 2]} if merged else {}
    model = g.model(g.bn(g.conv(h, outputs, 1, bias=True, **last)))
    operators, report = folded(model)
    assert operators == {"Conv": 1 if merged else 2}
    assert report.convolutions_merged == int(merged)
    _, proven = fold_batch_norm(model)
    assert proven.verification.agree


def test_padding_between_two_convolutions_is_no_zero() -> None:
    g = Sketch(0)
    model = g.model(g.conv(g.conv(g.input(4, 12, 12), 16, 3, bias=True), 4, 1, pad=1))
    operators, _ = folded(model)
    assert operators == {"Conv": 2}


@given(data=st.data())
@settings(max_examples=60)
def test_any_two_convolutions_of_a_value(data: st.DataObject) -> None:
    """Whatever the geometry is, the sum stays what it was."""
    seed = data.draw(st.integers(0, 2**16))
    g = Sketch(seed)
    groups = data.draw(st.sampled_from([1, 2, 4]))
    x = g.input(4, 12, 12)
    strides = data.draw(st.sampled_from([[1, 1], [2, 2], [1, 2]]))
    kernels = [[data.draw(st.integers(1, 4)) for _ in range(2)] for _ in range(2)]
    dilations = [data.draw(st.sampled_from([1, 1, 2])) for _ in range(2)]
    begins: list[list[int]] = [[], []]
    ends: list[list[int]] = [[], []]
    for axis in range(2):
        taken = [d * (k[axis] - 1) for d, k in zip(dilations, kernels, strict=True)]
        reach = max(data.draw(st.integers(-3, 3)), *(-t for t in taken))  # of both: equal sizes
        for branch in range(2):
            padding = reach + taken[branch]
            begins[branch].append(data.draw(st.integers(0, padding)))
            ends[branch].append(padding - begins[branch][-1])
    branches = []
    for kernel, dilation, begin, end in zip(kernels, dilations, begins, ends, strict=True):
        weight = g.constant(g.normal(4, 4 // groups, *kernel))
        options = {"strides": strides, "pads": begin + end, "dilations": [dilation] * 2}
        branches.append(g.op("Conv", [x, weight], channels=4, group=groups, **options))
    folded(g.model(g.op("Add", branches)))


@pytest.mark.parametrize("operator", ["Mul", "Add", "Sub", "Div"])
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("linear", ["Conv", "Gemm", "ConvTranspose"])
def test_an_affine_alone_goes_into_what_is_in_front(
    linear: str, first: bool, operator: str
) -> None:
    g = Sketch(0)
    if linear == "Gemm":
        h, shape = g.gemm(g.input(5), 4, bias=g.normal(4)), (4,)
    else:
        x = g.input(5, 8, 8)
        h = g.conv(x, 4, 3, bias=True) if linear == "Conv" else g.conv_transpose(x, 4, 2)
        shape = (4, 1, 1)
    constant = g.constant(np.abs(g.normal(*shape)) + 0.5)
    model = g.model(g.relu(g.op(operator, [constant, h] if first else [h, constant], channels=4)))
    operators, report = folded(model)
    stays = operator == "Div" and first
    assert operators == Counter({linear: 1, "Relu": 1}) + Counter({"Div": int(stays)})
    assert report.affines_folded == int(not stays)
    _, proven = fold_batch_norm(model)
    assert (proven.verification is None) == stays  # nothing folded, nothing to prove


def test_an_affine_behind_a_value_that_others_read_stays() -> None:
    g = Sketch(0)
    h = g.conv(g.input(3, 8, 8), 4, 3)
    scaled = g.op("Mul", [h, g.constant(g.normal(4, 1, 1))])
    operators, report = folded(g.model(g.op("Add", [g.relu(h), scaled])))
    assert operators["Mul"] == 1
    assert report.affines_folded == 0


def test_an_affine_that_broadcasts_stays() -> None:
    g = Sketch(0)
    h = g.conv(g.input(3, 8, 8), 1, 3)
    operators, _ = folded(g.model(g.op("Mul", [h, g.constant(g.normal(4, 1, 1))], channels=4)))
    assert operators["Mul"] == 1


@pytest.mark.parametrize("norm", [False, True])
def test_a_product_takes_its_bias_in_where_the_file_changes_anyway(norm: bool) -> None:
    g = Sketch(0)
    h = g.relu(g.gemm(g.input(5), 4))
    if norm:
        h = g.bn(h)
    h = g.op("MatMul", [h, g.constant(g.normal(4, 3))], channels=3)
    model = g.model(g.op("Add", [h, g.constant(g.normal(3))], channels=3))
    operators, report = folded(model)
    assert operators == Counter({"Gemm": 2 if norm else 1, "Relu": 1}) + Counter(
        {"MatMul": int(not norm), "Add": int(not norm)}
    )
    assert report.changed == norm
