"""The plots of ``deep-regression``: cost, fits, an animation, and what reaches every layer."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbn.experiments import plots
from fastbn.experiments.experiment import Drawn, Results

Array = NDArray[Any]
ACTIVATIONS = ("ReLU", "tanh")
SIDES = (plots.NO_BN, plots.BN)


def draw(results: Results, points: tuple[Array, Array]) -> Drawn:
    """Yield all plots; the fits and the histograms are those of the first seed."""
    settings = results.settings
    drawn, axes = plots.figure("Cost over the steps", 1, 2, sharey=True)
    for activation, place in zip(ACTIVATIONS, axes.flat, strict=True):
        for bn in SIDES:
            values = results.series(f"{activation}, {bn}", "cost")
            steps = range(1, settings.steps + 1, settings.cost_every)
            plots.curve(place, steps, values, bn, plots.style(bn))
        place.set(title=activation, xlabel="step", yscale="log")
        place.legend()
    axes[0, 0].set(ylabel="mean squared error")
    yield "cost", drawn
    for activation in ACTIVATIONS:
        yield f"{activation}-inputs", _histograms(results, activation)
    yield from _fits(results, points)


def _histograms(results: Results, activation: str) -> Any:
    """Draw a panel for every layer, with and without BN, and in it a step below the other."""
    settings = results.settings
    title = f"{activation}: what reaches each layer over the steps (height: root of the count)"
    drawn, axes = plots.figure(title, 2, settings.layers + 1, panel=(1.6, 2.8))
    for bn, row in zip(SIDES, axes, strict=True):
        look = plots.style(bn)
        for step, layers in enumerate(results.runs[f"{activation}, {bn}"][0]["histograms"]):
            for layer, place in enumerate(row):
                if layers is None:  # training did not come so far
                    continue
                of: dict[str, Any] = layers[layer]
                counts = np.asarray(of["counts"], float) ** 0.5  # or one value hides the others
                edges = np.linspace(of["low"], of["high"], len(counts) + 1)
                top = -step + 0.9 * counts / counts.max()
                place.stairs(top, edges, baseline=-step, fill=True, color=look.color, alpha=0.5)
        for layer, place in enumerate(row):
            every = range(0, settings.steps, settings.look_every)
            place.set_yticks([-step for step in range(len(every))], every if not layer else [])
            place.set(title=f"layer {layer + 1}" if layer < settings.layers else "output")
            place.ticklabel_format(axis="x", style="sci", scilimits=(-2, 3))
        row[0].set(ylabel=f"{bn}: step")
    for place in axes[1]:
        place.set(xlabel="value")
    return drawn


def _fits(results: Results, points: tuple[Array, Array]) -> Drawn:
    """Yield the fits at the end, and an animation that comes there."""
    from matplotlib.animation import FuncAnimation

    settings = results.settings
    drawn, axes = plots.figure("Fit", 1, 2, sharey=True)
    x = np.linspace(-7, 10, 100)
    every = range(0, settings.steps, settings.fit_every)
    lines = []
    for activation, place in zip(ACTIVATIONS, axes.flat, strict=True):
        place.scatter(*points, s=3, color="#999999")
        for bn in SIDES:
            look, fits = plots.style(bn), results.series(f"{activation}, {bn}", "fits")[0]
            label = bn if np.isfinite(fits[-1]).all() else f"{bn} (not finite)"
            (line,) = place.plot(
                x, fits[-1], color=look.color, linestyle=look.linestyle, linewidth=2, label=label
            )
            lines.append((line, fits))
        place.set(title=activation, xlabel="x", ylim=(-40, 120))
        place.legend(loc="upper left")
    axes[0, 0].set(ylabel="y")

    def show(frame: int) -> list[Any]:
        drawn.suptitle(f"Fit after {every[frame]} steps")
        for line, fits in lines:
            line.set_ydata(fits[frame])
        return []

    show(len(every) - 1)
    yield "fit", drawn
    yield "fit-over-steps", FuncAnimation(drawn, show, frames=len(every))
