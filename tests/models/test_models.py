"""Models: shapes, seeds, names, what a network remembers of its factory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastbn import models, nn


@pytest.mark.parametrize("name", models.names())
@pytest.mark.parametrize(("shape", "classes"), [((8, 8, 1), 10), ((32, 32, 3), 7), ((9, 12, 2), 2)])
def test_every_model_takes_images(name: str, shape: tuple[int, ...], classes: int) -> None:
    net = models.build(name, input_shape=shape, classes=classes, rng=0)
    assert net.input_shape == shape
    assert net.output_shape(shape) == (classes,)
    x = np.random.default_rng(0).random((2, *shape), dtype=np.float32)
    y = net(x)
    assert y.shape == (2, classes)
    net.backward(np.ones_like(y))
    assert all(parameter.grad is not None for parameter in net.parameters())


@pytest.mark.parametrize("name", models.names())
def test_seeds_and_dtypes(name: str) -> None:
    state = models.build(name, rng=5).state_dict()
    for key, value in models.build(name, rng=5, dtype="float64").state_dict().items():
        np.testing.assert_array_equal(value.astype(state[key].dtype), state[key])
    weights = [key for key, value in state.items() if value.ndim > 1]
    other = models.build(name, rng=6).state_dict()
    assert all((other[key] != state[key]).any() for key in weights)


def test_mlp_is_that_of_the_tutorials() -> None:
    assert [repr(layer) for layer in models.mlp()] == [
        "Flatten()",
        "Linear(784, 128)", "BatchNorm(128)", "ReLU()",
        "Linear(128, 64)", "BatchNorm(64)", "ReLU()",
        "Linear(64, 10)",
    ]  # fmt: skip


def test_convnet_has_five_weight_layers() -> None:
    net = models.convnet()
    weighted = [type(layer) for layer in net if isinstance(layer, nn.Linear | nn.Conv2d)]
    assert weighted == [nn.Conv2d] * 3 + [nn.Linear] * 2
    assert sum(isinstance(layer, nn.BatchNorm) for layer in net) == 3
    with pytest.raises(ValueError, match=r"convnet: input_shape should be .* at least 8, got \(7"):
        models.convnet((7, 8, 1))
    with pytest.raises(ValueError, match="convnet: input_shape should be"):
        models.convnet((784,))


def test_networks_remember_their_factory() -> None:
    net = models.convnet((8, 8, 1), classes=3, channels=(4, 4), rng=0)
    assert net.factory is not None
    name, arguments = net.factory
    assert name == "convnet"
    assert arguments == {
        "input_shape": (8, 8, 1),
        "classes": 3,
        "channels": (4, 4),
        "hidden": 128,
        "dtype": "float32",
    }
    again = models.build(name, **arguments)
    again.load_state_dict(net.state_dict())


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("resnet9000", {}, "there is no model 'resnet9000'; the models are .*mlp"),
        ("mlp", {"depth": 3}, "model 'mlp' takes no argument depth; it takes input_shape"),
    ],
)
def test_unknown_names_are_refused(name: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        models.build(name, **arguments)
