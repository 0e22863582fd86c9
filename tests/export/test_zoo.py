"""The networks for small images, exported, in onnxruntime at every optimisation level.

Those for photographs are exported in ``tests/models/test_zoo.py``.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from zoo import SMALL

from fastbn import models
from fastbn.export import to_onnx

IMAGE = (32, 32, 3)
LEVELS = sorted(ort.GraphOptimizationLevel.__members__)


def test_the_levels_are_known():
    assert {"ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL"} <= set(
        LEVELS
    )


def outputs(path, level, x):
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.__members__[level]
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


@pytest.mark.parametrize(
    ("layout", "precision", "tolerance"),
    [
        ("NCHW", "float32", 1e-5),
        ("NHWC", "float32", 1e-5),
        ("NCHW", "float16", 0.02),
        ("NCHW", "int8", 0.3),
    ],
)
@pytest.mark.parametrize("name", sorted(set(models.names()) - set(SMALL)))
def test_at_every_level(tmp_path, name, layout, precision, tolerance):
    rng = np.random.default_rng(0)
    net = models.build(name, input_shape=IMAGE, classes=10, rng=0)
    net(rng.standard_normal((16, *IMAGE)).astype(np.float32))  # running statistics
    x = rng.standard_normal((5, *IMAGE)).astype(np.float32)
    path = tmp_path / "net.onnx"
    report = to_onnx(net, path, input_layout=layout, precision=precision, calibration=x)
    assert report.bn_after == 0
    onnx.checker.check_model(str(path), full_check=True)
    given = x if layout == "NHWC" else np.ascontiguousarray(np.moveaxis(x, -1, 1))
    expected = net.predict(x)
    for level in LEVELS:
        y = outputs(path, level, given)
        assert np.abs(y - expected).max() < tolerance * np.abs(expected).max(), level
