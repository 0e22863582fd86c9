"""The zoo: names and shapes of published weights, training, and what the exporter folds."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from zoo import SMALL, small

from fastbn import models, nn, optim
from fastbn.export import to_onnx

# Number and digest of the lines "name shape" of torchvision's state_dict, and of the port of
# efficientnet_lite0 to PyTorch.
PUBLISHED = {
    "densenet121": (727, "aa0fd9923b0003b8"),
    "efficientnet_lite0": (296, "f19038aa9e94bf26"),
    "mobilenet_v2": (314, "37bbbce8932fd0c4"),
    "resnet18": (122, "84fb10d9c6905a1c"),
    "resnet34": (218, "28f9096d51307499"),
    "resnet50": (320, "d7e4f8bb0a536344"),
    "shufflenet_v2": (338, "81b349bc1cbbbc7a"),
    "vgg11_bn": (62, "8b6717e727c0ecf9"),
    "vgg16_bn": (97, "347371586a8ea365"),
    "wide_resnet50_2": (320, "41203d1d536c02ed"),
}
LINES = {
    "resnet18": ["conv1.weight (64, 3, 7, 7)", "layer2.0.downsample.1.num_batches_tracked ()"],
    "vgg16_bn": ["features.40.weight (512, 512, 3, 3)", "classifier.0.weight (4096, 25088)"],
    "mobilenet_v2": ["features.1.conv.1.weight (16, 32, 1, 1)", "classifier.1.bias (1000,)"],
    "shufflenet_v2": ["stage4.0.branch1.2.weight (232, 232, 1, 1)", "fc.weight (1000, 1024)"],
}


class Flat(np.random.Generator):
    """Initial weights that take no time."""

    def __init__(self) -> None:
        super().__init__(np.random.PCG64(0))

    def uniform(self, low: Any = 0.0, high: Any = 1.0, size: Any = None) -> Any:
        return np.broadcast_to(np.float64(high), size)


@pytest.mark.parametrize("name", PUBLISHED)
def test_weights_have_the_names_and_shapes_of_published_ones(name: str) -> None:
    state = models.build(name, rng=Flat()).state_dict()
    lines = [f"{key} {value.shape}" for key, value in state.items()]
    assert set(LINES.get(name, ())) <= set(lines)
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
    assert (len(lines), digest) == PUBLISHED[name]


def loss_of_pixels(logits: Any, target: Any) -> tuple[float, Any]:
    classes = logits.shape[-1]
    value, d = nn.CrossEntropyLoss()(logits.reshape(-1, classes), target.reshape(-1))
    return value, d.reshape(logits.shape)


@pytest.mark.parametrize("name", SMALL)
def test_it_learns_and_is_exported_without_batch_norms(name: str, tmp_path: Path) -> None:
    net = small(name, (32, 32, 3), 4, rng=0)
    x = np.random.default_rng(0).standard_normal((8, 32, 32, 3)).astype(np.float32)
    labels, loss = np.arange(8) % 4, nn.CrossEntropyLoss()
    if name == "unet":
        labels, loss = (x[..., 0] > 0) + 2 * (x[..., 1] > 0), loss_of_pixels
    optimizer = optim.Adam(net.parameters(), lr=5e-3)
    losses = []
    for _ in range(20):
        value, dlogits = loss(net(x), labels)
        net.backward(dlogits)
        optimizer.step()
        losses.append(value)
    assert losses[-1] < 0.8 * losses[0]
    report = to_onnx(net, tmp_path / "net.onnx")
    left = [entry.node for entry in report.nodes if entry.action == "kept"]
    # In DenseNet most stand between a concatenation and a ReLU, where a Max would take longer.
    assert not left or (name == "densenet121" and not any("norm2" in node for node in left))
    assert report.bn_after == len(left) < report.bn_before
    assert report.argmax_agreement == 1.0


@pytest.mark.parametrize("name", ["vgg11_bn", "efficientnet_lite0"])
def test_published_weights_load_without_a_word_on_their_layout(name: str, tmp_path: Path) -> None:
    other, net = (small(name, (40, 33, 3), 4, rng=seed) for seed in (1, 0))
    save_file(other.state_dict("NCHW"), tmp_path / "weights.safetensors")
    assert models.load_torch(net, tmp_path / "weights.safetensors") == ([], [])
    np.testing.assert_equal(net.state_dict(), other.state_dict())


def test_pixels_that_published_weights_expect() -> None:
    mean, std = models.pixels_of("efficientnet_lite0") or ((), ())
    byte = np.array([0, 127, 255])
    np.testing.assert_allclose((byte / 255 - mean) / std, (byte - 127) / 128, atol=1e-12)
    assert models.pixels_of("resnet18") == models.pixels_of("vgg16_bn")
    assert models.pixels_of("unet") is models.pixels_of(None) is None
