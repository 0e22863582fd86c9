"""Sample norms as ONNX nodes: the same outputs from onnxruntime, in every opset and order."""

from __future__ import annotations

from typing import Any

import numpy as np
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
