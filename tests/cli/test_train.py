"""``fastbn train`` and ``fastbn export``: networks by name, and networks of one's own."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from fastbn import nn, train
from fastbn.train.factory import factory, network
from fastbn.train.report import write_report

Run = Callable[..., int]

OWN = """
from fastbn import nn

def small(input_shape, classes, rng=None):
    height, width, channels = input_shape
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(height * width * channels, 16, rng=rng),
        nn.BatchNorm(16),
        nn.ReLU(),
        nn.Linear(16, classes, rng=rng),
    )

def unseeded(input_shape, classes):
    return small(input_shape, classes)

def nothing(input_shape, classes):
    return None
"""


@pytest.fixture(autouse=True)
def _own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module in the current directory, which is not on the path."""
    (tmp_path / f"own_{os.getpid()}.py").write_text(OWN, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])


@pytest.fixture
def own() -> str:
    return f"own_{os.getpid()}"


pytest.importorskip("sklearn", reason="the digits are part of scikit-learn")


def train_digits(run: Run, model: str, *options: str) -> int:
    return run(
        "train",
        model,
        "--data",
        "digits",
        "--output",
        "run",
        "--epochs",
        "2",
        *options,
        "--overwrite",
    )


def test_train_writes_weights_report_and_curves(
    run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert train_digits(run, "mlp", "--batch-size", "32") == 0
    assert "test_accuracy" in capsys.readouterr().out
    report = json.loads((tmp_path / "run/report.json").read_text(encoding="utf-8"))
    assert report["test_accuracy"] > 0.85
    assert report["steps"] == 2 * 45
    assert [row["epoch"] for row in report["history"]] == [1, 2]
    assert report["history"][-1]["val_accuracy"] is None  # the test set is for the end
    net = train.load(tmp_path / "run/model.safetensors")
    assert net.output_shape((8, 8, 1)) == (10,)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_same_seed_same_weights(run: Run, tmp_path: Path, optimizer: str) -> None:
    path = tmp_path / "run/model.safetensors"
    states = []
    for seed in ("1", "1", "2"):
        options = ("--optimizer", optimizer, "--seed", seed, "--weight-decay", "0.001")
        assert train_digits(run, "mlp", *options) == 0
        states.append(train.read(path)[0])
    np.testing.assert_equal(states[0], states[1])
    assert (states[0]["1.weight"] != states[2]["1.weight"]).any()


def test_learning_rate_is_passed_on(run: Run, tmp_path: Path) -> None:
    assert train_digits(run, "mlp", "--lr", "0") == 0
    state, _ = train.read(tmp_path / "run/model.safetensors")
    rng = np.random.default_rng(0)
    initial = factory("mlp")(input_shape=(8, 8, 1), classes=10, rng=rng).state_dict()
    np.testing.assert_array_equal(state["1.weight"], initial["1.weight"])


def test_learning_rate_falls_to_the_final_one(
    run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    options = ("--epochs", "3", "--lr", "0.01", "--final-lr", "0.0001")
    assert train_digits(run, "mlp", *options) == 0
    report = json.loads((tmp_path / "run/report.json").read_text(encoding="utf-8"))
    assert [row["epoch"] for row in report["history"]] == [1, 2, 3]
    assert [row["lr"] for row in report["history"]] == pytest.approx([1e-2, 1e-3, 1e-4])
    assert train_digits(run, "mlp", "--final-lr", "0") == 2
    assert "above 0" in capsys.readouterr().err


def test_export_knows_the_network(run: Run, tmp_path: Path) -> None:
    train_digits(run, "mlp")
    assert run("export", "run/model.safetensors", "-o", "m.onnx") == 0
    model = onnx.load(tmp_path / "m.onnx")
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
    assert run("validate", "m.onnx") == 0


def test_export_unfolded(run: Run, tmp_path: Path) -> None:
    train_digits(run, "mlp")
    assert run("export", "run/model.safetensors", "-o", "m.onnx", "--no-fold") == 0
    nodes = [node.op_type for node in onnx.load(tmp_path / "m.onnx").graph.node]
    assert nodes.count("BatchNormalization") == 2


def test_own_network(
    run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path, own: str
) -> None:
    assert train_digits(run, f"{own}:small") == 0
    _, metadata = train.read(tmp_path / "run/model.safetensors")
    assert metadata.model == f"{own}:small"
    assert run("export", "run/model.safetensors", "-o", "m.onnx") == 2
    error = capsys.readouterr().err
    assert f"{own}:small" in error
    assert "--model" in error
    assert run("export", "run/model.safetensors", "-o", "m.onnx", "--model", f"{own}:small") == 0
    assert (tmp_path / "m.onnx").is_file()


def test_a_factory_need_not_take_rng(run: Run, own: str) -> None:
    assert train_digits(run, f"{own}:unseeded") == 0


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["train", "mpl", "--data", "digits", "-o", "run"], "expected convnet, "),
        (["train", "convnt", "--data", "digits", "-o", "run"], "did you mean 'convnet'?"),
        (["train", "nowhere:net", "--data", "digits", "-o", "run"], "No module named 'nowhere'"),
        (["train", "fastbn.nn:Nothing", "--data", "digits", "-o", "run"], "'Nothing'"),
        (["train", "OWN:nothing", "--data", "digits", "-o", "run"], "returned NoneType"),
        (["train", "mlp", "--data", "digit", "-o", "run"], "expected one of digits"),
        (["train", "mlp", "--data", "digits", "-o", "run", "--optimizer", "lion"], "'lion'"),
        (["train", "mlp", "--data", "digits", "-o", "run", "--epochs", "0"], "--epochs"),
        (["export", "nowhere.safetensors", "-o", "m.onnx"], "nowhere.safetensors"),
        (["export", "OWN.py", "-o", "m.onnx"], "OWN.py: not a whole safetensors file"),
    ],
)
def test_wrong_use_is_one_line(
    run: Run,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    own: str,
    arguments: list[str],
    expected: str,
) -> None:
    assert run(*(argument.replace("OWN", own) for argument in arguments)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert expected.replace("OWN", own) in error
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "m.onnx").exists()


def test_weights_of_another_network(run: Run, capsys: pytest.CaptureFixture[str], own: str) -> None:
    train_digits(run, "mlp")
    assert run("export", "run/model.safetensors", "-o", "m.onnx", "--model", f"{own}:small") == 2
    assert "run/model.safetensors: " in capsys.readouterr().err


def test_report_has_null_for_what_is_not_finite(tmp_path: Path) -> None:
    write_report(tmp_path / "r.json", {"a": float("nan"), "b": [1.0, float("inf")], "c": "x"})
    loaded = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert loaded == {"a": None, "b": [1.0, None], "c": "x"}


def test_network_is_in_inference_mode(run: Run) -> None:
    train_digits(run, "mlp")
    net, metadata = network("run/model.safetensors")
    assert isinstance(net, nn.Module)
    assert not net.training
    assert metadata.classes == list("0123456789")


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_validate_on_real_images(run: Run, capsys: pytest.CaptureFixture[str], layout: str) -> None:
    train_digits(run, "convnet", "--epochs", "1")
    weights = "run/model.safetensors"
    assert run("export", weights, "-o", "m.onnx", "--layout", layout) == 0
    capsys.readouterr()
    compare = ("validate", "m.onnx", "--data", "digits", "--weights")
    assert run(*compare, weights) == 0
    printed = capsys.readouterr().out
    assert re.search(r"argmax_equal\W+360\b", printed)
    train_digits(run, "convnet", "--seed", "1", "--epochs", "1")
    assert run(*compare, weights) == 1


def test_validate_needs_weights_and_data(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("validate", "m.onnx", "--weights", "w.safetensors") == 2
    assert "give both --weights and --data" in capsys.readouterr().err
