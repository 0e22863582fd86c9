"""The table next to other tools, and the light models it is made of."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from fastbn.bench.fold import FoldRow, FoldTable, bench_fold, summary, verdict, write_table
from fastbn.bench.fold_nodes import bench_nodes
from fastbn.bench.light import LIGHT, light_model
from fastbn.export import fold_batch_norm
from fastbn.export.fold.api import fold_once
from fastbn.export.fold.engine import STEPS


def test_table(tmp_path):
    table = bench_fold(
        names=["conv-bn", "bn-conv-1x1", "conv-relu-bn"],
        tools=["fastbn", "onnxruntime-basic", "onnxruntime-all"],
        rounds=1,
    )
    left = {(row.name, row.tool): row.left for row in table.rows}
    assert left["conv-bn", "fastbn"] == left["bn-conv-1x1", "fastbn"] == 0
    assert left["bn-conv-1x1", "onnxruntime-basic"] == 1
    assert all(row.wrong is False and row.ratio > 0 for row in table.rows)
    blocked = next(r for r in table.rows if (r.name, r.tool) == ("conv-relu-bn", "onnxruntime-all"))
    # Where onnxruntime blocks channels, a BatchNorm became a depthwise convolution.
    assert (blocked.bn_left, blocked.affine_left) in {(0, 1), (1, 0)}
    lines = summary(table)
    assert len(lines) == 5
    assert lines[-1].split()[:3] == ["sum", "3", f"{sum(r.bn_left for r in ours(table))}+0"]
    assert lines[0].split() == ["model", "bn", "best", "fastbn", "onnxruntime-basic",
                                "onnxruntime-all"]  # fmt: skip
    write_table(table, tmp_path / "table.json")
    assert len(json.loads((tmp_path / "table.json").read_text())["rows"]) == 9


def ours(table):
    return [row for row in table.rows if row.tool == "fastbn"]


def test_unknown_names():
    with pytest.raises(ValueError, match="unknown pattern"):
        bench_fold(names=["nothing"], rounds=0)
    with pytest.raises(ValueError, match="unknown tools"):
        bench_fold(names=["conv-bn"], tools=["nothing"], rounds=0)


def row(tool, left, **values):
    return FoldRow(
        "a", tool, best=0, bn_before=3, bn_left=left, affine_left=0, wrong=False, **values
    )


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([row("fastbn", 0, ratio=1.01)], None),
        ([row("fastbn", 1)], "0 are possible"),
        ([row("fastbn", 0, ratio=1.03)], "times the original's time"),
        ([row("fastbn", 2), row("other", 1)], "another tool leaves 1"),
        ([FoldRow("a", "fastbn", failure="broken")], "broken"),
    ],
)
def test_verdict(rows, problem):
    found = verdict(FoldTable({}, 1, rows))
    assert bool(found) == (problem is not None)
    if problem is not None:
        assert any(problem in line for line in found)


@pytest.mark.parametrize("name", LIGHT)
def test_light_models_have_weights(name):
    """Filled with numbers that differ, so that a mix-up of channels cannot hide."""
    model = light_model(name)
    onnx.checker.check_model(model)
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.size > 1:
            assert np.unique(values).size > values.size // 2
    same = light_model(name)
    assert same.SerializeToString() == model.SerializeToString()


def test_densenet_as_pytorch_writes_it():
    """Every block's first BatchNorm becomes its input's own scale; the runtime does the rest."""
    model = light_model("densenet121_plain")
    assert {"Mul", "Add"}.isdisjoint(node.op_type for node in model.graph.node)
    _, report = fold_once(model, STEPS[0], duplicate_shared=False)
    assert (report.bn_before, report.bn_left, report.affine_left) == (121, 59, 0)
    assert all(entry.reason for entry in report.nodes if entry.action == "kept")
    _, report = fold_once(model, STEPS[0], duplicate_shared=False, allow_slower=True)
    assert (report.bn_left, report.affine_left) == (0, 0)


@pytest.mark.parametrize("name", LIGHT[:4])
def test_light_models_lose_every_batch_norm(name):
    _, report = fold_once(light_model(name), STEPS[0], duplicate_shared=False)
    assert report.bn_before >= 49
    assert report.bn_left + report.affine_left == 0


def test_light_model_stays_the_same_function():
    _, report = fold_batch_norm(light_model("shufflenet"))
    assert report.verification.agree
    assert report.bn_left == 0


def test_a_chain_of_many_nodes_is_proven():
    rows = list(bench_nodes(30))
    assert [row.nodes for row in rows] == [30, 60]
    assert all(row.unproven > 0 and row.proven > 0 for row in rows)
    assert str(rows[1]).startswith("60 ")
