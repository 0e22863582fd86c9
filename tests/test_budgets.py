"""Files that ask for more than their size justifies, in this process."""

from __future__ import annotations

import gzip
import struct

import hostile
import numpy as np
import onnx
import pytest

from fastbn import budgets, data, train
from fastbn.export import ModelError, fold_file, validate
from fastbn.export.samples import read_npz


def written(name, folder):
    """Write a hostile file; the command's arguments tell where."""
    return hostile.FILES[name](folder)[1]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nested_functions", r"82 nodes become about 2\^40"),
        ("recursive_function", "'f' calls itself"),
        ("sparse_tensor_of_terabytes", r"takes 4\.4 TB"),
    ],
)
def test_models_are_refused_before_they_run(tmp_path, name, message):
    source = written(name, tmp_path)
    with pytest.raises(ModelError, match=message) as caught:
        fold_file(source, tmp_path / "out.onnx")
    assert isinstance(caught.value, budgets.BudgetError) or name == "recursive_function"
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out.onnx").exists()


def test_an_endless_loop_is_not_tried_out(tmp_path):
    """Where nothing folds nothing is run, so that folding needs no loop to end."""
    source = written("endless_loop", tmp_path)
    with pytest.raises(budgets.BudgetError, match=r"execute about 2\^63 nodes"):
        validate(source)
    assert fold_file(source, tmp_path / "out.onnx").bn_left == 1


def test_loops_run_if_they_end(tmp_path):
    hostile.loop_model(tmp_path, 1000)
    assert validate(tmp_path / "a.onnx").agree
    with pytest.raises(ModelError, match=r"execute about 2\^63 nodes"):
        validate(written("endless_loop", tmp_path))


def test_turns_of_a_computed_condition_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr("fastbn.export.evaluator.EXECUTED", 1000)
    with pytest.raises(ModelError, match="execute more than 1,000 nodes"):
        validate(written("loop_whose_condition_is_computed", tmp_path))


@pytest.mark.parametrize(
    "name", ["many_large_constants", "constants_doubled_by_concat", "outer_sum_of_constants"]
)
def test_constants_are_made_only_as_far_as_the_budget_goes(tmp_path, name):
    """What is too large is left to the runtime; a file is written, because nothing is run."""
    source = written(name, tmp_path)
    fold_file(source, tmp_path / "out.onnx", verify=False)
    kept = [node.op_type for node in onnx.load(tmp_path / "out.onnx").graph.node]
    assert {"ConstantOfShape", "Concat", "Range"} & set(kept)


def test_npz(tmp_path):
    for name, message in (
        ("npz_of_zeros", r"a\.npz, unpacked, takes 268\.4 MB .* --max-memory"),
        ("npz_that_declares_a_terabyte", "not a whole .npz file"),
    ):
        written(name, tmp_path)
        with pytest.raises(ValueError, match=message):
            read_npz(tmp_path / "a.npz")


def test_a_network_is_not_made_larger_than_its_file(tmp_path):
    for name, message in (
        ("network_larger_than_its_file", "describes a larger network"),
        ("image_of_terabytes", "describes a larger network"),
        ("metadata_nested_without_end", "not one of fastbn's"),
        ("metadata_of_wrong_types", "the arguments of mlp in its metadata are wrong"),
        ("classes_of_wrong_length", "name 2 classes, the network has 10 outputs"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            train.load(written(name, tmp_path))
        assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    "normalization",
    [
        {"mean": [0.5]},
        {"mean": 1, "std": 2},
        {"mean": [0], "std": [0]},
        {"mean": ["a"], "std": [1]},
    ],
)
def test_normalization_of_a_wrong_type(tmp_path, normalization):
    hostile.weights(tmp_path, hostile.mlp(input_normalization=normalization))
    with pytest.raises(ValueError, match="metadata of wrong type: input_normalization"):
        train.read(tmp_path / "a.safetensors")


def test_gz(tmp_path):
    """A file of zeros unpacks to a thousand times its size."""
    with gzip.open(tmp_path / "images.gz", "wb", compresslevel=1) as stream:
        stream.write(struct.pack(">4I", 0x803, 1 << 14, 64, 64))
        for _ in range(4):
            stream.write(bytes(1 << 24))
    with (
        budgets.limits(memory="100MB"),
        pytest.raises(ValueError, match=r"unpacked, takes 335.5 MB of memory, allowed are 100\.0"),
    ):
        data.idx.read_idx(tmp_path / "images.gz", 3)
    assert data.idx.read_idx(tmp_path / "images.gz", 3).shape == (1 << 14, 64, 64)


def test_labels_as_numpy_finds_them_are_class_names(tmp_path):
    from fastbn import models

    net = models.mlp((8, 8, 1), classes=3, rng=0)
    train.save(net, tmp_path / "a.safetensors", classes=np.unique([2, 0, 1]))
    assert train.read(tmp_path / "a.safetensors")[1].classes == ["0", "1", "2"]


@pytest.mark.parametrize("text", ["", "-1", "0", "lots", "1XB", "nan", "5 GBB"])
def test_sizes_that_are_none(text):
    with pytest.raises(ValueError, match="expected a size as in 500MB"):
        budgets.parse_bytes(text)
