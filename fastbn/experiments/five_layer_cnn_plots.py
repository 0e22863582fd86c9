"""The plots of ``five-layer-cnn``: curves at one rate, accuracies at all, and the mistakes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from fastbn.experiments import plots
from fastbn.experiments.experiment import Drawn, Results


def draw(
    results: Results, variants: Sequence[str], name_of: Callable[[str, str, float], str]
) -> Drawn:
    """Yield all plots; the first two variants are without and with BN."""
    settings = results.settings
    data, rate = settings.data, settings.rate
    looks = range(0, settings.steps + 1, settings.look_every)
    drawn, axes = plots.figure(f"Learning rate {rate:g}", 2, len(data), sharex=True)
    for name, column in zip(data, axes.T, strict=True):
        for variant in variants[:2]:
            network, look = name_of(name, variant, rate), plots.style(variant)
            loss = results.series(network, "loss")
            steps = range(1, settings.steps + 1, settings.loss_every)
            plots.curve(column[0], steps, loss, variant, look)
            plots.curve(column[1], looks, results.series(network, "accuracy"), variant, look)
        column[0].set(title=name, ylabel="training loss", yscale="log")
        column[1].set(xlabel="step", ylabel="test accuracy", ylim=(0, 1))
        column[1].legend()
    yield "curves", drawn

    title = f"Test accuracy after {settings.sweep_steps} steps"
    drawn, axes = plots.figure(title, 1, len(data), sharey=True)
    for name, place in zip(data, axes.flat, strict=True):
        for variant in variants[:2]:
            found = [
                results.series(name_of(name, variant, r), "after_sweep_steps")
                for r in settings.rates
            ]
            plots.curve(place, settings.rates, np.stack(found, 1), variant, plots.style(variant))
        place.set(title=name, xlabel="learning rate", xscale="log", ylim=(0, 1))
        place.legend()
    axes[0, 0].set(ylabel="test accuracy")
    yield "rates", drawn

    drawn, axes = plots.figure(f"BN as the tutorial has it, on {data[0]}")
    for variant in variants[1:]:
        accuracy = results.series(name_of(data[0], variant, rate), "accuracy")
        plots.curve(axes[0, 0], looks, accuracy, variant, plots.style(variant, variants))
    axes[0, 0].set(xlabel="step", ylabel="test accuracy", ylim=(0, 1))
    axes[0, 0].legend()
    yield "mistakes", drawn
