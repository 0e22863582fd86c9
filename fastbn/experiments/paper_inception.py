"""Inception on small images: steps to an accuracy, sigmoids, and the changes that came with BN.

The networks of the paper's section 4.2, small: 20,000 of CIFAR-10's images at half their size
(16×16, means of 2×2 pixels), two stages of two inception blocks, the first of them 48 channels
wide, batches of 32, SGD with momentum 0.9, and 1,200 steps instead of 31 million. All weights begin
as He et al. (2015) draw them. "Inception" has local response normalisation, dropout 0.4, all
distortions, and the same batches in every epoch. "BN-Baseline" is the same with BN in front of
every nonlinearity. "BN-x5" and "BN-x30" change seven things besides: the rate times 5 or 30, no
dropout, a fifth of L2, a rate that falls six times faster, no local response normalisation,
shuffling, and no distortion but mirroring.

Each of the seven is then taken back by itself in BN-x5. Steps are counted to the mean over the
seeds of Inception's best accuracy; the paper's numbers stand beside.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastbn.experiments import sources, training
from fastbn.experiments.experiment import Claim, Drawn, Experiment, Results, Spread, verdict
from fastbn.experiments.inceptions import Kind, Settings, images_of, train

PLAIN, BASE, X5, X30 = "Inception", "BN-Baseline", "BN-x5", "BN-x30"
SIGMOID, PLAIN_SIGMOID = "BN-x5-Sigmoid", "Inception-Sigmoid"
PAPER = {  # millions of steps to 72.2 %, best accuracy
    PLAIN: ("31.0M", "72.2 %"),
    BASE: ("13.3M", "72.7 %"),
    X5: ("2.1M", "73.0 %"),
    X30: ("2.7M", "74.8 %"),
    SIGMOID: ("–", "69.8 %"),
    PLAIN_SIGMOID: ("–", "0.1 %"),
}


BEFORE: dict[str, dict[str, Any]] = {
    "slow rate": {"faster": 1.0},
    "dropout": {"dropout": 0.4},
    "more L2": {"l2": 5e-4},
    "slow decay": {"decay": 1.0},
    "LRN": {"local_response": True},
    "no shuffling": {"shuffle": False},
    "distortion": {"distort": True},
}
ALL = {name: value for change in BEFORE.values() for name, value in change.items()}


def networks(settings: Settings) -> dict[str, Kind]:
    """Return the paper's six, and BN-x5 with one change taken back."""
    paper: dict[str, dict[str, Any]] = {
        PLAIN: {**ALL, "norm": False},
        BASE: ALL,
        X5: {},
        X30: {"faster": 30.0},
        SIGMOID: {"activation": "sigmoid"},
        PLAIN_SIGMOID: {**ALL, "norm": False, "activation": "sigmoid"},
    }
    changed = {f"{X5}, {name}": change for name, change in BEFORE.items()}
    return {name: Kind(**options) for name, options in (paper | changed).items()}


def measure(settings: Settings, network: str, seed: int) -> dict[str, Any]:
    """Return test accuracy over steps."""
    data = training.load(settings.data[0], settings.images, settings.test_images)
    x, test = images_of(settings, data.x_train), images_of(settings, data.x_test)
    looks = range(0, settings.steps + 1, settings.every)
    watch = training.Watch(looks, lambda t: t.evaluate((test, data.y_test)).accuracy)
    _, stopped = train(settings, networks(settings)[network], x, data.y_train, seed, watch)
    seen = [value for value in watch.values if value is not None]
    return {
        "steps": watch.steps,
        "accuracy": watch.values,
        "best_accuracy": max(seen),
        "end_accuracy": None if stopped else seen[-1],
    }


def steps_to(results: Results, network: str, accuracy: float) -> Spread:
    """Return the first step with this accuracy by seed; infinite if there is none."""
    steps = results.series(network, "steps")[0]
    reached = results.series(network, "accuracy") >= accuracy
    return Spread([float(steps[row.argmax()]) if row.any() else np.inf for row in reached])


def reached(steps: Spread) -> str:
    """Say how many steps it took."""
    return f"{steps:.0f} steps" if np.isfinite(steps.mean) else "not all seeds came"


def judge(results: Results) -> list[Claim]:
    """Set what the paper says beside what was measured."""
    best = {name: results.spread(name, "best_accuracy") for name in results.networks}
    goal = best[PLAIN].mean
    to = {name: steps_to(results, name, goal) for name in PAPER}

    def told(*names: str) -> str:
        return "; ".join(
            f"{n}: {reached(to[n])} to {goal:.1%}, best {best[n]:.1%} (paper: "
            f"{PAPER[n][0]}, {PAPER[n][1]})"
            for n in names
        )

    early = results.series(X30, "steps")[0].searchsorted(results.settings.steps / 4)
    at = {n: Spread(results.series(n, "accuracy")[:, early].tolist()) for n in (X5, X30)}
    claims = [
        ("BN-Baseline needs less than half of Inception's steps to the same accuracy.",
         verdict(to[BASE].mean < 0.5 * to[PLAIN].mean), told(PLAIN, BASE)),
        ("BN-x5 needs 14 times fewer steps, and ends higher.",
         verdict(to[X5].mean * 14 <= to[PLAIN].mean, best[X5].mean > goal),
         f"{to[PLAIN].mean / to[X5].mean:.1f} times fewer. " + told(X5)),
        ("BN-x30 is slower than BN-x5 at first.", verdict(at[X30].mean < at[X5].mean),
         f"After a quarter of the steps {at[X30]:.1%}, BN-x5 {at[X5]:.1%}."),
        ("BN-x30 ends higher than BN-x5.", verdict(best[X30].mean > best[X5].mean), told(X5, X30)),
        ("Inception with sigmoids learns with BN, and stays at chance without.",
         verdict(best[SIGMOID].mean > 0.2, best[PLAIN_SIGMOID].mean < 0.15),
         told(SIGMOID, PLAIN_SIGMOID)),
        ("With BN, sigmoids come close to ReLU.",
         verdict(best[SIGMOID].mean > best[X5].mean - 0.05),
         told(SIGMOID, X5)),
    ]  # fmt: skip
    for name in BEFORE:
        other = best[f"{X5}, {name}"]
        claims.append(
            (f"The seven changes help: without BN-x5's own, {name}.",
             verdict(other.mean < best[X5].mean),
             f"{other:.1%}, BN-x5 {best[X5]:.1%}: {other.mean - best[X5].mean:+.1%}.")
        )  # fmt: skip
    plots = ["accuracy"] * 6 + ["changes"] * len(BEFORE)
    return [Claim(sources.PAPER, *c, plot) for c, plot in zip(claims, plots, strict=True)]


def draw(results: Results) -> Drawn:
    """Draw accuracy over steps, and a bar for every change."""
    from fastbn.experiments import plots

    drawn, axes = plots.figure("Inception on small images: test accuracy", 1, 2, sharey=True)
    panels: Sequence[Sequence[str]] = ((PLAIN, BASE, X5, X30), (PLAIN, PLAIN_SIGMOID, SIGMOID, X5))
    for names, place in zip(panels, axes.flat, strict=True):
        for name in names:
            look = plots.style({PLAIN: plots.NO_BN, X5: plots.BN}.get(name, name), list(PAPER))
            steps = results.series(name, "steps")[0]
            plots.curve(place, steps, results.series(name, "accuracy"), name, look)
        place.set(xlabel="step")
        place.legend(fontsize=8)
    axes[0, 0].set(ylabel="test accuracy")
    yield "accuracy", drawn
    drawn, axes = plots.figure("BN-x5 with one change of the paper taken back")
    names = [X5, *(f"{X5}, {name}" for name in BEFORE)]
    looks = [plots.STYLES[plots.BN], *[plots.OTHERS[0]] * len(BEFORE)]
    values = [results.series(name, "best_accuracy") for name in names]
    plots.bars(axes[0, 0], [X5, *BEFORE], values, looks)
    axes[0, 0].set(xlabel="best test accuracy")
    yield "changes", drawn


experiment = Experiment(
    name="paper-inception",
    doc=__doc__,
    full=Settings(),
    quick=Settings(
        data=("digits",),
        images=640,
        test_images=200,
        shrink=1,
        width=2,
        steps=60,
        every=10,
        rate=0.03,
    ),
    networks=networks,
    measure=measure,
    judge=judge,
    draw=draw,
)
