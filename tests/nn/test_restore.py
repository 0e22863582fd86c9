"""BatchNorms put behind convolutions: nothing changes, and training has them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastbn import models, nn, optim
from fastbn.export import from_onnx, to_onnx


def images(rows: int, size: int = 8, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((rows, size, size, 3)) * 2 + 1).astype(np.float32)


def block() -> nn.Residual:
    return nn.Residual(
        nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, rng=1), nn.ReLU(), nn.Conv2d(4, 4, 1, rng=2)),
        nn.Conv2d(4, 4, 1, rng=3),
    )


def chain() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, rng=0),
        nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 1, bias=False, rng=5)),
        nn.BatchNorm(4),  # of the convolution before, in the Sequential inside
        block(),
        nn.Concat(nn.Conv2d(4, 2, 1, rng=6), nn.Sequential(nn.ConvTranspose2d(4, 3, 1, rng=7))),
        nn.Flatten(),
        nn.Linear(180, 2, rng=8),
    )


def graph() -> nn.Graph:
    x = nn.Input((8, 8, 3))
    h = nn.Conv2d(3, 4, 3, padding=1, rng=0)(x)
    a = nn.BatchNorm(4)(nn.Conv2d(4, 4, 3, padding=1, rng=1)(h))
    y = nn.add(nn.ReLU()(a), h)
    other = nn.Conv2d(4, 2, 1, rng=2)(y)
    net = nn.Graph(x, (nn.Linear(4, 2, rng=3)(nn.GlobalAvgPool2d()(y)), other))
    return net.name(h, "stem.conv")


@pytest.mark.parametrize(("make", "count"), [(chain, 6), (graph, 2)])
@pytest.mark.parametrize("batches", [False, True])
def test_the_function_stays(make: Any, count: int, batches: bool) -> None:
    net, x = make(), images(40)
    net(x)
    net.discard()
    norms = sum(isinstance(layer, nn.BatchNorm) for layer in net.modules())
    before, state = net.predict(x), net.state_dict()
    data = [x[:15], x[15:]] if batches else x
    assert nn.restore_batch_norm(net, data) is net
    assert sum(isinstance(layer, nn.BatchNorm) for layer in net.modules()) == norms + count
    after = net.predict(x)
    pairs = [(before, after)] if type(before) is not tuple else zip(before, after, strict=True)
    for old, new in pairs:
        assert np.abs(old - new).max() < 2e-6 * np.abs(old).max()
    if make is graph:
        assert state.keys() <= net.state_dict().keys()
        assert "stem.conv_bn.running_mean" in net.state_dict()
    nn.restore_batch_norm(net, x)  # all have one by now
    assert sum(isinstance(layer, nn.BatchNorm) for layer in net.modules()) == norms + count


def test_statistics_are_those_of_the_data() -> None:
    net, x = nn.Sequential(nn.Conv2d(3, 4, 3, rng=0)), images(40)
    y = net.predict(x).astype(np.float64)
    nn.restore_batch_norm(net, x, batch_size=7)
    norm = net[1]
    assert isinstance(norm, nn.BatchNorm)
    np.testing.assert_allclose(norm.running_mean, y.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(norm.running_var, y.var((0, 1, 2)), rtol=1e-5)
    net.train()
    np.testing.assert_allclose(net(x), y, atol=1e-5)  # the data's own statistics are the batch's


def test_a_folded_file_gets_its_batch_norms_back(tmp_path: Any) -> None:
    net = models.build("resnet20", input_shape=(16, 16, 3), classes=4, rng=0)
    x = images(24, 16)
    net(x)
    to_onnx(net, tmp_path / "a.onnx", verify=False)
    folded = from_onnx(tmp_path / "a.onnx")
    assert not any(isinstance(layer, nn.BatchNorm) for layer in folded.modules())
    before = folded.predict(x)
    nn.restore_batch_norm(folded, x)
    convolutions = sum(isinstance(layer, nn.Conv2d) for layer in folded.modules())
    assert sum(isinstance(layer, nn.BatchNorm) for layer in folded.modules()) == convolutions
    assert np.abs(folded.predict(x) - before).max() < 1e-5 * np.abs(before).max()
    labels = np.arange(24) % 4
    loss, sgd = nn.CrossEntropyLoss(), optim.SGD(folded.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for _ in range(10):
        value, dy = loss(folded(x), labels)
        folded.backward(dy)
        sgd.step()
        losses.append(float(value))
    assert losses[-1] < 0.98 * losses[0], losses
    report = to_onnx(folded, tmp_path / "b.onnx")
    assert report.bn_before == convolutions
    assert report.bn_left == 0


def test_what_is_refused() -> None:
    net = chain()
    before = net.state_dict()
    with pytest.raises(ValueError, match="there are no batches"):
        nn.restore_batch_norm(net, [])
    assert net.state_dict().keys() == before.keys()
    with pytest.raises(ValueError, match="put the convolution into a Sequential first"):
        nn.restore_batch_norm(nn.Conv2d(3, 3, 1), images(2))


def test_insert_names_by_place() -> None:
    net = nn.Sequential(nn.Linear(2, 2, rng=0), nn.Linear(2, 2, rng=1))
    net.insert(1, nn.Linear(2, 2, rng=2))
    assert [layer.path for layer in net] == ["0", "1", "2"]
    assert net(np.ones((1, 2), np.float32)).shape == (1, 2)
    with pytest.raises(ValueError, match="used twice"):
        net.insert(0, net[1])
