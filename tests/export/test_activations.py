"""Activations as ONNX operators, or as what these are made of, for old and new opsets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from fastbn import nn
from fastbn.export import compare_predictions, to_onnx

LAYERS: dict[str, Any] = {
    "ELU": lambda: nn.ELU(0.7),
    "SELU": nn.SELU,
    "SiLU": nn.SiLU,
    "GELU": nn.GELU,
    "GELU-tanh": lambda: nn.GELU("tanh"),
    "Hardsigmoid": nn.Hardsigmoid,
    "Hardswish": nn.Hardswish,
    "ReLU6": nn.ReLU6,
    "Softplus": nn.Softplus,
    "Softplus-2": lambda: nn.Softplus(2.0),
    "Mish": nn.Mish,
    "Softmax": nn.Softmax,
    "PReLU": nn.PReLU,
    "PReLU-6": lambda: nn.PReLU(6, np.linspace(-0.5, 0.5, 6)),
    "Dropout2d": nn.Dropout2d,
    "Scale": lambda: nn.Scale(1 / 9),
}
# the operator itself from this opset on
OWN = {"GELU": ("Gelu", 20), "GELU-tanh": ("Gelu", 20), "Hardswish": ("HardSwish", 14),
       "Mish": ("Mish", 18)}  # fmt: skip


@pytest.mark.parametrize("opset", [9, 13, 18, 21])
@pytest.mark.parametrize("name", LAYERS)
def test_behind_a_convolution(name: str, opset: int, tmp_path: Path) -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3, rng=0), nn.BatchNorm(6), LAYERS[name](), nn.Conv2d(6, 4, 1, rng=1)
    ).eval()
    report = to_onnx(net.build((5, 6, 3)), tmp_path / "net.onnx", opset=opset, allow_untrained=True)
    assert report.bn_after == 0
    assert report.max_rel_f64 < 1e-5
    x = 3 * np.random.default_rng(0).standard_normal((4, 5, 6, 3)).astype(np.float32)
    assert compare_predictions(net, tmp_path / "net.onnx", x).max_rel < 1e-5
    operators = {node.op_type for node in onnx.load(tmp_path / "net.onnx").graph.node}
    if name in OWN:
        operator, first = OWN[name]
        assert (operator in operators) == (opset >= first)


@pytest.mark.parametrize("name", ["PReLU-12", "Softmax", "GELU"])
def test_behind_a_flatten(name: str, tmp_path: Path) -> None:
    """ONNX has the features in another order: the slopes follow."""
    layers = {**LAYERS, "PReLU-12": lambda: nn.PReLU(12, np.linspace(-0.5, 0.5, 12))}
    net = nn.Sequential(
        nn.Conv2d(2, 3, 2, rng=0), nn.Flatten(), layers[name](), nn.Linear(12, 4, rng=1)
    ).eval()
    to_onnx(net.build((3, 3, 2)), tmp_path / "net.onnx")
    x = np.random.default_rng(0).standard_normal((4, 3, 3, 2)).astype(np.float32)
    assert compare_predictions(net, tmp_path / "net.onnx", x).max_rel < 1e-5
