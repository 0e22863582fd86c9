"""The networks whose training steps are measured, and the batches they are trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbn import models, nn, optim

Array = NDArray[Any]

CLASSES = 10
BATCHES = 8


@dataclass(frozen=True)
class Network:
    """What is trained, and how.

    `steps` are timed in one sample: few enough for losses that different libraries' rounding has
    not driven apart.
    """

    build: Callable[[], nn.Module]
    input_shape: tuple[int, ...]
    batches: tuple[int, ...]  # batch sizes that are measured by default
    optimizer: str
    lr: float
    momentum: float = 0.0
    steps: int = 4
    alike: int | None = None  # so many first losses are the same in all libraries; None: all

    def make(self) -> nn.Module:
        """Return the network in training mode; the same weights every time."""
        return self.build().train().build(self.input_shape)

    def make_optimizer(self, net: nn.Module) -> optim.Optimizer:
        """Return this library's optimizer."""
        if self.optimizer == "adam":
            return optim.Adam(net.parameters(), lr=self.lr)
        return optim.SGD(net.parameters(), lr=self.lr, momentum=self.momentum)

    def data(self, batch: int) -> list[tuple[Array, Array]]:
        """Return images (channels-last) and labels of some batches; the same every time."""
        rng = np.random.default_rng(1)
        return [
            (
                rng.standard_normal((batch, *self.input_shape), np.float32),
                rng.integers(0, CLASSES, batch),
            )
            for _ in range(BATCHES)
        ]


def mlp() -> nn.Module:
    """784-128-64-10 with batch normalisation, as the tutorials have it."""
    net: nn.Module = models.mlp((28, 28, 1), CLASSES, rng=0)
    return net


def convnet4() -> nn.Module:
    """Four 3×3 convolutions with batch normalisation, a pool after each two, one Linear."""
    rng = np.random.default_rng(0)
    layers: list[nn.Module] = []
    seen = 1
    for channels in (32, 64):
        for _ in range(2):
            layers += normalised(seen, channels, rng)
            seen = channels
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(7 * 7 * seen, CLASSES, rng=rng))


def resnet20() -> nn.Module:
    """ResNet-20 for 32×32 images."""
    net: nn.Module = models.resnet20((32, 32, 3), CLASSES, rng=0)
    return net


def inception() -> nn.Module:
    """Six inception blocks for 28×28 images."""
    net: nn.Module = models.inception((28, 28, 1), CLASSES, rng=0)
    return net


def speedrun() -> nn.Module:
    """Return the network of the CIFAR-10 recipe, its first filters not trained."""
    net: nn.Sequential = models.speedrun((32, 32, 3), CLASSES, rng=0)
    first = net[0]
    assert isinstance(first, nn.Conv2d)
    first.weight.requires_grad = False
    return net


def zoo(name: str, **arguments: Any) -> Network:
    """Return a network for photographs, on small ones: 96 pixels."""
    shape = (96, 96, 3)

    def build() -> nn.Module:
        return models.build(name, input_shape=shape, classes=CLASSES, rng=0, **arguments)

    # Deep networks drive roundings apart within a step, where activations have kinks.
    return Network(build, shape, (32,), "sgd", 1e-4, momentum=0.9, steps=2, alike=1)


def normalised(seen: int, channels: int, rng: np.random.Generator) -> list[nn.Module]:
    """Return a 3×3 convolution that keeps the image's size, batch normalisation, ReLU."""
    return [
        nn.Conv2d(seen, channels, 3, padding=1, bias=False, rng=rng),
        nn.BatchNorm(channels),
        nn.ReLU(),
    ]


NETWORKS = {
    "mlp": Network(mlp, (28, 28, 1), (32, 256), "adam", 1e-3, steps=20),
    "convnet4": Network(convnet4, (28, 28, 1), (64,), "sgd", 1e-3),
    "resnet20": Network(resnet20, (32, 32, 3), (64,), "sgd", 1e-3, momentum=0.9),
    "inception": Network(inception, (28, 28, 1), (64,), "sgd", 1e-3, momentum=0.9),
    "speedrun": Network(
        speedrun, (32, 32, 3), (512,), "sgd", 1e-4, momentum=0.85, steps=2, alike=1
    ),
    "resnet18": zoo("resnet18"),
    "resnet50": zoo("resnet50"),
    "mobilenet_v2": zoo("mobilenet_v2", dropout=0.0),
    "densenet121": zoo("densenet121"),
    "efficientnet_lite0": zoo("efficientnet_lite0", dropout=0.0),
}
QUICK = ("mlp", "convnet4", "resnet20", "inception")


def choose(names: Sequence[str]) -> list[str]:
    """Return the names of a list; ``["all"]`` are all for small images.

    Raises
    ------
    ValueError
        If there is no such network.

    Examples
    --------
    >>> choose(["mlp"])
    ['mlp']
    """
    if list(names) == ["all"]:
        return list(QUICK)
    for name in names:
        if name not in NETWORKS:
            raise ValueError(f"network: {name!r} is not one of all, {', '.join(NETWORKS)}")
    return list(names)
