"""``fastbn demo``: everything it promises, run once."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from fastbn import data, train

pytest.importorskip("sklearn", reason="the digits are part of scikit-learn")

KEYS = {
    "test_accuracy",
    "steps",
    "images_per_second",
    "bn_before",
    "bn_after",
    "max_abs_ort",
    "max_rel_ort",
    "max_abs_f64",
    "max_rel_f64",
    "argmax_agreement",
}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, run: Callable[..., int]) -> tuple[Path, str]:
    """Folder and printed text of one run."""
    folder = tmp_path_factory.mktemp("demo")
    printed = io.StringIO()
    with redirect_stdout(printed):
        assert run("demo", "--output", folder) == 0
    return folder, printed.getvalue()


@pytest.fixture(scope="module")
def report(demo: tuple[Path, str]) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((demo[0] / "report.json").read_text(encoding="utf-8"))
    return loaded


def test_report(report: dict[str, Any]) -> None:
    assert report.keys() >= KEYS
    assert report["test_accuracy"] >= 0.97
    assert report["steps"] == 12 * 45  # 1,437 images in batches of 32
    assert report["bn_before"] == 3
    assert report["bn_after"] == 0
    assert report["argmax_agreement"] == 1.0
    assert len(report["history"]) == 12


def test_page_has_the_network_beside_it(demo: tuple[Path, str]) -> None:
    names = {path.name for path in (demo[0] / "web").iterdir()}
    assert names == {"index.html", "web.css", "web.js", "model.onnx"}


def test_table_shows_what_the_report_says(demo: tuple[Path, str], report: dict[str, Any]) -> None:
    assert "test_accuracy" in demo[1]
    assert f"{report['test_accuracy']:.4g}" in demo[1]


def test_model_file_computes_what_the_weights_do(demo: tuple[Path, str]) -> None:
    folder, _ = demo
    net = train.load(folder / "model.safetensors", inference=True)
    digits = data.load("digits")
    expected = net.predict(digits.x_test)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(folder / "model.onnx", options)
    [name] = [given.name for given in session.get_inputs()]
    [found] = session.run(None, {name: np.ascontiguousarray(digits.x_test.transpose(0, 3, 1, 2))})
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert "BatchNormalization" not in {
        node.op_type for node in onnx.load(folder / "model.onnx").graph.node
    }


def test_weights_know_their_classes(demo: tuple[Path, str]) -> None:
    _, metadata = train.read(demo[0] / "model.safetensors")
    assert metadata.model == "convnet"
    assert metadata.input_shape == [8, 8, 1]
    assert metadata.classes == list("0123456789")


def test_curves(demo: tuple[Path, str]) -> None:
    pytest.importorskip("matplotlib")
    raw = (demo[0] / "training.png").read_bytes()
    assert raw.startswith(b"\x89PNG")
    assert "training.png" in demo[1]
