"""Sample norms as ONNX nodes: the same outputs from onnxruntime, in every opset and order."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from fastbn import nn
from fastbn.export import compare_predictions, to_onnx

NETWORKS = {
    "layer, features": ((6,), lambda: [nn.LayerNorm(6), nn.Linear(6, 3, rng=0)]),
    "layer, image": ((4, 5, 6), lambda: [nn.LayerNorm((4, 5, 6))]),
    "layer, channels": ((4, 5, 6), lambda: [nn.LayerNorm(6, bias=False)]),
    "layer, flattened": (
        (2, 3, 4),
        lambda: [nn.Flatten(), nn.LayerNorm(24), nn.Linear(24, 3, rng=0)],
    ),
    "rms": ((4, 5, 6), lambda: [nn.RMSNorm(6)]),
    "rms, features": ((6,), lambda: [nn.RMSNorm(6, eps=0.1)]),
    "group": ((4, 5, 6), lambda: [nn.GroupNorm(3, 6), nn.ReLU()]),
    "group, flattened": (
        (2, 3, 4),
        lambda: [nn.Flatten(), nn.GroupNorm(3, 24), nn.Linear(24, 3, rng=0)],
    ),
    "group behind a BN": (
        (6, 6, 3),
        lambda: [nn.Conv2d(3, 8, 3, rng=0), nn.BatchNorm(8), nn.GroupNorm(2, 8, affine=False)],
    ),
    "instance": ((4, 5, 6), lambda: [nn.InstanceNorm(6)]),
    "instance, affine": ((4, 5, 6), lambda: [nn.InstanceNorm(6, affine=True)]),
}


def norm_and(linear: nn.Module, norm: nn.Module, *between: nn.Module) -> nn.Sequential:
    net = nn.Sequential(norm, *between, linear)
    rng = np.random.default_rng(2)
    for parameter in net.parameters():
        parameter.data = rng.standard_normal(parameter.shape)
    return net.eval()


FOLDED = {
    "layer, linear": ((6,), lambda: norm_and(nn.Linear(6, 3), nn.LayerNorm(6))),
    "layer, linear of rows": ((5, 6), lambda: norm_and(nn.Linear(6, 3), nn.LayerNorm(6))),
    "rms, linear": ((6,), lambda: norm_and(nn.Linear(6, 3), nn.RMSNorm(6))),
    "group, 1x1": ((4, 5, 6), lambda: norm_and(nn.Conv2d(6, 3, 1), nn.GroupNorm(2, 6))),
    "group, 3x3": ((4, 5, 6), lambda: norm_and(nn.Conv2d(6, 3, 3), nn.GroupNorm(2, 6))),
    "instance, depthwise": (
        (4, 5, 6),
        lambda: norm_and(nn.Conv2d(6, 6, 3, groups=6), nn.InstanceNorm(6, affine=True)),
    ),
    "image, flatten, linear": (
        (2, 3, 4),
        lambda: norm_and(nn.Linear(24, 3), nn.LayerNorm((2, 3, 4)), nn.Flatten()),
    ),
}
KEPT = {
    "a bias and a border": (
        (4, 5, 6),
        lambda: norm_and(nn.Conv2d(6, 3, 3, padding=1), nn.GroupNorm(2, 6)),
    ),
    "a curve": ((6,), lambda: norm_and(nn.Linear(6, 3), nn.LayerNorm(6), nn.SiLU())),
}


@pytest.mark.parametrize(
    ("name", "opset"),
    [
        (name, opset)
        for name in (*FOLDED, *KEPT)
        for opset in (18, 21, 23)
        if opset >= 23 or not name.startswith("rms")  # a formula before opset 23
    ],
)
def test_weight_and_bias_go_into_what_is_linear_behind(
    name: str, opset: int, tmp_path: Any
) -> None:
    shape, make = (FOLDED | KEPT)[name]
    net, files = make(), (tmp_path / "plain.onnx", tmp_path / "folded.onnx")
    to_onnx(net, files[0], input_shape=shape, opset=opset, fold=False)
    report = to_onnx(net, files[1], input_shape=shape, opset=opset)
    plain, folded = (onnx.load(file) for file in files)
    before, after = ([node.op_type for node in model.graph.node] for model in (plain, folded))
    assert len(report.sample_norms) == (name in FOLDED)
    x = np.random.default_rng(3).standard_normal((5, *shape)).astype(np.float32)
    assert compare_predictions(net, files[1], x).max_rel < 1e-5
    if name in KEPT:
        assert before == after
        return
    values = {t.name: onnx.numpy_helper.to_array(t) for t in folded.graph.initializer}
    norm = next(node for node in folded.graph.node if "Normalization" in node.op_type)
    parameters = [values[given] for given in norm.input[1:]]
    assert all(set(np.unique(each)) <= {0.0, 1.0} for each in parameters)
    if before != after:  # Mul and Add of a GroupNorm in older opsets
        assert opset == 18
        assert set(before) - set(after) == {"Mul", "Add"}


@pytest.mark.parametrize("opset", [17, 18, 21, 23])
@pytest.mark.parametrize("name", NETWORKS)
def test_files_compute_the_same(name: str, opset: int, tmp_path: Any) -> None:
    shape, make = NETWORKS[name]
    net = nn.Sequential(*make())
    rng = np.random.default_rng(1)
    for parameter in net.parameters():
        parameter.data = rng.standard_normal(parameter.shape)
    net(rng.standard_normal((8, *shape)).astype(np.float32))
    net.discard()
    net.eval()
    file = tmp_path / "model.onnx"
    to_onnx(net, file, opset=opset)
    x = rng.standard_normal((5, *shape)).astype(np.float32)
    report = compare_predictions(net, file, x)
    assert report.max_rel < 1e-5
