"""What a user decides before folding: sizes, defaults, functions; and the pass for pipelines."""

from __future__ import annotations

from typing import Any

import onnx
import onnx_ir as ir
import pytest
from onnx import helper

from fastbn import cli
from fastbn.bench.patterns import PATTERNS
from fastbn.bench.patterns.sketch import Sketch
from fastbn.export import FoldBatchNorm, ModelError, fold_batch_norm, validate


def with_a_function() -> onnx.ModelProto:
    """A convolution and a function that holds its BatchNorm."""
    g = Sketch()
    values = [g.constant(v) for v in g.parameters(4).values()]
    h = g.op("Block", [g.conv(g.input(3, 6, 6), 4), *values])
    model = g.model(h)
    model.graph.node[-1].domain = "own"
    inside = helper.make_node("BatchNormalization", ["x", "a", "b", "m", "v"], ["y"])
    model.functions.append(
        helper.make_function(
            "own", "Block", ["x", "a", "b", "m", "v"], ["y"], [inside],
            [helper.make_opsetid("", 18)],
        )
    )  # fmt: skip
    model.opset_import.append(helper.make_opsetid("own", 1))
    kind = helper.make_tensor_value_info(h, onnx.TensorProto.FLOAT, ["N", 4, 4, 4])
    model.graph.output[0].CopyFrom(kind)
    return model


def test_functions_are_folded_where_they_are_inlined() -> None:
    model = with_a_function()
    folded, report = fold_batch_norm(model, inline=True)
    assert (report.bn_before, report.bn_left) == (1, 0)
    assert not folded.functions
    assert validate(model, folded).agree
    kept, _ = fold_batch_norm(model)
    assert len(kept.functions) == 1


def overridable() -> onnx.ModelProto:
    model = PATTERNS["conv-bn"].build()
    for tensor in model.graph.initializer:
        model.graph.input.append(
            helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        )
    return model


def test_defaults_become_constants_where_asked() -> None:
    model = overridable()
    assert fold_batch_norm(model)[1].bn_left == 1
    folded, report = fold_batch_norm(model, overridable_as_constant=True)
    assert report.bn_left == 0
    assert len(folded.graph.input) == 1


def test_sizes_are_set() -> None:
    model = PATTERNS["dynamic-size"].build()
    name = model.graph.input[0].name
    folded, report = fold_batch_norm(model, input_shapes={name: [1, 3, 20, 24]})
    assert report.bn_left == 0
    dims = [d.dim_value for d in folded.graph.input[0].type.tensor_type.shape.dim]
    assert dims == [1, 3, 20, 24]


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"none": [1]}, "there is no input 'none'"),
        ({"x_1": [1, 4, 8, 8]}, r"input 'x_1' of shape \(\?, 3, \?, \?\) cannot be of sizes"),
        ({"x_1": [1, 3, 8]}, "cannot be of sizes"),
        ({"x_1": [1, 3, 0, 8]}, "cannot be of sizes"),
    ],
)
def test_sizes_that_do_not_fit(shapes: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        fold_batch_norm(PATTERNS["dynamic-size"].build(), input_shapes=shapes)


def test_what_is_said_about_training_survives() -> None:
    model = PATTERNS["conv-bn"].build()
    model.training_info.add().algorithm.name = "how it was trained"
    model.metadata_props.add(key="author", value="someone")
    folded, _ = fold_batch_norm(model)
    assert [info.algorithm.name for info in folded.training_info] == ["how it was trained"]
    assert folded.metadata_props[0].value == "someone"


def test_the_command(tmp_path: Any) -> None:
    model = PATTERNS["dynamic-size"].build()
    onnx.save(model, tmp_path / "a.onnx")
    name = model.graph.input[0].name
    arguments = ["fold", str(tmp_path / "a.onnx"), "-o", str(tmp_path / "b.onnx"), "--inline"]
    arguments += ["--allow-negative-scales", "--overridable-as-constant", "--input-shape"]
    with pytest.raises(SystemExit) as end:
        cli.main([*arguments, f"{name}=2,3,16,16"])
    assert end.value.code == 0
    dims = onnx.load(tmp_path / "b.onnx").graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_value for d in dims] == [2, 3, 16, 16]
    with pytest.raises(SystemExit) as end:
        cli.main([*arguments, f"{name}=large"])
    assert end.value.code == 2


def test_as_a_pass() -> None:
    model = ir.from_proto(PATTERNS["dense-block"].build())
    before = ir.to_proto(model).SerializeToString()
    fold = FoldBatchNorm()
    result = fold(model)
    assert result.modified
    assert ir.to_proto(model).SerializeToString() == before
    assert fold.report is not None
    assert fold.report.bn_left + fold.report.affine_left == PATTERNS["dense-block"].best
    assert validate(ir.to_proto(model), ir.to_proto(result.model)).agree
    again = FoldBatchNorm()(ir.from_proto(PATTERNS["bn-conv-and-output"].build()))
    assert not again.modified
    assert fold.report.verification is not None
