"""The paper's Figure 1: three layers of 100 sigmoid units on MNIST.

Weights from N(0, 0.1²), biases 0, batches of 60, plain SGD, cross entropy; BN before each sigmoid,
or none. Test accuracy is in inference mode. The percentiles are those of the input of each sigmoid
in the last hidden layer, over the same test images. The path of a percentile is the sum of its
changes from one evaluation to the next, as the mean over the units and the three percentiles; it is
also given as a multiple of the distance between the outer two. The range of the median is that
between its smallest and its largest value after the first evaluation, for the one unit that is
drawn; the paper shows one, too. The paper does not give its learning rate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbn import nn, optim
from fastbn.experiments import sources, training
from fastbn.experiments.experiment import Claim, Drawn, Experiment, Results, Spread, verdict
from fastbn.nn.layerwise import calls
from fastbn.train import Trainer
from fastbn.train.monitor import PERCENTILES

Array = NDArray[Any]
NETWORKS = ("no BN", "BN")
UNIT = 0  # whose percentiles are drawn
LOOKED_AT = 1000  # test images


@dataclass(frozen=True)
class Settings:
    """The paper's, and a learning rate."""

    data: tuple[str, ...] = ("mnist",)
    units: int = 100
    batch_size: int = 60
    lr: float = 0.1
    steps: int = 50_000
    look_every: int = 500


def build(settings: Settings, shape: tuple[int, ...], classes: int, bn: bool, seed: int) -> Any:
    """Return a network."""
    rng = np.random.default_rng(seed)
    layers: list[nn.Module] = [nn.Flatten()]
    sizes = [int(np.prod(shape)), *[settings.units] * 3]
    for inputs, outputs in zip(sizes, [*sizes[1:], classes], strict=True):
        linear = nn.Linear(inputs, outputs)
        linear.load_state_dict(
            {"weight": rng.normal(0, 0.1, (outputs, inputs)), "bias": np.zeros(outputs)}
        )
        norm = [nn.BatchNorm(outputs)] if bn else []
        layers += [linear, *norm, nn.Sigmoid()]
    return nn.Sequential(*layers[: -2 if bn else -1])


def percentiles(x: Array) -> Any:
    """Return a look at the percentiles of what enters each last sigmoid, ``(3, units)``."""

    def look(trainer: Trainer) -> Array:
        with trainer.net.evaluating():
            *_, (given,) = (
                given
                for _, layer, given, _ in calls(trainer.net, x)
                if isinstance(layer, nn.Sigmoid)
            )
        return np.percentile(given, PERCENTILES, axis=0)

    return look


def measure(settings: Settings, network: str, seed: int) -> dict[str, Any]:
    """Return test accuracy and percentiles over the steps."""
    data = training.load(settings.data[0])
    net = build(settings, data.input_shape, data.outputs, network == "BN", seed)
    looks = range(0, settings.steps + 1, settings.look_every)
    accuracy = training.Watch(looks, training.accuracy_on(data))
    inputs = training.Watch(looks, percentiles(data.x_test[:LOOKED_AT]))
    trainer = Trainer(net, optimizer=optim.SGD(net.parameters(), lr=settings.lr, momentum=0.0))
    training.fit(trainer, data, settings.steps, settings.batch_size, seed, [accuracy, inputs])
    found = np.array(inputs.values)
    path = np.abs(np.diff(found, axis=0)).sum(0).mean(0)
    width = (found[:, 2] - found[:, 0]).mean(0)
    return {
        "accuracy": accuracy.values,
        "percentiles": found[:, :, UNIT],
        "first_accuracy": accuracy.values[1],
        "test_accuracy": accuracy.values[-1],
        "path": float(path.mean()),
        "path_in_widths": float((path / width).mean()),
    }


def judge(results: Results) -> list[Claim]:
    """Set what the paper says beside what was measured."""
    settings: Settings = results.settings
    curves = {n: results.series(n, "accuracy").mean(0)[1:] for n in NETWORKS}
    leads = curves["BN"] > curves["no BN"]
    behind = [int(i + 1) * settings.look_every for i in np.flatnonzero(~leads)]
    goal = curves["no BN"].max()
    first = int(curves["no BN"].argmax() + 1) * settings.look_every
    reached = [int(i + 1) * settings.look_every for i in np.flatnonzero(curves["BN"] >= goal)]

    def both(key: str, form: str) -> str:
        return f"BN {results.spread('BN', key):{form}}, no BN {results.spread('no BN', key):{form}}"

    ranges = {
        n: Spread(np.ptp(results.series(n, "percentiles")[:, 1:, 1], axis=1).tolist())
        for n in NETWORKS
    }

    def higher(key: str) -> bool:
        return results.spread("BN", key).mean > results.spread("no BN", key).mean

    return [
        Claim(
            sources.PAPER,
            "With BN, test accuracy starts higher.",
            verdict(higher("first_accuracy")),
            f"After {settings.look_every} steps: {both('first_accuracy', '.1%')}.",
            "accuracy",
        ),
        Claim(
            sources.PAPER,
            "With BN, test accuracy ends higher: the test error is lower.",
            verdict(higher("test_accuracy")),
            f"After {settings.steps:,} steps: {both('test_accuracy', '.2%')}.",
            "accuracy",
        ),
        Claim(
            sources.PAPER,
            "The network with BN leads all the way.",
            verdict(bool(leads.all()), bool(leads.mean() > 0.5)),
            f"In {leads.mean():.0%} of the looks; behind at {behind[:5] or 'none'}.",
            "accuracy",
        ),
        Claim(
            sources.PAPER,
            "BN converges faster.",
            verdict(bool(reached) and reached[0] < first),
            f"The best accuracy without BN, {goal:.2%}, comes after {first:,} steps; with BN it "
            f"comes {f'after {reached[0]:,}' if reached else 'never'}.",
            "accuracy",
        ),
        Claim(
            sources.PAPER,
            "With BN, the {15, 50, 85}th percentiles of a sigmoid's input are steadier.",
            verdict(
                ranges["BN"].mean < ranges["no BN"].mean,
                not higher("path"),
                not higher("path_in_widths"),
            ),
            f"Range of a median: BN {ranges['BN']:.2f}, no BN {ranges['no BN']:.2f}. Path, that is "
            f"noise, too: {both('path', '.1f')}; in widths {both('path_in_widths', '.1f')}.",
            "percentiles",
        ),
    ]


def draw(results: Results) -> Drawn:
    """Draw accuracy and percentiles over the steps."""
    from fastbn.experiments import plots

    settings: Settings = results.settings
    looks = range(0, settings.steps + 1, settings.look_every)
    drawn, axes = plots.figure("Test accuracy", 1, 2)
    for place in axes.flat:
        for name in NETWORKS:
            plots.curve(place, looks, results.series(name, "accuracy"), name, plots.style(name))
        place.set(xlabel="step", ylabel="accuracy", ylim=(0, 1))
    top = float(max(results.series(name, "accuracy").max() for name in NETWORKS))
    axes[0, 1].set(title="the same, closer", ylim=(top - 0.05, min(top + 0.005, 1)))
    axes[0, 0].legend()
    yield "accuracy", drawn

    title = "15th, 50th and 85th percentile of the input of a sigmoid in the last hidden layer"
    drawn, axes = plots.figure(title, 1, 2, sharey=True)
    for name, place in zip(NETWORKS, axes.flat, strict=True):
        found, look = results.series(name, "percentiles")[:1], plots.style(name)
        for number, percentile in enumerate(PERCENTILES):
            plots.curve(place, looks, found[:, :, number], f"{percentile} %", look)
        place.set(title=name, xlabel="step")
    axes[0, 0].set(ylabel="input of the sigmoid")
    yield "percentiles", drawn


experiment = Experiment(
    name="paper-mnist",
    doc=__doc__,
    full=Settings(),
    quick=Settings(data=("digits",), steps=600, look_every=50),
    networks=lambda settings: NETWORKS,
    measure=measure,
    judge=judge,
    draw=draw,
)
