"""Every rule is exercised by a graph, and the graph notices when the rule is wrong."""

from __future__ import annotations

import functools

import numpy as np
import onnx
import pytest
from rule_graphs import GRAPHS

from fastbn.bench.patterns import PATTERNS
from fastbn.export.evaluator import Float64Evaluator
from fastbn.export.fold import backward, forward, passthrough
from fastbn.export.fold.affine import Affine
from fastbn.export.fold.api import fold_once
from fastbn.export.fold.engine import STEPS
from fastbn.export.fold.moves import BACKWARD, FORWARD
from fastbn.export.samples import input_specs, random_sample, same_sizes

RULES = [("backwards", name) for name in BACKWARD] + [("forwards", name) for name in FORWARD]
TABLES = {"backwards": BACKWARD, "forwards": FORWARD}


def build(name):
    return GRAPHS[name]() if name in GRAPHS else PATTERNS[name].build()


def fold(name):
    return fold_once(build(name), STEPS[0], duplicate_shared=True, allow_slower=True)[0]


@functools.cache
def truth(name):
    model = build(name)
    specs = input_specs(model)
    sample = random_sample(specs, same_sizes(specs, 2, 12), 0)
    return sample, Float64Evaluator(model).run(sample)


def error(name, folded):
    """Worst difference from the original, relative to the largest output."""
    sample, expected = truth(name)
    found = Float64Evaluator(folded).run(sample)
    return max(
        np.abs(y - y64).max() / np.abs(y64).max() for y, y64 in zip(found, expected, strict=True)
    )


@functools.cache
def users():
    """Patterns whose fold calls a rule, by rule."""
    found = {rule: [] for rule in RULES}
    with pytest.MonkeyPatch.context() as patch:
        for way, operator in RULES:
            honest = TABLES[way][operator]

            def spy(*arguments, honest=honest, rule=(way, operator)):
                called.add(rule)
                honest(*arguments)

            patch.setitem(TABLES[way], operator, spy)
        for name in (*GRAPHS, *PATTERNS):
            called: set[tuple[str, str]] = set()
            fold(name)
            for rule in called:
                found[rule].append(name)
    return found


@pytest.mark.parametrize("name", GRAPHS)
def test_the_affine_passes(name):
    model = build(name)
    onnx.checker.check_model(model, full_check=True)
    folded, report = fold_once(model, STEPS[0], duplicate_shared=False, allow_slower=True)
    assert report.bn_left + report.affine_left == 0, report.nodes
    assert error(name, folded) < 1e-5


WRONG = [
    lambda a: Affine.of(a.scale * 1.1, a.shift),
    lambda a: Affine.of(a.scale, a.shift + 0.1),
    lambda a: Affine.of(a.scale[:, ::-1], a.shift[:, ::-1]) if a.rank > 1 else a,
]


@pytest.mark.parametrize(("way", "operator"), RULES)
def test_a_wrong_rule_is_noticed(way, operator, monkeypatch):
    honest = TABLES[way][operator]
    position = 2 if way == "backwards" else 3
    for spoil in WRONG:

        def wrong(*arguments, spoil=spoil):
            changed = list(arguments)
            changed[position] = spoil(changed[position])
            honest(*changed)

        monkeypatch.setitem(TABLES[way], operator, wrong)
        if any(error(name, fold(name)) > 1e-3 for name in users()[way, operator]):
            return
    pytest.fail(f"no pattern notices: {users()[way, operator]}")


@pytest.mark.parametrize(
    ("module", "part", "name"),
    [
        (Affine, "inverse", "conv-bn-and-conv"),
        (Affine, "inverse", "dense-transition"),
        (forward, "_border_map", "bn-conv-padded-strided"),
        (forward, "_border_map", "bn-conv-padded-gap-gemm"),
        (backward, "add_bias", "conv+bias-bn"),
        (passthrough, "reshaped", "conv-flatten-bn-per-channel"),
    ],
)
def test_a_wrong_part_is_noticed(module, part, name, monkeypatch):
    honest = getattr(module, part)

    def wrong(*arguments):
        found = honest(*arguments)
        if isinstance(found, Affine):
            return Affine.of(found.scale * 1.1, found.shift)
        if found is None:  # add_bias changes the plan
            plan, node, index, *_ = arguments
            plan.inputs[node, index] = plan.inputs[node, index] + 0.1
            return None
        return found + 0.1 * (np.arange(found.shape[-1]) == 0)  # only at the border

    assert error(name, fold(name)) < 1e-5
    monkeypatch.setattr(module, part, wrong)
    assert error(name, fold(name)) > 1e-4
