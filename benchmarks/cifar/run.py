"""One run of the recipe, with its clock, its energy and its curve."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fastbn
from fastbn import nn, train
from fastbn.bench.cifar.recipe import Recipe, flop, network
from fastbn.data import Dataset
from fastbn.data.batches import Augment, Batches
from fastbn.experiments.training import Stop
from fastbn.files import atomic
from fastbn.train.callbacks import Callback

RAPL = Path("/sys/class/powercap")
Array = NDArray[Any]


@dataclass
class Run:
    """What one seed gave.

    Attributes
    ----------
    seconds : float
        Of training, with whitening and augmentation and without evaluation.
    accuracy, accuracy_views : float
        On the test images, of one look at each and of six; see `fastbn.train.predict_views`.
    curve : list of (float, float)
        Seconds and accuracy after every epoch and at the end.
    augmenting : float
        Share of the time that went into making batches.
    watt_hours : float or None
        Of the whole processor, where its counters can be read.
    """

    seed: int
    threads: int
    epochs: float
    steps: int
    images: int
    seconds: float
    accuracy: float
    accuracy_views: float
    pflop: float
    gflops: float
    augmenting: float
    watt_hours: float | None
    curve: list[tuple[float, float]]
    losses: list[float]


class Clock(Callback):
    """Measure time and accuracy after every epoch, and keep the loss of every step.

    The time that measuring takes is no part of the seconds.
    """

    def __init__(self, net: nn.Module, test: tuple[Array, Array], steps: int) -> None:
        self.net, self.test, self.steps = net, test, steps
        self.curve: list[tuple[float, float]] = []
        self.losses: list[float] = []
        self.begin = time.perf_counter()
        self.tell: Callable[[str], None] = lambda text: None

    @property
    def seconds(self) -> float:
        """Seconds so far."""
        return time.perf_counter() - self.begin

    def on_step(self, trainer: train.Trainer) -> None:
        """Keep the loss."""
        self.losses.append(trainer.last_loss)
        self.tell(f"step {len(self.losses)} of {self.steps}, {self.seconds:.0f} s")

    def on_epoch_end(self, trainer: train.Trainer) -> None:
        """Add a point to the curve."""
        self.look()

    def look(self) -> float:
        """Return the accuracy of now, and add it to the curve."""
        seconds = self.seconds
        x, y = self.test
        accuracy = float(np.mean(self.net.predict(x).argmax(axis=1) == y))
        self.curve.append((seconds, accuracy))
        self.begin = time.perf_counter() - seconds
        return accuracy


class Timed:
    """An augmentation that knows how long it took."""

    def __init__(self, function: Augment) -> None:
        self.function, self.located, self.seconds = function, True, 0.0

    def __call__(self, *arguments: Any) -> Array:
        """Augment."""
        begin = time.perf_counter()
        made = self.function(*arguments)
        self.seconds += time.perf_counter() - begin
        return made


def batches_of(data: Dataset, recipe: Recipe, seed: int, augment: Augment) -> Batches:
    """Return the batches of one seed: the same for every library."""
    return Batches(
        np.asarray(data.x_train),
        np.asarray(data.y_train),
        recipe.batch,
        rng=seed,
        drop_last=True,
        augment=augment,
    )


def train_once(
    data: Dataset,
    recipe: Recipe,
    seed: int,
    *,
    activation: str = "gelu",
    tell: Callable[[str], None] = lambda text: None,
) -> tuple[Run, nn.Sequential]:
    """Train one network, and return what came out and the network itself.

    Parameters
    ----------
    data : Dataset
        Of `recipe.images_of`.
    recipe : Recipe
    seed : int
        Of initial weights, order and augmentation.
    activation : {"gelu", "relu"}
    tell : callable, optional
        Gets a line after every step.
    """
    images = len(data.x_train)
    if images < recipe.batch:
        raise ValueError(f"one batch takes {recipe.batch} images, but there are {images}")
    steps = recipe.steps(images)
    test = (np.asarray(data.x_test), data.y_test)
    energy, begin = read_energy(), time.perf_counter()
    net = network(np.asarray(data.x_train), seed, activation=activation)
    optimizer = recipe.optimizer(net, images)
    clock = Clock(net, test, steps)
    clock.begin, clock.tell = begin, tell
    augment = Timed(recipe.augmentation())
    trainer = train.Trainer(net, recipe.loss(), optimizer)
    trainer.fit(
        batches_of(data, recipe, seed, augment),
        ceil(recipe.epochs),
        recipe.batch,
        callbacks=[clock, Stop(steps)],  # the last epoch need not be a whole one
        progress=False,
    )
    optimizer.finish()
    net.eval()
    seconds, after = clock.seconds, read_energy()
    accuracy = clock.look()
    views = train.predict_views(net, test[0]).argmax(axis=1)
    work = flop(net, data.input_shape) * recipe.batch * steps
    run = Run(
        seed=seed,
        threads=fastbn.get_num_threads(),
        epochs=recipe.epochs,
        steps=steps,
        images=images,
        seconds=seconds,
        accuracy=accuracy,
        accuracy_views=float(np.mean(views == test[1])),
        pflop=work / 1e15,
        gflops=work / seconds / 1e9,
        augmenting=augment.seconds / seconds,
        watt_hours=None if energy is None or after is None else (after - energy) / 3.6e9,
        curve=clock.curve,
        losses=clock.losses,
    )
    return run, net


def read_energy() -> float | None:
    """Return the microjoules that all processors have taken so far, None if it cannot be told."""
    try:
        zones = [
            int((zone / "energy_uj").read_text("ascii")) for zone in RAPL.glob("intel-rapl:[0-9]")
        ]
    except (OSError, ValueError):
        return None
    return float(sum(zones)) if zones else None


def save(run: Run, path: Path) -> None:
    """Write a run as JSON, in one step."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(asdict(run), indent=1) + "\n", encoding="utf-8")


def load(path: Path) -> Run:
    """Read what `save` wrote."""
    found = json.loads(path.read_text(encoding="utf-8"))
    return Run(**{**found, "curve": [tuple(point) for point in found["curve"]]})


def keep(net: nn.Module, data: Dataset, path: Path) -> None:
    """Write the network's weights, with classes and normalisation, for ``fastbn export``."""
    assert data.normalization is not None
    normalization = data.normalization.as_dict()
    train.save(net, path, classes=data.classes, input_normalization=normalization)
