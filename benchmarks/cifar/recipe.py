"""The recipe's figures, and the network, optimizer, loss and augmentation that they make."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fastbn import models, nn, optim
from fastbn.data import Dataset, Normalization, augment
from fastbn.data.batches import Augment
from fastbn.nn.init import whitening
from fastbn.optim import schedules

Array = NDArray[Any]

NORMALIZATION = Normalization(
    np.array([0.4914, 0.4822, 0.4465]), np.array([0.2470, 0.2435, 0.2616])
)
WHITENED = 5000  # images whose patches are looked at


@dataclass(frozen=True)
class Recipe:
    """What is done, and for how many epochs.

    The source adds the losses of a batch up; here they are averaged. A rate of r for sums over B
    rows is one of B·r for means, and a decay of d one of d / B.

    Attributes
    ----------
    rate : float
        Of summed losses, times 1,024 · (1 + 1 / (1 - momentum)).
    decay : float
        Of a step with the whole rate, times the same over 1,024.
    """

    epochs: float = 9.9
    batch: int = 1024
    rate: float = 11.5
    bias_factor: float = 64.0
    momentum: float = 0.85
    decay: float = 0.0153
    smoothing: float = 0.2
    whitening_bias_epochs: int = 3
    slow_every: int = 5
    slow_decay: float = 0.95
    shift: int = 2

    def steps(self, images: int) -> int:
        """Return the number of steps with this many images."""
        return ceil(self.epochs * (images // self.batch))

    def learning_rate(self, steps: int, last: int | None = None) -> schedules.piecewise:
        """Return the rate over `steps`: 0.2 of its peak, the peak at 23 %, 0.07 at the end.

        With `last` it is 0 from that step on.
        """
        peak = self.batch * self.rate / (1024 * (1 + 1 / (1 - self.momentum)))
        whole = schedules.piecewise(
            [(0, 0.2 * peak), (int(0.23 * steps), peak), (steps, 0.07 * peak)]
        )
        if last is None or last >= steps:
            return whole
        kept = [(step, value) for step, value in whole.points if step < last]
        return schedules.piecewise([*kept, (last, whole(last)), (last, 0.0)])

    def groups(self, net: nn.Module, images: int) -> list[dict[str, Any]]:
        """Return groups of parameters: the first bias, those of the BatchNorms, and the rest."""
        steps = self.steps(images)
        first = self.whitening_bias_epochs * (images // self.batch)
        decay = self.decay / self.rate
        rate = self.learning_rate(steps)
        biases = [m.bias for m in net.modules() if isinstance(m, nn.BatchNorm)]
        bias = next(m.bias for m in net.modules() if isinstance(m, nn.Conv2d))
        apart = {id(parameter) for parameter in (*biases, bias)}
        rest = [p for p in net.parameters() if p.requires_grad and id(p) not in apart]
        factor = self.bias_factor
        fast = schedules.piecewise([(step, factor * value) for step, value in rate.points])
        return [
            {"params": [bias], "lr": self.learning_rate(steps, first), "weight_decay": decay},
            {"params": biases, "lr": fast, "weight_decay": decay / factor},
            {"params": rest, "lr": rate, "weight_decay": decay},
        ]

    def optimizer(self, net: nn.Module, images: int) -> optim.Lookahead:
        """Return SGD with Nesterov's momentum inside of a look-ahead that slows down."""
        sgd = optim.SGD(self.groups(net, images), momentum=self.momentum, nesterov=True)
        return optim.Lookahead(sgd, self.slow_every, self.slow_part(images), net)

    def slow_part(self, images: int) -> Callable[[int], float]:
        """Return how much of the way the slow weights go, by the number of steps made."""
        steps, kept = self.steps(images), self.slow_decay**self.slow_every
        return lambda step: 1.0 - kept * (step / steps) ** 3

    def loss(self) -> nn.CrossEntropyLoss:
        """Return the loss."""
        return nn.CrossEntropyLoss(label_smoothing=self.smoothing)

    def augmentation(self) -> Augment:
        """Return what is done to the images."""
        return augment.compose(augment.alternating_flip(), augment.shift(self.shift))


def images_of(dataset: Dataset, count: int | None = None) -> Dataset:
    """Return the images as the recipe normalises them, the first `count` of the training part."""
    return replace(
        dataset,
        x_train=NORMALIZATION.apply(dataset.x_train[:count]),
        y_train=dataset.y_train[:count],
        x_test=NORMALIZATION.apply(dataset.x_test),
        normalization=NORMALIZATION,
    )


def network(
    images: Array, seed: int, *, activation: str = "gelu", dtype: DTypeLike = "float32"
) -> nn.Sequential:
    """Return the network, its first filters set by the images and not trained."""
    net = models.speedrun(images.shape[1:], rng=seed, activation=activation, dtype=dtype)
    first = net[0]
    assert isinstance(first, nn.Conv2d)
    assert first.bias is not None
    first.weight.data = whitening(images[:WHITENED], first.kernel_size[0])
    first.weight.requires_grad = False
    first.bias.data = np.zeros(first.out_channels)
    return net


def jolt(net: nn.Module) -> None:
    """Move all filters a little, the same way every time.

    Where filters are the identity, pixels that are equal stay equal, and which of them is the
    largest of a pool is up to rounding: then gradients cannot be compared.
    """
    rng = np.random.default_rng(94)
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d) and layer.weight.requires_grad:
            moved = layer.weight.data + 0.02 * rng.standard_normal(layer.weight.shape)
            layer.weight.data = moved


def flop(net: nn.Module, input_shape: tuple[int, ...]) -> int:
    """Return the arithmetic of a training step for one image: two for a product and its sum.

    Convolutions and linear layers, which are nearly all: forward, the gradient of the weight where
    it is trained, and that of the input, after the first layer.
    """
    total, first = 0, True
    for layer, shape, _ in net.trace(input_shape):
        if isinstance(layer, nn.Conv2d | nn.Linear):
            passes = 1 + int(layer.weight.requires_grad) + int(not first)
            total += layer.own_flops(shape) * passes
            first = False
    return total
