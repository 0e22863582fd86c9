"""BN before the activation, or after it.

An MLP of four hidden layers of 100 units, with ReLU, tanh or sigmoid, on the first data set, and
the CNN of five layers with ReLU on the last; SGD with momentum 0.9, batches of 60. The paper puts
BN before the activation. Test accuracy is in inference mode, on 2,000 images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastbn import nn, optim
from fastbn.experiments import sources, training
from fastbn.experiments.experiment import Claim, Drawn, Experiment, Results, Spread, verdict
from fastbn.train import Trainer

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "ReLU": nn.ReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}
BODIES = (*(f"MLP, {name}" for name in ACTIVATIONS), "CNN, ReLU")
PLACES = ("no BN", "BN before", "BN behind")


@dataclass(frozen=True)
class Settings:
    """Data of the MLP and of the CNN, and how long to train."""

    data: tuple[str, ...] = ("mnist", "cifar10")
    images: int = 20_000
    rate: float = 0.02
    batch_size: int = 60
    steps: int = 1000
    look_every: int = 50


def networks(settings: Settings) -> dict[str, tuple[str, str]]:
    """Return body and place of BN of every network."""
    return {f"{body}, {place}": (body, place) for body in BODIES for place in PLACES}


def build(body: str, place: str, shape: tuple[int, ...], classes: int, seed: int) -> nn.Sequential:
    """Return a network."""
    rng = np.random.default_rng(seed)
    kind, _, activation = body.partition(", ")

    def hidden(layers: Iterable[tuple[nn.Module, int]]) -> list[nn.Module]:
        made: list[nn.Module] = []
        for layer, features in layers:
            act, norm = ACTIVATIONS[activation](), nn.BatchNorm(features)
            behind = {"no BN": [act], "BN before": [norm, act], "BN behind": [act, norm]}
            made += [layer, *behind[place]]
        return made

    layers: list[nn.Module] = []
    if kind == "CNN":
        sizes = ((shape[-1], 8, 5, 1, 2), (8, 16, 4, 2, 1), (16, 24, 4, 2, 1))
        layers += hidden((nn.Conv2d(*size, rng=rng), size[1]) for size in sizes)
    layers.append(nn.Flatten())
    (features,) = nn.Sequential(*layers).output_shape(shape)
    depth = 1 if kind == "CNN" else 4
    inputs = (features, *[100] * (depth - 1))
    layers += hidden((nn.Linear(size, 100, rng=rng), 100) for size in inputs)
    return nn.Sequential(*layers, nn.Linear(100, classes, rng=rng))


def measure(settings: Settings, network: str, seed: int) -> dict[str, Any]:
    """Return the test accuracy over the steps."""
    body, place = networks(settings)[network]
    name = settings.data[-1 if body.startswith("CNN") else 0]
    data = training.load(name, settings.images, 2000)
    net = build(body, place, data.input_shape, data.outputs, seed)
    looks = range(0, settings.steps + 1, settings.look_every)
    accuracy = training.Watch(looks, training.accuracy_on(data))
    sgd = optim.SGD(net.parameters(), lr=settings.rate, momentum=0.9)
    trainer = Trainer(net, optimizer=sgd)
    training.fit(trainer, data, settings.steps, settings.batch_size, seed, [accuracy])
    known = [1 / data.outputs if a is None else a for a in accuracy.values]
    return {
        "accuracy": known,
        "test_accuracy": known[-1],
        "mean_accuracy": float(np.mean(known)),
    }


def judge(results: Results) -> list[Claim]:
    """Set what the texts say beside what was measured."""

    def of(body: str, place: str, key: str = "test_accuracy") -> Spread:
        return results.spread(f"{body}, {place}", key)

    def better(body: str, place: str, other: str) -> bool:
        """Tell whether one is better by more than the seeds differ."""
        here, there = of(body, place), of(body, other)
        return here.mean - there.mean > max(here.std, there.std)

    def told(*places: str, key: str = "test_accuracy") -> str:
        return "; ".join(
            f"{body}: " + ", ".join(f"{place} {of(body, place, key):.1%}" for place in places)
            for body in BODIES
        )

    behind = [better(body, "BN behind", "BN before") for body in BODIES]
    before = [better(body, "BN before", "BN behind") for body in BODIES]
    return [
        Claim(
            sources.TUTORIAL_D,
            "BN is better behind the activation.",
            verdict(*behind),
            f"{told('BN before', 'BN behind')}. Better by more than the seeds differ: behind in "
            f"{sum(behind)} of {len(BODIES)}, before in {sum(before)}.",
            "accuracy",
        ),
        Claim(
            sources.PAPER,
            "BN belongs before the activation.",
            verdict(*before),
            "The same figures.",
            "accuracy",
        ),
        Claim(
            sources.TUTORIAL_D,
            "BN learns faster than none, in either place.",
            verdict(
                *(
                    of(body, place, "mean_accuracy").mean > of(body, "no BN", "mean_accuracy").mean
                    for body in BODIES
                    for place in PLACES[1:]
                )
            ),
            f"Mean accuracy over the steps: {told(*PLACES, key='mean_accuracy')}.",
            "curves",
        ),
    ]


def draw(results: Results) -> Drawn:
    """Draw accuracy over the steps, and at the end."""
    from fastbn.experiments import plots

    settings: Settings = results.settings
    looks = {
        "no BN": plots.STYLES[plots.NO_BN],
        "BN before": plots.STYLES[plots.BN],
        "BN behind": plots.OTHERS[0],
    }
    drawn, axes = plots.figure("Test accuracy, by the place of BN", 2, 2, sharex=True)
    for body, panel in zip(BODIES, axes.flat, strict=True):
        for place, look in looks.items():
            values = results.series(f"{body}, {place}", "accuracy")
            steps = range(0, settings.steps + 1, settings.look_every)
            plots.curve(panel, steps, values, place, look)
        panel.set(title=body, xlabel="step", ylabel="accuracy")
    axes[0, 0].legend()
    yield "curves", drawn

    drawn, axes = plots.figure("Test accuracy at the end, by the place of BN", panel=(7, 4.5))
    found = [results.series(name, "test_accuracy") for name in results.networks]
    plots.bars(axes[0, 0], results.networks, found, [*looks.values()] * len(BODIES))
    axes[0, 0].set(xlabel="accuracy", xlim=(0, 1))
    yield "accuracy", drawn


experiment = Experiment(
    name="bn-before-or-after",
    doc=__doc__,
    full=Settings(),
    quick=Settings(data=("digits",), images=1437, steps=60, look_every=10),
    networks=networks,
    measure=measure,
    judge=judge,
    draw=draw,
)
