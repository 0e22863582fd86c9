"""Broken and hostile files: one line of error, nothing written, nothing read from elsewhere."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from fastbn.bench.patterns import PATTERNS
from fastbn.export import ModelError, fold_batch_norm, fold_file, validate
from fastbn.export.io import read_model
from fastbn.files import atomic


@pytest.fixture
def good():
    return PATTERNS["conv-bn"].build()


def refuse(path, match, tmp_path):
    """The file is refused in one line, and no file appears or changes."""
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    target = tmp_path / "out.onnx"
    with pytest.raises(ModelError, match=match) as caught:
        fold_file(path, target)
    assert "\n" not in str(caught.value)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def save(model, path):
    path.write_bytes(model.SerializeToString())
    return path


def test_missing(tmp_path):
    refuse(tmp_path / "none.onnx", "no such file", tmp_path)


@pytest.mark.parametrize("content", [b"", b"not a model at all", b"\x00" * 100, b"PK\x03\x04" * 9])
def test_not_a_model(tmp_path, content):
    path = tmp_path / "a.onnx"
    path.write_bytes(content)
    refuse(path, "not an ONNX model|holds no graph", tmp_path)


def test_truncated(tmp_path, good):
    content = good.SerializeToString()
    path = tmp_path / "a.onnx"
    for length in range(1, len(content), max(len(content) // 40, 1)):
        path.write_bytes(content[:length])
        refuse(path, ".", tmp_path)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_flipped_bytes_never_crash(data):
    """Whatever is in the file, the answer is a model or a ModelError."""
    content = bytearray(PATTERNS["conv-bn"].build().SerializeToString())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    model = onnx.ModelProto()
    try:
        model.ParseFromString(bytes(content))
    except Exception:
        return
    message = ""
    try:
        fold_batch_norm(model, verify=False)
    except ModelError as error:
        message = str(error)
    assert "\n" not in message


def test_name_that_is_no_text(good):
    content = good.SerializeToString()
    assert content.count(good.graph.name.encode()) == 1
    bad = content.replace(good.graph.name.encode(), b"\x80" + good.graph.name.encode()[1:])
    with pytest.raises(ModelError) as caught:
        fold_batch_norm(onnx.load_from_string(bad), verify=False)
    assert "\n" not in str(caught.value)


def test_wrong_amount_of_data(tmp_path, good):
    good.graph.initializer[0].raw_data = good.graph.initializer[0].raw_data[:-4]
    refuse(save(good, tmp_path / "a.onnx"), "should hold .* bytes", tmp_path)


def test_huge_declared_weight(tmp_path, good):
    good.graph.initializer[0].dims[:] = [2**40, 2**20]
    refuse(save(good, tmp_path / "a.onnx"), "should hold", tmp_path)


def test_huge_declared_input(tmp_path, good):
    for dim, size in zip(good.graph.input[0].type.tensor_type.shape.dim, (1, 6, 2**30, 2**30),
                         strict=True):  # fmt: skip
        dim.Clear()
        dim.dim_value = size
    del good.graph.output[0].type.tensor_type.shape.dim[:]
    for name in "abcd":
        good.graph.output[0].type.tensor_type.shape.dim.add().dim_param = name
    refuse(save(good, tmp_path / "a.onnx"), "too large to try out", tmp_path)


def test_huge_constant_of_shape(good):
    """A few bytes that would become a terabyte are not worked out."""
    shape = numpy_helper.from_array(np.array([2**40], dtype=np.int64), "shape")
    good.graph.initializer.append(shape)
    good.graph.node.insert(0, helper.make_node("ConstantOfShape", ["shape"], ["big"]))
    norm = next(n for n in good.graph.node if n.op_type == "BatchNormalization")
    norm.input[1] = "big"
    _, report = fold_batch_norm(good, verify=False)
    assert report.nodes[0].reason == "its scale is not constant"


def test_cycle(tmp_path, good):
    good.graph.node[0].input[0] = good.graph.node[-1].output[0]
    refuse(save(good, tmp_path / "a.onnx"), "not a valid ONNX model", tmp_path)


def test_unknown_input(tmp_path, good):
    good.graph.node[0].input[0] = "nowhere"
    refuse(save(good, tmp_path / "a.onnx"), "not a valid ONNX model", tmp_path)


def test_wrong_type(tmp_path, good):
    good.graph.initializer[0].data_type = 99
    refuse(save(good, tmp_path / "a.onnx"), "unknown type 99", tmp_path)


def test_integer_parameters(good):
    scale = good.graph.node[1].input[1]
    tensor = next(t for t in good.graph.initializer if t.name == scale)
    tensor.CopyFrom(numpy_helper.from_array(np.ones(tensor.dims, dtype=np.int32), scale))
    folded, report = fold_batch_norm(good)  # nothing folds, so nothing is run
    assert report.bn_left == 1
    assert report.verification is None
    assert folded is good


def external(model, path, location, *, offset=None, length=None):
    """Save the first weight of a model in another file, or say so."""
    tensor = model.graph.initializer[0]
    data = tensor.raw_data
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entries = {"location": location, "offset": offset, "length": length}
    for key, value in entries.items():
        if value is not None:
            tensor.external_data.add(key=key, value=str(value))
    path.write_bytes(model.SerializeToString())
    return data


@pytest.mark.parametrize(
    "location", ["../secret", "/etc/passwd", "a/../../secret", "", "missing.bin"]
)
def test_external_data_elsewhere(tmp_path, good, location):
    folder = tmp_path / "models"
    folder.mkdir()
    path = folder / "a.onnx"
    (tmp_path / "secret").write_bytes(b"x" * 10000)
    external(good, path, location)
    refuse(path, "outside the model's folder|is missing", tmp_path)


def test_external_data_behind_a_link(tmp_path, good):
    folder = tmp_path / "models"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(b"x" * 10000)
    (folder / "link").symlink_to(tmp_path / "secret")
    external(good, folder / "a.onnx", "link")
    refuse(folder / "a.onnx", "outside the model's folder", tmp_path)


@pytest.mark.parametrize("offset", [-8, 1, 2**60])
def test_external_data_too_short(tmp_path, good, offset):
    data = external(good, tmp_path / "a.onnx", "a.bin", offset=offset)
    (tmp_path / "a.bin").write_bytes(data)
    refuse(tmp_path / "a.onnx", "needs .* bytes at offset|no number", tmp_path)


def test_external_data_is_read(tmp_path, good):
    plain, _ = fold_batch_norm(good)
    data = external(good, tmp_path / "a.onnx", "a.bin")
    (tmp_path / "a.bin").write_bytes(data)
    folded, report = fold_batch_norm(tmp_path / "a.onnx")
    assert report.bn_left == 0
    assert folded.SerializeToString() == plain.SerializeToString()


def test_external_data_in_memory_is_refused(tmp_path, good):
    external(good, tmp_path / "a.onnx", "a.bin")
    with pytest.raises(ModelError, match="give the path"):
        read_model(good)


def sparse(tensor, *, flat=True):
    """The same tensor as indices and values."""
    array = numpy_helper.to_array(tensor)
    where = np.nonzero(array.reshape(-1))[0] if flat else np.argwhere(array)
    values = array[array != 0]
    return helper.make_sparse_tensor(
        numpy_helper.from_array(values, tensor.name),
        numpy_helper.from_array(where.astype(np.int64), f"{tensor.name}_indices"),
        array.shape,
    )


@pytest.mark.parametrize("flat", [True, False])
def test_sparse_initializers_are_kept(good, tmp_path, flat):
    """Of all weights; in the file the function is the same, the BatchNorm gone."""
    for tensor in good.graph.initializer:
        array = numpy_helper.to_array(tensor).copy()
        array.reshape(-1)[::3] = 0 if array.ndim > 1 else array.reshape(-1)[::3]
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    plain, _ = fold_batch_norm(good)
    weights = list(good.graph.initializer)
    del good.graph.initializer[:]
    good.graph.sparse_initializer.extend(sparse(t, flat=flat) for t in weights)
    folded, report = fold_batch_norm(good)
    assert report.bn_left == 0
    assert report.verification.against == "float64"
    assert folded.SerializeToString() == plain.SerializeToString()
    assert fold_file(save(good, tmp_path / "a.onnx"), tmp_path / "b.onnx").bn_left == 0


def test_sparse_constants_of_a_subgraph_are_kept():
    model = PATTERNS["if-branches"].build()
    for attribute in next(n for n in model.graph.node if n.op_type == "If").attribute:
        scale = numpy_helper.from_array(np.array([0, 2, 0, 3], np.float32), f"{attribute.name}_s")
        node = helper.make_node("Constant", [], [scale.name], sparse_value=sparse(scale))
        attribute.g.node.insert(0, node)
        norm = next(n for n in attribute.g.node if n.op_type == "BatchNormalization")
        norm.input[1] = scale.name
    _, report = fold_batch_norm(model)
    assert (report.bn_before, report.bn_left) == (2, 0)


@pytest.mark.parametrize(("index", "match"), [(-1, "."), (10**6, ".")])
def test_sparse_index_outside(good, tmp_path, index, match):
    tensor = good.graph.initializer.pop()
    wrong = sparse(tensor)
    indices = numpy_helper.to_array(wrong.indices).copy()
    indices[0] = index
    wrong.indices.CopyFrom(numpy_helper.from_array(indices, wrong.indices.name))
    good.graph.sparse_initializer.append(wrong)
    refuse(save(good, tmp_path / "a.onnx"), match, tmp_path)


def test_huge_sparse_tensor(good, tmp_path):
    tensor = good.graph.initializer.pop()
    huge = sparse(tensor)
    huge.dims[:] = [2**40]
    good.graph.sparse_initializer.append(huge)
    refuse(save(good, tmp_path / "a.onnx"), "sparse tensors dense takes", tmp_path)


def test_different_interface(good):
    with pytest.raises(ModelError, match="different inputs"):
        validate(good, PATTERNS["mlp"].build())


def test_atomic_leaves_the_old_file(tmp_path):
    path = tmp_path / "a"
    path.write_text("old")

    def write_half():
        with atomic(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_mismatch_leaves_the_old_file(tmp_path, good, monkeypatch):
    from fastbn.export import MismatchError
    from fastbn.export.fold import backward

    path = save(good, tmp_path / "a.onnx")
    target = tmp_path / "b.onnx"
    target.write_text("old")
    monkeypatch.setattr(backward, "add_bias", lambda *_: None)
    with pytest.raises(MismatchError, match="nothing was written"):
        fold_file(path, target)
    assert target.read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.onnx", "b.onnx"]


@pytest.fixture
def large(tmp_path, monkeypatch):
    """A file of external weights, and a limit that it exceeds."""
    import onnx_ir as ir

    from fastbn.export import io

    path = tmp_path / "a.onnx"
    model = PATTERNS["residual-bn-bn-add"].build()
    ir.save(ir.from_proto(model), path, external_data="a.data", size_threshold_bytes=0)
    monkeypatch.setattr(io, "PROTOBUF_LIMIT", 1000)
    return path


def test_large_weights_stay_external(large, tmp_path):
    target = tmp_path / "b.onnx"
    with pytest.raises(ModelError, match="from file to file"):
        fold_batch_norm(large)
    report = fold_file(large, target)
    assert report.bn_left == 0
    assert report.verification.agree
    assert report.verification.against == "onnxruntime"
    assert report.verification.noticed == 0
    assert "none was changed" in report.verification.unproven[-1]
    model = onnx.load(target, load_external_data=False)
    locations = {e.value for t in model.graph.initializer for e in t.external_data
                 if e.key == "location"}  # fmt: skip
    assert len(locations) == 1
    assert (tmp_path / locations.pop()).is_file()
    assert fold_batch_norm(PATTERNS["residual-bn-bn-add"].build())[1].bn_left == 0
    names = sorted(p.name for p in tmp_path.iterdir())
    assert len(names) == 4
    assert not [name for name in names if name.startswith(".")]


def test_large_models_are_prepared_as_others_are(tmp_path, monkeypatch):
    import onnx_ir as ir

    from fastbn.bench.patterns.sketch import Sketch
    from fastbn.export import io

    g = Sketch(opset=18)
    h = g.op("Block", [g.conv(g.input(3, "H", "W"), 4), *map(g.constant, g.parameters(4).values())])
    y = g.op("Reshape", [h, g.integers(0, 4, -1)])
    model = g.model(y)
    model.graph.node[1].domain = "own"
    inside = helper.make_node("BatchNormalization", ["x", "a", "b", "m", "v"], ["y"])
    opset = helper.make_opsetid("", 18)
    names = ["x", "a", "b", "m", "v"]
    model.functions.append(helper.make_function("own", "Block", names, ["y"], [inside], [opset]))
    model.opset_import.append(helper.make_opsetid("own", 1))
    kind = helper.make_tensor_value_info(y, onnx.TensorProto.FLOAT, ["N", 4, "S"])
    model.graph.output[0].CopyFrom(kind)
    weight = model.graph.initializer[0]
    model.graph.input.append(
        helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims)
    )
    ir.save(
        ir.from_proto(model), tmp_path / "a.onnx", external_data="a.data", size_threshold_bytes=64
    )
    monkeypatch.setattr(io, "PROTOBUF_LIMIT", 1000)
    report = fold_file(
        tmp_path / "a.onnx",
        tmp_path / "b.onnx",
        inline=True,
        overridable_as_constant=True,
        input_shapes={"x_1": [2, 3, 9, 9]},
    )
    assert (report.bn_before, report.bn_left) == (1, 0)
    folded = onnx.load(tmp_path / "b.onnx", load_external_data=False)
    assert not folded.functions
    assert [value.name for value in folded.graph.input] == ["x_1"]
    dims = folded.graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_value for d in dims] == [2, 3, 9, 9]


def test_large_mismatch_leaves_the_old_file(large, tmp_path, monkeypatch):
    from fastbn.export import MismatchError
    from fastbn.export.fold import backward

    target = tmp_path / "b.onnx"
    target.write_text("old")
    monkeypatch.setattr(backward, "add_bias", lambda *_: None)
    with pytest.raises(MismatchError):
        fold_file(large, target)
    assert target.read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.data", "a.onnx", "b.onnx"]
