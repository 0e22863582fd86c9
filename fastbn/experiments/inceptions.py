"""Inception on small images, and the training of it: what two experiments have in common."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fastbn import models, nn, optim
from fastbn.data import Batches, augment
from fastbn.data.rows import Samples
from fastbn.experiments import training
from fastbn.experiments.experiment import Array
from fastbn.optim import schedules
from fastbn.train import Trainer


@dataclass(frozen=True)
class Settings:
    """Sizes, and how long to train."""

    data: tuple[str, ...] = ("cifar10",)
    images: int = 20_000
    test_images: int = 1000
    shrink: int = 2
    width: int = 8
    stages: int = 2
    batch_size: int = 32
    steps: int = 1200
    every: int = 60
    rate: float = 0.01
    decay: float = 0.7  # what is left of the rate at the end


@dataclass(frozen=True)
class Kind:
    """A network, and how it is trained: that of BN-x5 unless said otherwise."""

    norm: bool = True
    activation: str = "relu"
    faster: float = 5.0  # rate
    dropout: float = 0.0
    l2: float = 1e-4
    decay: float = 6.0  # power of the settings' decay
    local_response: bool = False
    shuffle: bool = True
    distort: bool = False


def images_of(settings: Settings, x: Samples) -> Array:
    """Return images whose side is shorter by a factor, with the mean 0 and the deviation 1."""
    n, h, w, c = np.shape(x)
    by = settings.shrink
    small = (
        np.asarray(x).reshape(n, h // by, by, w // by, by, c).mean(axis=(2, 4), dtype=np.float32)
    )
    scaled: Array = (small - 0.47) / 0.25
    return scaled


def inception(settings: Settings, kind: Kind, shape: tuple[int, ...], seed: int) -> nn.Sequential:
    """Return the network, its weights drawn as He et al. (2015) do."""
    net = models.inception(
        shape,
        width=settings.width,
        stages=settings.stages,
        norm=kind.norm,
        activation=kind.activation,
        local_response=kind.local_response,
        dropout=kind.dropout,
        rng=seed,
    )
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            layer.weight.data = layer.weight.data * 6**0.5  # a variance of 2 / inputs
    return net


def trainer_of(settings: Settings, kind: Kind, net: nn.Module) -> Trainer:
    """Return a trainer with the kind's rate, decay and L2."""
    left = settings.decay**kind.decay
    rate = schedules.exponential(settings.rate * kind.faster, left ** (1 / settings.steps))
    groups = optim.no_decay(net, kind.l2)
    return Trainer(net, optimizer=optim.SGD(groups, lr=rate, momentum=0.9))


def train(
    settings: Settings, kind: Kind, x: Array, labels: Array, seed: int, *watches: training.Watch
) -> tuple[Trainer, int | None]:
    """Train a network on these images; return its trainer, and where it failed."""
    trainer = trainer_of(settings, kind, inception(settings, kind, x.shape[1:], seed))
    moves = [augment.flip()]
    if kind.distort:
        moves += [augment.shift(2), augment.brightness(0.3)]
    batches = Batches(
        x,
        labels,
        settings.batch_size,
        rng=seed,
        shuffle=kind.shuffle,
        drop_last=True,
        augment=augment.compose(*moves),
    )
    stopped = training.fit(trainer, batches, settings.steps, settings.batch_size, seed, watches)
    return trainer, stopped
