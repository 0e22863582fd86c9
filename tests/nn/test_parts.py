"""Parts of networks: new heads, and cuts that share layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from zoo import small

from fastbn import models, nn, optim
from fastbn.nn.parts import cut, head_of, with_new_head

PHOTOGRAPHS = sorted(set(models.names()) - {"unet"})


def batch(rng: np.random.Generator) -> Any:
    return rng.standard_normal((4, 32, 32, 3)).astype(np.float32)


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_a_network_is_its_two_parts(name: str, rng: np.random.Generator) -> None:
    net = small(name, (32, 32, 3), 7, rng=0)
    keys = list(net.state_dict())
    head = with_new_head(net, 4, rng=1)
    assert head is head_of(net)
    assert list(net.state_dict()) == keys
    parts = cut(net, {module for module in net.modules() if module is not head})
    assert parts is not None
    front, rest = parts
    x = batch(rng)
    expected = net.predict(x)
    assert expected.shape == (4, 4)
    np.testing.assert_array_equal(rest.predict(front.predict(x)), expected)

    before = net.state_dict()
    optimizer = optim.SGD(rest.parameters(), lr=0.1)
    y = rest(front.predict(x))
    rest.backward(y)
    optimizer.step()
    after = net.state_dict()
    changed = {key for key, value in after.items() if (value != before[key]).any()}
    assert changed == {key for key in keys if key.startswith(head.path + ".")}


def test_a_cut_goes_where_one_value_passes() -> None:
    net = small("resnet18", (32, 32, 3), 7, rng=0)
    layers = dict(net.named_modules())
    frozen = {layers[name] for name in ("conv1", "bn1", "layer1.0.conv1", "layer1.0.bn1")}
    parts = cut(net, frozen)  # inside the first block two values are on their way
    assert parts is not None
    assert [name for name, _ in parts[0].named_parameters()] == [
        "conv1.weight", "bn1.weight", "bn1.bias",
    ]  # fmt: skip
    assert "layer1.0.conv1.weight" in dict(parts[1].named_parameters())
    assert cut(net, set()) is None
    assert cut(net, {layers["layer2.0.conv1"]}) is None
    assert cut(nn.Linear(3, 4), set()) is None


def test_dropout_is_no_part_of_what_stays() -> None:
    net = models.mobilenet_v2((32, 32, 3), 7, width=0.25, dropout=0.5, rng=0)
    head = head_of(net)
    parts = cut(net, {module for module in net.modules() if module is not head})
    assert parts is not None
    assert [type(layer).__name__ for layer, _ in parts[1].nodes] == ["Dropout", "Linear"]  # type: ignore[attr-defined]


def test_softmax_behind_the_head_goes() -> None:
    x = nn.Input((6,))
    net = nn.Graph(x, nn.Softmax()(nn.Linear(6, 5, rng=0)(nn.ReLU()(x))))
    with_new_head(net, 3, rng=0)
    assert [type(layer) for layer, _ in net.nodes] == [nn.ReLU, nn.Linear]
    assert net.output_shape((6,)) == (3,)
    y = net(np.ones((2, 6), np.float32))
    assert y.shape == (2, 3)


def test_what_has_no_head_is_refused() -> None:
    with pytest.raises(ValueError, match="head should be a Linear or Conv2d, it is BatchNorm '1'"):
        head_of(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm(3)))
    with pytest.raises(ValueError, match="is a single layer"):
        with_new_head(nn.Linear(2, 3), 4)
    net = models.unet((16, 16, 1), 2, width=2, depth=1, rng=0)
    with pytest.raises(ValueError, match=r"Conv2d 'head', .* 3 classes, the network gives"):
        with_new_head(net, 3)
