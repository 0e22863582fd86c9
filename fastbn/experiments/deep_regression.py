"""A regression through seven hidden layers of thirty units.

y = x² − 5 + N(0, 8) at 500 points of [−7, 10]; weights from N(0, 1), biases 0.1; SGD at 0.001 on
all points at once, squared error. BN stands on the input and before each activation, with eps 0.001
and running statistics that keep half at each step, or there is none. A unit is dead if it is 0 for
all points; a value is saturated if the slope of tanh there is less than a hundredth of its maximum.
Both are counted in inference mode at the end of training, or before the step in which it diverges.
The plots show the inputs of the layers in training mode.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbn import nn, optim
from fastbn.experiments import sources, training
from fastbn.experiments.experiment import Claim, Drawn, Experiment, Results, verdict
from fastbn.nn.layerwise import calls
from fastbn.train import Trainer, monitor

Array = NDArray[Any]
NETWORKS = {
    f"{name}, {bn}": (activation, bn == "BN")
    for name, activation in (("ReLU", nn.ReLU), ("tanh", nn.Tanh))
    for bn in ("no BN", "BN")
}
BINS = 30


@dataclass(frozen=True)
class Settings:
    """Those of the tutorial, which are small."""

    points: int = 500
    layers: int = 7
    units: int = 30
    lr: float = 0.001
    steps: int = 251
    cost_every: int = 5
    fit_every: int = 10
    look_every: int = 50


def points(settings: Settings, seed: int) -> tuple[Array, Array]:
    """Return x and y, ``(points, 1)``, in random order."""
    rng = np.random.default_rng(seed)
    x = rng.permutation(np.linspace(-7, 10, settings.points))[:, None]
    return x.astype(np.float32), (x**2 - 5 + rng.normal(0, 8, x.shape)).astype(np.float32)


def build(settings: Settings, network: str, seed: int) -> nn.Sequential:
    """Return a network."""
    activation, bn = NETWORKS[network]
    rng = np.random.default_rng(1000 + seed)
    layers: list[nn.Module] = []
    sizes = [1, *[settings.units] * settings.layers, 1]
    for number, (inputs, outputs) in enumerate(pairwise(sizes)):
        if number:
            layers.append(activation())
        linear = nn.Linear(inputs, outputs)
        linear.load_state_dict(
            {"weight": rng.normal(0, 1, (outputs, inputs)), "bias": np.full(outputs, 0.1)}
        )
        layers.append(linear)
        if bn and number < settings.layers:
            layers.append(nn.BatchNorm(outputs, eps=1e-3, momentum=0.5))
    if bn:
        layers.insert(0, nn.BatchNorm(1, eps=1e-3, momentum=0.5))
    return nn.Sequential(*layers)


def histograms(net: nn.Module, x: Array) -> list[dict[str, Any]]:
    """Return the histogram of what reaches each Linear layer, with the statistics of the batch."""
    found = []
    for _, layer, (given,), _ in calls(copy.deepcopy(net).train(), x):
        if isinstance(layer, nn.Linear):
            counts, edges = np.histogram(given, BINS)
            found.append({"counts": counts, "low": edges[0], "high": edges[-1]})
    return found


def measure(settings: Settings, network: str, seed: int) -> dict[str, Any]:
    """Return cost, fits and histograms over the steps, and what the units are like at the end."""
    x, y = points(settings, seed)
    net = build(settings, network, seed)
    line = np.linspace(-7, 10, 100, dtype=np.float32)[:, None]
    steps = settings.steps
    cost = training.Watch(range(1, steps + 1, settings.cost_every), training.last_loss)
    fits = training.Watch(range(0, steps, settings.fit_every), lambda t: t.predict(line)[:, 0])
    looks = training.Watch(range(0, steps, settings.look_every), lambda t: histograms(t.net, x))
    trainer = Trainer(net, nn.MSELoss(), optim.SGD(net.parameters(), lr=settings.lr))
    watches = [cost, fits, looks]
    diverged = training.fit(trainer, (x, y), steps, len(x), seed, watches)
    with np.errstate(invalid="ignore"):  # the output of one that has diverged
        layers = monitor.look(net, x)["layers"].values()
    units = [of.get("dead", of.get("saturated")) for of in layers if len(of) > 2]
    with net.evaluating():
        *_, (_, _, (deepest,), _) = calls(net, x)
    return {
        "cost": cost.values,
        "fits": [[None] * len(line) if fit is None else fit for fit in fits.values],
        "histograms": looks.values,
        "cost_at_the_end": None if diverged else cost.values[-1],
        "cost_in_inference_mode": None if diverged else trainer.evaluate((x, y)).loss,
        "steps": trainer.steps,
        "dead_or_saturated": float(np.mean(units)),
        "zeros_in_the_last_layer": float((deepest == 0).mean()),
    }


def judge(results: Results) -> list[Claim]:
    """Set what the tutorial says beside what was measured."""
    share = {name: results.spread(name, "dead_or_saturated") for name in NETWORKS}
    end = {name: results.spread(name, "cost_at_the_end") for name in NETWORKS}
    steps = results.spread("ReLU, no BN", "steps")
    zeros = results.spread("ReLU, no BN", "zeros_in_the_last_layer")
    inference = results.spread("ReLU, BN", "cost_in_inference_mode")
    start = {a: results.series(f"{a}, BN", "cost")[:, 0].mean() for a in ("ReLU", "tanh")}
    return [
        Claim(
            sources.TUTORIAL_B,
            "Without BN, ReLU: all values of the deep layers become 0.",
            verdict(zeros.mean > 0.99),
            f"{zeros:.0%} of what reaches the output layer is 0 when training ends; it ends after "
            f"{steps:.0f} steps, for then the outputs are not finite.",
            "ReLU-inputs",
        ),
        Claim(
            sources.TUTORIAL_B,
            "Without BN, ReLU: units die.",
            verdict(share["ReLU, no BN"].mean > share["ReLU, BN"].mean + 0.1),
            f"Dead: {share['ReLU, no BN']:.0%} without BN, {share['ReLU, BN']:.1%} with BN.",
            "ReLU-inputs",
        ),
        Claim(
            sources.TUTORIAL_B,
            "Without BN, ReLU: the curve of the cost vanishes.",
            verdict(not np.isfinite(end["ReLU, no BN"].mean)),
            f"Cost at the end: {end['ReLU, no BN']:.0f}.",
            "cost",
        ),
        Claim(
            sources.TUTORIAL_B,
            "Without BN, tanh: all values are at −1 or 1.",
            verdict(share["tanh, no BN"].mean > 0.95, share["tanh, no BN"].mean > 0.5),
            f"Saturated: {share['tanh, no BN']:.0%} without BN, {share['tanh, BN']:.1%} with BN.",
            "tanh-inputs",
        ),
        Claim(
            sources.TUTORIAL_B,
            "With BN, most units live and the cost falls.",
            verdict(
                *(share[f"{a}, BN"].mean < 0.5 for a in start),
                *(end[f"{a}, BN"].mean < first / 4 for a, first in start.items()),
            ),
            "; ".join(
                f"{a}: from {first:.0f} to {end[f'{a}, BN']:.0f}" for a, first in start.items()
            )
            + f"; tanh without BN ends at {end['tanh, no BN']:.0f}. The noise alone is 64.",
            "cost",
        ),
        Claim(
            sources.TUTORIAL_B,
            "Moving averages that keep half at each step will do for inference.",
            verdict(abs(inference.mean / end["ReLU, BN"].mean - 1) < 0.1),
            f"ReLU: cost {inference:.1f} in inference mode, {end['ReLU, BN']:.1f} in training "
            "mode; but every batch is the whole set here.",
            "cost",
        ),
    ]


def draw(results: Results) -> Drawn:
    """Draw cost, fits, and what reaches every layer."""
    from fastbn.experiments import deep_regression_plots

    yield from deep_regression_plots.draw(results, points(results.settings, 0))


experiment = Experiment(
    name="deep-regression",
    doc=__doc__,
    full=Settings(),
    quick=Settings(steps=101),
    networks=lambda settings: NETWORKS,
    measure=measure,
    judge=judge,
    draw=draw,
)
