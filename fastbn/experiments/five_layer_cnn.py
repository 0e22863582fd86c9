"""A CNN of five layers at a learning rate of 0.99, and at others.

Convolutions 5×5 (8 channels), 4×4 stride 2 (16), 4×4 stride 2 (24), then 100 units and the classes;
ReLU, BN before each ReLU or none; plain SGD, batches of 60. Accuracy is that on 2,000 test images,
in inference mode; training that diverges counts as chance from there on. A rate is usable if it
reaches nine tenths of the best accuracy of all rates, with or without BN, in the same number of
steps. Two mistakes of the tutorial are tried on the first data set: the mean of x² as variance, and
a scale and an offset that start at 0 and 1. Variances are those of the normalised values, before
scale and offset.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastbn import optim
from fastbn.experiments import five_layer_cnn_network as cnn
from fastbn.experiments import five_layer_cnn_plots, sources, training
from fastbn.experiments.experiment import Claim, Experiment, Results, Spread, verdict
from fastbn.train import Trainer

LEARNED = 0.2  # test accuracy; chance is 0.1


@dataclass(frozen=True)
class Settings:
    """The tutorial's rate and iterations, and what is tried beside it."""

    data: tuple[str, ...] = ("mnist", "cifar10")
    images: int = 20_000
    rate: float = 0.99
    steps: int = 1000
    rates: tuple[float, ...] = (0.001, 0.01, 0.1, 0.3, 0.99, 3.0, 10.0)
    sweep_steps: int = 100
    batch_size: int = 60
    loss_every: int = 10
    look_every: int = 50


def name_of(data: str, variant: str, rate: float) -> str:
    """Return what a network is called."""
    return f"{data}, {variant}, rate {rate:g}"


def networks(settings: Settings) -> dict[str, tuple[str, str, float]]:
    """Return data, variant and rate of every network."""
    kinds = [(settings.data[0], v, settings.rate) for v in cnn.VARIANTS]
    rates = {settings.rate, *settings.rates}
    kinds += [(d, v, r) for d in settings.data for v in cnn.VARIANTS[:2] for r in sorted(rates)]
    return {name_of(*kind): kind for kind in kinds}


def measure(settings: Settings, network: str, seed: int) -> dict[str, Any]:
    """Return loss and test accuracy over the steps, and how what is normalised varies."""
    name, variant, rate = networks(settings)[network]
    data = training.load(name, settings.images, 2000)
    net = cnn.build(data.input_shape, data.outputs, variant, seed)
    steps = settings.steps if rate == settings.rate else settings.sweep_steps
    loss = training.Watch(range(1, steps + 1, settings.loss_every), training.last_loss)
    looks = range(0, steps + 1, settings.look_every)
    accuracy = training.Watch(looks, training.accuracy_on(data))
    moves = training.Watch(range(1, 11), lambda t: bool(np.any(t.net.parameters()[0].grad)))
    trainer = Trainer(net, optimizer=optim.SGD(net.parameters(), lr=rate, momentum=0.0))
    watches = [loss, accuracy, moves]
    diverged = training.fit(trainer, data, steps, settings.batch_size, seed, watches)
    batch = copy.deepcopy(net).train()
    guesses = batch(data.x_test).argmax(1)
    known = [1 / data.outputs if a is None else a for a in accuracy.values]
    return {
        "loss": loss.values,
        "accuracy": known,
        "test_accuracy": known[-1],
        "mean_accuracy": float(np.mean(known)),
        "roughness": float(np.abs(np.diff(known[len(known) // 2 :])).mean()),
        "after_sweep_steps": known[settings.sweep_steps // settings.look_every],
        "with_batch_statistics": None if diverged else float((guesses == data.y_test).mean()),
        "variance": cnn.normalised_variance(batch, data.x_test[:500]),
        "first_layer_moves": float(np.mean([bool(moved) for moved in moves.values])),
    }


def judge(results: Results) -> list[Claim]:
    """Set what the tutorial says beside what was measured."""
    settings: Settings = results.settings
    data, rate, own = settings.data, settings.rate, "with_batch_statistics"

    def of(key: str, name: str, variant: str, at: float = rate) -> Spread:
        return results.spread(name_of(name, variant, at), key)

    def versus(name: str, variant: str, key: str = "test_accuracy") -> str:
        return f"{of(key, name, variant):.1%} (BN {of('test_accuracy', name, 'BN'):.1%})"

    def pair(name: str, key: str) -> str:
        return f"{of(key, name, 'BN'):.1%}, without BN {of(key, name, 'no BN'):.1%}"

    def gain(name: str, key: str = "test_accuracy", other: str = "no BN") -> float:
        return of(key, name, "BN").mean - of(key, name, other).mean

    def usable(name: str) -> dict[str, list[float]]:
        key = "after_sweep_steps"
        found = {(v, r): of(key, name, v, r).mean for v in cnn.VARIANTS[:2] for r in settings.rates}
        enough = 0.9 * max(found.values())
        return {v: [r for r in settings.rates if found[v, r] >= enough] for v in cnn.VARIANTS[:2]}

    def row(
        text: str,
        holds: Callable[[str], bool],
        figures: Callable[[str], str],
        plot: str,
        source: str = sources.TUTORIAL_A,
    ) -> Claim:
        on = data[:1] if plot == "mistakes" else data
        told = "; ".join(f"{name}: {figures(name)}" for name in on)
        return Claim(source, text, verdict(*map(holds, on)), told, plot)

    claims = [
        row(
            f"At rate {rate:g}, BN learns faster.",
            lambda d: gain(d, "mean_accuracy") > 0,
            lambda d: (
                f"mean accuracy {pair(d, 'mean_accuracy')}, at the end {pair(d, 'test_accuracy')}"
            ),
            "curves",
        ),
        row(
            "It also learns more stably.",
            lambda d: gain(d, "roughness") < 0 or of("test_accuracy", d, "no BN").mean < LEARNED,
            lambda d: f"change of accuracy from look to look {pair(d, 'roughness')}",
            "curves",
        ),
        row(
            "BN allows higher learning rates.",
            lambda d: len(usable(d)["BN"]) > len(usable(d)["no BN"]),
            lambda d: (
                f"usable {usable(d)['BN'] or 'none'}, without BN {usable(d)['no BN'] or 'none'}"
            ),
            "rates",
            sources.TUTORIAL_D,
        ),
        row(
            "The variance of a batch is the mean of x².",
            lambda d: abs(of("variance", d, cnn.SQUARES).mean - 1) < 0.05,
            lambda d: (
                f"leaves a variance of {of('variance', d, cnn.SQUARES):.2f}, accuracy "
                f"{versus(d, cnn.SQUARES)}"
            ),
            "mistakes",
        ),
        row(
            "The scale starts at 0, the offset at 1.",
            lambda d: gain(d, other=cnn.ZERO_ONE) < 0.01,
            lambda d: (
                f"the first layer moves in {of('first_layer_moves', d, cnn.ZERO_ONE):.0%} of the "
                f"first steps, accuracy {versus(d, cnn.ZERO_ONE)}"
            ),
            "mistakes",
        ),
        row(
            "Moving averages are taken in training, and used at test time.",
            lambda d: of("test_accuracy", d, "BN").mean > of(own, d, "BN").mean - 0.02,
            lambda d: f"with those of the test set {versus(d, 'BN', own)}",
            "curves",
        ),
    ]
    claims.append(cnn.one_for_each_map())
    if len(data) > 1:
        text = f"The effect is larger on {data[-1]}."
        told = ", ".join(f"{d} {gain(d):+.1%}" for d in data)
        holds = verdict(gain(data[-1]) > gain(data[0]))
        claims.append(Claim(sources.TUTORIAL_A, text, holds, f"accuracy: {told}", "curves"))
    return claims


experiment = Experiment(
    name="five-layer-cnn",
    doc=__doc__,
    full=Settings(),
    quick=Settings(
        data=("digits",),
        images=1437,
        steps=100,
        rates=(0.01, 0.99, 10.0),
        sweep_steps=50,
        look_every=10,
    ),
    networks=networks,
    measure=measure,
    judge=judge,
    draw=lambda results: five_layer_cnn_plots.draw(results, cnn.VARIANTS, name_of),
)
