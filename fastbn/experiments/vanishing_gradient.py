"""Gradients in twenty layers, sigmoid and ReLU, for small and large initial weights.

Fully connected layers, weights from N(0, 1/inputs) times a factor, no biases, in float64. Before
training, one batch goes forward and back. Shown is the norm of the loss's gradient at the output of
every hidden layer, root mean square over the samples. The growth per layer is the mean factor from
one layer to the one below. Then the network trains for some steps of Adam at 0.001.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbn import nn, optim
from fastbn.experiments import sources, training
from fastbn.experiments.experiment import Claim, Drawn, Experiment, Results, Spread, verdict
from fastbn.nn.elementwise import Elementwise
from fastbn.train import Trainer

Array = NDArray[Any]
ACTIVATIONS = {"sigmoid": nn.Sigmoid, "ReLU": nn.ReLU}
LEARNED = 0.2  # test accuracy; chance is 0.1
ROWS = 256  # of the batch before training


@dataclass(frozen=True)
class Settings:
    """Sizes, and how long to train."""

    data: tuple[str, ...] = ("mnist",)
    images: int = 10_000
    layers: int = 20
    width: int = 100
    factors: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0, 10.0, 100.0)
    batch_size: int = 60
    steps: int = 400


class Tap(Elementwise):
    """Lets everything through, and keeps the norm of the gradient that passes."""

    def forward(self, x: Array) -> tuple[Array, None]:
        """Return x."""
        return x, None

    def backward(self, dy: Array, saved: None, need_dx: bool = True) -> Array:
        """Return dy; `norm` is of the samples' own losses, whose mean is the loss."""
        self.norm = float(np.sqrt((dy**2).sum() * len(dy)))
        return dy


def name_of(activation: str, bn: bool, factor: float) -> str:
    """Return what a network is called."""
    return f"{activation}, {'BN' if bn else 'no BN'}, × {factor:g}"


def networks(settings: Settings) -> dict[str, tuple[str, bool, float]]:
    """Return activation, BN, and factor of every network."""
    kinds = [(a, bn, f) for a in ACTIVATIONS for bn in (False, True) for f in settings.factors]
    return {name_of(*kind): kind for kind in kinds}


def build(settings: Settings, network: str, inputs: int, seed: int) -> nn.Sequential:
    """Return a network, with a tap after each of its hidden layers."""
    activation, bn, factor = networks(settings)[network]
    rng = np.random.default_rng(seed)
    width, layers = settings.width, list[nn.Module]([nn.Flatten()])
    for features in (inputs, *[width] * (settings.layers - 1)):
        linear = nn.Linear(features, width, bias=False, dtype="float64")
        linear.weight.data[...] = rng.normal(0, factor / features**0.5, (width, features))
        norm = [nn.BatchNorm(width, dtype="float64")] if bn else []
        layers += [linear, *norm, ACTIVATIONS[activation](), Tap()]
    return nn.Sequential(*layers, nn.Linear(width, 10, rng=rng, dtype="float64"))


def measure(settings: Settings, network: str, seed: int) -> dict[str, Any]:
    """Return the gradient norms before training, and what training comes to."""
    data = training.load(settings.data[0], settings.images, 2000)
    net = build(settings, network, int(np.prod(data.input_shape)), seed)
    x, labels = data.x_train[seed * ROWS :][:ROWS].astype(np.float64), data.y_train[seed * ROWS :]
    _, dlogits = nn.CrossEntropyLoss()(net(x), labels[:ROWS])
    net.backward(dlogits)
    norms = [layer.norm for layer in net if isinstance(layer, Tap)]
    trainer = Trainer(net, optimizer=optim.Adam(net.parameters(), lr=1e-3))
    stopped = training.fit(trainer, data, settings.steps, settings.batch_size, seed)
    return {
        "norms": norms,
        "first_layer": norms[0],
        "last_layer": norms[-1],
        "growth_a_layer": (norms[0] / norms[-1]) ** (1 / (len(norms) - 1)),
        "test_accuracy": None if stopped else trainer.evaluate(data).accuracy,
    }


def judge(results: Results) -> list[Claim]:
    """Set what the texts say beside what was measured."""
    factors, steps = results.settings.factors, results.settings.layers - 1

    def of(key: str, activation: str, bn: bool, factor: float) -> Spread:
        return results.spread(name_of(activation, bn, factor), key)

    kinds = [(a, bn) for a in ACTIVATIONS for bn in (False, True)]
    growth = {kind: [of("growth_a_layer", *kind, f).mean for f in factors] for kind in kinds}
    learn = {k: sum(of("test_accuracy", *k, f).mean > LEARNED for f in factors) for k in kinds}
    said = [
        f"{a} {'with' if bn else 'without'} BN × {min(v):.3g} to {max(v):.3g}"
        for (a, bn), v in growth.items()
    ]
    return [
        Claim(
            sources.TUTORIAL_C,
            "Without BN, a sigmoid's gradient shrinks to a quarter or less with every layer.",
            verdict(of("growth_a_layer", "sigmoid", False, 1.0).mean <= 0.25),
            f"× {of('growth_a_layer', 'sigmoid', False, 1.0):.3f} a layer at weights × 1: from "
            f"{of('last_layer', 'sigmoid', False, 1.0).mean:.1e} in the last of {steps + 1} to "
            f"{of('first_layer', 'sigmoid', False, 1.0).mean:.1e} in the first.",
            "gradients",
        ),
        Claim(
            sources.TUTORIAL_C,
            "Weights of 100 make the gradients explode.",
            verdict(*(growth[a, False][-1] > 1.5 for a in ACTIVATIONS)),
            f"At weights × {factors[-1]:g}: sigmoid × {growth['sigmoid', False][-1]:.2f} a layer, "
            f"ReLU × {growth['ReLU', False][-1]:.1f}. Saturation works against it in sigmoids.",
            "gradients",
        ),
        Claim(
            sources.PAPER,
            "With BN, the scale of the weights does not change the gradient that is passed on.",
            verdict(*(max(growth[a, True]) / min(growth[a, True]) < 1.1 for a in ACTIVATIONS)),
            f"Growth a layer over all factors: {'; '.join(said)}.",
            "growth",
        ),
        Claim(
            sources.PAPER,
            "BN keeps gradients from vanishing and from exploding.",
            verdict(*(0.9 < g < 1.1 for a in ACTIVATIONS for g in growth[a, True])),
            "In all layers together: "
            + ", ".join(f"{a} × {max(growth[a, True]) ** steps:.3g}" for a in ACTIVATIONS)
            + ". With ReLU it still grows, if slowly.",
            "growth",
        ),
        Claim(
            sources.TUTORIAL_D,
            "BN makes a network less sensitive to its initial values.",
            verdict(*(learn[a, True] > learn[a, False] for a in ACTIVATIONS)),
            f"Of {len(factors)} factors, so many learn at all: "
            + "; ".join(f"{a} {learn[a, True]}, without BN {learn[a, False]}" for a in ACTIVATIONS),
            "accuracy",
        ),
    ]


def draw(results: Results) -> Drawn:
    """Draw norms over layers, and growth and accuracy over the scale of the weights."""
    from fastbn.experiments import plots

    settings: Settings = results.settings
    title = "Gradient before training, by the factor of the initial weights"
    drawn, axes = plots.figure(title, 2, 2, sharex=True, sharey=True)
    names = [f"× {factor:g}" for factor in settings.factors]
    kinds = [(a, bn) for a in ACTIVATIONS for bn in (False, True)]
    for (activation, bn), place in zip(kinds, axes.flat, strict=True):
        for factor, name in zip(settings.factors, names, strict=True):
            norms = results.series(name_of(activation, bn, factor), "norms")
            layers = range(1, settings.layers + 1)
            plots.curve(place, layers, norms, name, plots.style(name, names))
        place.set(title=f"{activation}, {'BN' if bn else 'no BN'}", yscale="log")
        place.set(xlabel="hidden layer", ylabel="norm of ∂loss/∂output", xticks=[*layers][::3])
    axes[0, 0].legend(fontsize=7)
    yield "gradients", drawn
    for key, name, title, scale in (
        ("growth_a_layer", "growth", "Growth of the gradient from layer to layer below", "log"),
        ("test_accuracy", "accuracy", f"Test accuracy after {settings.steps} steps", "linear"),
    ):
        drawn, axes = plots.figure(title, 1, 2, sharey=True)
        for activation, place in zip(ACTIVATIONS, axes.flat, strict=True):
            for bn, label in ((False, plots.NO_BN), (True, plots.BN)):
                of = [results.series(name_of(activation, bn, f), key) for f in settings.factors]
                plots.curve(place, settings.factors, np.stack(of, 1), label, plots.style(label))
            place.set(title=activation, xlabel="factor of the weights", xscale="log", yscale=scale)
        axes[0, 0].set(ylabel=name)
        axes[0, 0].legend()
        yield name, drawn


experiment = Experiment(
    name="vanishing-gradient",
    doc=__doc__,
    full=Settings(),
    quick=Settings(data=("digits",), images=1437, factors=(0.1, 1.0, 100.0), steps=60),
    networks=networks,
    measure=measure,
    judge=judge,
    draw=draw,
)
