"""Is it internal covariate shift? Noise after BN, and the loss along the gradient.

Santurkar et al. (2018) on a smaller network: six 3×3 convolutions of 16, 16, 32, 32, 32 and 32
channels with ReLU, pools after each second one, an average and a Linear; 10,000 of CIFAR-10's
images at half their size, SGD at 0.05 in batches of 64. "BN + noise" undoes what BN does: after
every BN, each channel of each sample is scaled and shifted at random, around a scale and a shift
that are drawn anew for every channel and step, with the paper's sizes (0.5, 1.25, 0.1, 0.1).

Shift is how far the mean of what reaches the fourth convolution's ReLU moves, channel by channel in
standard deviations, from one step to the next on the same images; with BN it is BN's output. Now
and then, steps of 0.5 to 4 times the rate are tried along the gradient of a batch. Measured are the
range of the losses, how much the gradient changes (predictiveness), and the largest ratio of that
change to the distance (β, smoothness), with the same noise at every step. Inference has no noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fastbn import nn, optim
from fastbn.experiments import inceptions, sources, training
from fastbn.experiments.experiment import Claim, Drawn, Experiment, Results, Spread, verdict
from fastbn.experiments.landscape import Look, Noise
from fastbn.train import Trainer

PLAIN, BN, NOISY = "no BN", "BN", "BN + noise"
SPREADS = {"loss_range": "range of the loss", "gradient_change": "change of the gradient (L2)",
           "beta": "β, largest"}  # fmt: skip


@dataclass(frozen=True)
class Settings(inceptions.Settings):
    """Sizes, and how long to train."""

    images: int = 10_000
    channels: tuple[int, ...] = (16, 16, 32, 32, 32, 32)
    batch_size: int = 64
    steps: int = 600
    every: int = 30
    rate: float = 0.05


def networks(settings: Settings) -> tuple[str, ...]:
    """Return the three."""
    return PLAIN, BN, NOISY


def build(settings: Settings, network: str, seen: int, seed: int) -> nn.Sequential:
    """Return a network, with the weights of He et al. (2015)."""
    rng = np.random.default_rng(seed)
    layers: list[nn.Module] = []
    for number, count in enumerate(settings.channels):
        conv = nn.Conv2d(seen, count, 3, padding=1, rng=rng)
        conv.weight.data = conv.weight.data * 6**0.5
        norm: list[nn.Module] = [] if network == PLAIN else [nn.BatchNorm(count)]
        norm += [Noise(seed)] if network == NOISY else []
        layers += [conv, *norm, nn.ReLU(), *([nn.MaxPool2d(2)] if number % 2 else [])]
        seen = count
    return nn.Sequential(*layers, nn.GlobalAvgPool2d(), nn.Linear(seen, 10, rng=rng))


def measure(settings: Settings, network: str, seed: int) -> dict[str, Any]:
    """Return losses, shift, and what lies along the gradient."""
    data = training.load(settings.data[0], settings.images, settings.test_images)
    x, test = (inceptions.images_of(settings, part) for part in (data.x_train, data.x_test))
    net = build(settings, network, x.shape[-1], seed)
    upto = [i for i, layer in enumerate(net) if isinstance(layer, nn.ReLU)][3]
    look = Look(x[-256:], data.y_train[-256:], settings.rate, upto)
    trainer = Trainer(net, optimizer=optim.SGD(net.parameters(), lr=settings.rate))
    steps = range(settings.every, settings.steps, settings.every)
    along = training.Watch(steps, look.along)
    pairs = training.Watch([s + i for s in steps for i in (0, 1)], look.means)
    losses = training.Watch(range(1, settings.steps + 1), training.last_loss)
    rows = (x[:-256], data.y_train[:-256])
    batch = settings.batch_size
    training.fit(trainer, rows, settings.steps, batch, seed, [losses, along, pairs])
    shifts = [np.mean(np.abs(b[0] - a[0]) / (a[1] + 1e-6))
              for a, b in zip(pairs.values[::2], pairs.values[1::2], strict=True)]  # fmt: skip
    smooth = np.array(losses.values).reshape(-1, settings.every).mean(axis=1)
    curves = {key: [value[key] for value in along.values] for key in SPREADS}
    return {
        "steps": list(steps),
        "losses": smooth,
        "last_loss": smooth[-1],
        "test_accuracy": trainer.evaluate((test, data.y_test)).accuracy,
        "shift": float(np.mean(shifts)),
        **{f"{key}_over_steps": values for key, values in curves.items()},
        **{key: float(np.mean(values)) for key, values in curves.items()},
    }


def judge(results: Results) -> list[Claim]:
    """Set what the papers say beside what was measured."""

    def of(key: str) -> dict[str, Spread]:
        return {name: results.spread(name, key) for name in results.networks}

    def told(key: str, spec: str = ".3g") -> str:
        said = ", ".join(f"{name} {spread:{spec}}" for name, spread in of(key).items())
        return f"{key.replace('_', ' ').capitalize()}: {said}."

    loss = {name: spread.mean for name, spread in of("last_loss").items()}
    shift = {name: spread.mean for name, spread in of("shift").items()}
    claims = [
        (sources.PAPER, "BN keeps the distributions of layers' inputs steadier.",
         verdict(shift[BN] < shift[PLAIN]), told("shift"), "shift"),
        (sources.SANTURKAR, "Noise behind BN makes them less steady than without BN.",
         verdict(shift[NOISY] > shift[PLAIN]), told("shift"), "shift"),
        (sources.SANTURKAR, "And yet training is almost as fast as with BN, faster than without.",
         verdict(loss[NOISY] < loss[PLAIN], loss[NOISY] - loss[BN] < (loss[PLAIN] - loss[BN]) / 2),
         f"{told('last_loss')} {told('test_accuracy', '.1%')}", "loss"),
        *((sources.SANTURKAR, f"With BN, {text} along the gradient is smaller.",
           verdict(of(key)[BN].mean < of(key)[PLAIN].mean), told(key), "gradient")
          for key, text in SPREADS.items()),
    ]  # fmt: skip
    return [Claim(*claim) for claim in claims]


def draw(results: Results) -> Drawn:
    """Draw the loss, the shift, and what lies along the gradient."""
    from fastbn.experiments import plots

    names, every = results.networks, results.settings.every
    drawn, axes = plots.figure("Training loss: noise behind BN")
    for name in names:
        losses = results.series(name, "losses")
        steps = every * np.arange(1, losses.shape[1] + 1)
        plots.curve(axes[0, 0], steps, losses, name, plots.style(name, names))
    axes[0, 0].set(xlabel="step", ylabel=f"loss, mean of {every} steps")
    axes[0, 0].legend()
    yield "loss", drawn
    drawn, axes = plots.figure("Shift of a layer's input from step to step")
    values = [results.series(name, "shift") for name in names]
    plots.bars(axes[0, 0], names, values, [plots.style(name, names) for name in names])
    axes[0, 0].set(xlabel="change of the channels' means, in standard deviations")
    yield "shift", drawn
    drawn, axes = plots.figure("Along the gradient, 0.5 to 4 times the learning rate", 1, 3)
    for (key, label), place in zip(SPREADS.items(), axes.flat, strict=True):
        for name in names:
            steps, series = (results.series(name, k) for k in ("steps", f"{key}_over_steps"))
            plots.curve(place, steps[0], series, name, plots.style(name, names))
        place.set(xlabel="step", ylabel=label, yscale="log")
    axes[0, 0].legend()
    yield "gradient", drawn


experiment = Experiment(
    name="shift",
    doc=__doc__,
    full=Settings(),
    quick=Settings(
        data=("digits",), images=1437, test_images=300, shrink=1, channels=(8,) * 6, steps=120
    ),
    networks=networks,
    measure=measure,
    judge=judge,
    draw=draw,
)
