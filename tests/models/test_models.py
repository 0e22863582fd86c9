"""Models: shapes, seeds, names, what a network remembers of its factory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from zoo import LEAST, answers, small, takes

from fastbn import models, nn


@pytest.mark.parametrize("name", models.names())
@pytest.mark.parametrize(
    ("shape", "classes"), [((8, 8, 1), 10), ((32, 32, 3), 7), ((9, 12, 2), 2), ((45, 33, 1), 3)]
)
def test_every_model_takes_images(name: str, shape: tuple[int, ...], classes: int) -> None:
    if not takes(name, shape):
        with pytest.raises(
            ValueError, match=rf"{name}: input_shape .* at least {LEAST[name]}, got"
        ):
            small(name, shape, classes)
        return
    net = small(name, shape, classes, rng=0)
    assert net.input_shape == shape
    assert net.output_shape(shape) == answers(name, shape, classes)
    x = np.random.default_rng(0).random((2, *shape), dtype=np.float32)
    y = net(x)
    assert y.shape == (2, *answers(name, shape, classes))
    net.backward(np.ones_like(y))
    assert all((p.grad is not None) == p.requires_grad for p in net.parameters())


@pytest.mark.parametrize("name", models.names())
def test_seeds_and_dtypes(name: str) -> None:
    def build(**options: Any) -> dict[str, Any]:
        return small(name, (32, 32, 1), 10, **options).state_dict()

    state = build(rng=5)
    for key, value in build(rng=5, dtype="float64").items():
        np.testing.assert_array_equal(value.astype(state[key].dtype), state[key])
    # filters that begin as the identity are nobody's draw
    weights = [key for key, value in state.items() if value.ndim > 1 and len(np.unique(value)) > 2]
    other = build(rng=6)
    assert all((other[key] != state[key]).any() for key in weights)


def test_dropout_follows_the_seed() -> None:
    x = np.random.default_rng(0).random((4, 8, 8, 1), dtype=np.float32)
    one, same, other = (
        models.inception((8, 8, 1), width=2, stages=2, dropout=0.5, rng=seed) for seed in (3, 3, 4)
    )
    other.load_state_dict(one.state_dict())
    dropped = one(x)
    np.testing.assert_array_equal(dropped, same(x))
    assert (dropped != other(x)).any()


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


def test_resnet20_is_that_of_the_paper() -> None:
    net = models.resnet20()
    weighted = [
        module
        for module in net.modules()
        if isinstance(module, nn.Linear)
        or (isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3))
    ]
    assert len(weighted) == 20
    keys = list(net.state_dict())
    assert keys[0] == "0.weight"
    assert {"3.body.0.weight", "3.body.4.running_var", "6.shortcut.1.bias", "13.bias"} <= set(keys)
    shapes = {step.output_shape for step in net.trace((32, 32, 3)) if len(step.output_shape) == 3}
    assert shapes == {(32, 32, 16), (16, 16, 32), (8, 8, 64)}
    deeper = models.resnet20(blocks=9)
    assert sum(isinstance(module, nn.Residual) for module in deeper.modules()) == 27
    with pytest.raises(ValueError, match=r"resnet20: input_shape should be \(H, W, C\), got \(32"):
        models.resnet20((32, 32))


def test_inception_is_made_of_branches() -> None:
    net = models.inception()
    blocks = [module for module in net.modules() if isinstance(module, nn.Concat)]
    assert [len(block.branches) for block in blocks] == [4, 4, 3, 4, 4, 3, 4, 4]
    convolutions = [module for module in net.modules() if isinstance(module, nn.Conv2d)]
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm)]
    assert len(convolutions) == len(norms) == 1 + 6 * 7 + 2 * 5
    assert all(convolution.bias is None for convolution in convolutions)
    keys = set(net.state_dict())
    assert {"0.weight", "3.0.0.weight", "3.2.6.weight", "3.3.1.weight", "5.0.4.bias"} <= keys
    with pytest.raises(
        ValueError, match=r"inception: input_shape should be .* at least 4, got \(3"
    ):
        models.inception((3, 8, 1))


def test_inception_without_batch_normalisation(rng: np.random.Generator) -> None:
    net = models.inception(
        (8, 8, 3), 4, width=2, norm=False, local_response=True, dropout=0.4, activation="sigmoid"
    )
    kinds = [type(module) for module in net.modules()]
    assert nn.BatchNorm not in kinds
    assert nn.ReLU not in kinds
    assert kinds.count(nn.Sigmoid) == kinds.count(nn.Conv2d) == 1 + 6 * 7 + 2 * 5
    assert [type(net[i]) for i in (2, 5, -2)] == [nn.LocalResponseNorm] * 2 + [nn.Dropout]
    assert all(conv.bias is not None for conv in net.modules() if isinstance(conv, nn.Conv2d))
    with pytest.raises(ValueError, match="activation should be relu or sigmoid, got 'tanh'"):
        models.inception(activation="tanh")


@pytest.mark.parametrize(
    "make",
    [
        lambda: models.inception((4, 4, 1), 3, width=1, stages=2, dtype="float64", rng=0),
        lambda: models.resnet20((4, 4, 1), 3, channels=(2, 3), blocks=1, dtype="float64", rng=0),
    ],
    ids=["inception", "resnet20"],
)
def test_gradients_are_finite_differences(make: Any, rng: np.random.Generator) -> None:
    net = make()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm):  # away from the kinks of ReLU
            module.bias.data = rng.uniform(0.5, 1.5, module.num_features)
    x, labels = rng.standard_normal((6, 4, 4, 1)), rng.integers(0, 3, 6)
    loss = nn.CrossEntropyLoss()
    _, dlogits = loss(net(x), labels)
    net.backward(dlogits)
    step = 1e-6
    for name, parameter in net.named_parameters():
        direction = rng.standard_normal(parameter.shape)
        value = parameter.data.copy()
        ends = []
        for sign in (1, -1):
            parameter.data = value + sign * step * direction
            ends.append(loss(net(x), labels)[0])
            net.discard()
        parameter.data = value
        expected = (ends[0] - ends[1]) / (2 * step)
        assert parameter.grad is not None
        assert (parameter.grad * direction).sum() == pytest.approx(expected, rel=1e-5, abs=1e-8), (
            name
        )


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
