"""Statistics for inference: moving averages of many momenta, Algorithm 2, recalibration.

The MLP 784-128-64-10 on 20,000 images of MNIST, SGD at 0.1, in batches of 4, 16 and 64. Moving
averages do not change training, so one run keeps those of all momenta at once: its own layers have
momentum 1, which is the last batch's statistics. Momentum is the share of the new batch, as in
PyTorch; the tutorial's decay of 0.5 is a momentum of 0.5. Algorithm 2 averages the statistics of
batches of the same size after training, over the whole training set. Recalibration computes the
exact statistics of all training images, layer by layer; the others are compared with it.

"γ, β per batch" follows one text: every batch of a fixed partition has its own γ and β, which only
the steps with that batch change. Inference takes their mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fastbn import models, nn, optim
from fastbn.data import Batches
from fastbn.experiments import sources, training
from fastbn.experiments.averages import Averages, OwnAffine, norms_of, statistics_of, using
from fastbn.experiments.experiment import Claim, Drawn, Experiment, Results, verdict
from fastbn.train import Trainer

OWN = "γ, β per batch"
FAST, USUAL, SLOW = 0.5, 0.1, 0.001


@dataclass(frozen=True)
class Settings:
    """Sizes, momenta, and how long to train."""

    data: tuple[str, ...] = ("mnist",)
    images: int = 20_000
    test_images: int = 2000
    batch_sizes: tuple[int, ...] = (4, 16, 64)
    own_images: int = 1000  # for γ, β per batch, so that each batch comes often
    momenta: tuple[float, ...] = (0.001, 0.01, 0.1, 0.5, 0.9, 1.0)
    steps: int = 2000
    looks: int = 20
    rate: float = 0.1


def networks(settings: Settings) -> list[str]:
    """Return a network for every batch size, and one with γ and β of every batch, and its like."""
    return [*(f"batch {n}" for n in settings.batch_sizes), "γ, β shared", OWN]


def measure(settings: Settings, network: str, seed: int) -> dict[str, Any]:
    """Return test accuracies by the statistics that inference takes."""
    data = training.load(settings.data[0], settings.images, settings.test_images)
    net = models.mlp(data.input_shape, rng=seed)
    trainer = Trainer(net, optimizer=optim.SGD(net.parameters(), lr=settings.rate))
    if not network.startswith("batch"):
        return measure_affine(settings, network == OWN, trainer, data, seed)
    size = int(network.split()[1])
    averages = Averages(net, settings.momenta)

    def look(trainer: Trainer) -> list[float | None]:
        seen = []
        for statistics in averages.of.values():
            with using(net, statistics):
                seen.append(trainer.evaluate(data).accuracy)
        return seen

    looks = np.linspace(0, settings.steps, settings.looks + 1).astype(int)[1:].tolist()
    watch = training.Watch(looks, look)
    training.fit(trainer, data, settings.steps, size, seed, [averages, watch])
    found: dict[str, Any] = {"steps": looks, "accuracy": np.array(watch.values).T}
    found |= {f"momentum_{m:g}": a for m, a in zip(settings.momenta, watch.values[-1], strict=True)}
    batches = Batches(data.x_train, data.y_train, size, rng=seed, drop_last=True)
    nn.population_statistics(net, (x for x, _ in batches))
    found["algorithm_2"], averaged = trainer.evaluate(data).accuracy, statistics_of(net)
    nn.recalibrate(net, np.asarray(data.x_train))
    found["recalibrated"] = trainer.evaluate(data).accuracy
    # Of the first layer, whose inputs do not depend on statistics in front of it.
    ratio = float(np.mean(averaged[0][1] / norms_of(net)[0].running_var))
    return found | {"unbiased_ratio": ratio, "biased_ratio": ratio * (size - 1) / size}


def measure_affine(
    settings: Settings, own: bool, trainer: Trainer, data: Any, seed: int
) -> dict[str, Any]:
    """Return the accuracy with γ and β of every batch, or of all, after the same steps."""
    size, rows = settings.batch_sizes[-1], settings.own_images
    x, y = data.x_train[:rows], data.y_train[:rows]
    batches = Batches(x, y, size, rng=seed, shuffle=False, drop_last=True)
    affine = OwnAffine(trainer.net, len(batches))
    training.fit(trainer, batches, settings.steps, size, seed, [affine] if own else [])
    if own:
        affine.put(affine.mean())
    nn.recalibrate(trainer.net, x)
    return {"accuracy_at_the_end": trainer.evaluate(data).accuracy}


def judge(results: Results) -> list[Claim]:
    """Set what the texts say beside what was measured."""
    names = results.networks[:-2]
    spread = results.spread

    def told(*keys: str) -> str:
        return "; ".join(
            f"{n}: " + ", ".join(f"{k.replace('_', ' ')} {spread(n, k):.2%}" for k in keys)
            for n in names
        )

    def gap(name: str, key: str) -> float:
        return spread(name, "recalibrated").mean - spread(name, key).mean

    momenta = list(results.settings.momenta)
    late = {n: results.series(n, "accuracy")[:, :, -5:].std(axis=2).mean(axis=0) for n in names}
    unsteady = {m: [late[n][momenta.index(m)] for n in names] for m in (0.01, FAST)}
    first = {m: [results.series(n, "accuracy")[:, momenta.index(m), 0].mean() for n in names]
             for m in (SLOW, USUAL)}  # fmt: skip
    ratios = [(spread(n, "unbiased_ratio"), spread(n, "biased_ratio")) for n in names]
    shared, own = (spread(n, "accuracy_at_the_end") for n in results.networks[-2:])
    claims = [
        (sources.PAPER, "Averages over training batches serve inference (Algorithm 2).",
         verdict(*(abs(gap(n, "algorithm_2")) < 0.005 for n in names)),
         told("algorithm_2", "recalibrated"), "accuracy"),
        (sources.TUTORIAL_C, "Population statistics are means over batches, and unbiased.",
         verdict(*(abs(u.mean - 1) < abs(b.mean - 1) for u, b in ratios)),
         "Variance of Algorithm 2 over that of all images, with m / (m - 1) and without: "
         + "; ".join(f"{n}: {u:.3f}, {b:.3f}" for n, (u, b) in zip(names, ratios, strict=True)),
         None),
        (sources.PAPER, "Moving averages track a network's accuracy while it trains.",
         verdict(*(abs(gap(n, "momentum_0.1")) < 0.005 for n in names)),
         told("momentum_0.1", "recalibrated"), "accuracy"),
        (sources.TUTORIAL_B, "A moving average with decay 0.5 serves inference.",
         verdict(*(gap(n, "momentum_0.5") < 0.005 for n in names)),
         told("momentum_0.5", "recalibrated"), "accuracy"),
        (sources.TUTORIAL_D, "A larger momentum (share of the old value) is steadier.",
         verdict(*(a < b for a, b in zip(unsteady[0.01], unsteady[FAST], strict=True))),
         "Deviation of the last five accuracies, 0.99 and 0.5 of the old value: " + "; ".join(
             f"{n}: {a:.2%}, {b:.2%}" for n, a, b in zip(names, *unsteady.values(), strict=True)),
         "over-steps"),
        (sources.TUTORIAL_D, "A momentum (share of the old value) can be too large.",
         verdict(*(a < b - 0.01 for a, b in zip(first[SLOW], first[USUAL], strict=True))),
         "Accuracy at the first look, 0.999 and 0.9 of the old value: " + "; ".join(
             f"{n}: {a:.1%}, {b:.1%}" for n, a, b in zip(names, *first.values(), strict=True)),
         "over-steps"),
        (sources.TUTORIAL_C, "Each batch has its own γ and β (which should help, then).",
         verdict(own.mean > shared.mean + max(own.std, shared.std)),
         f"Test accuracy {own:.2%}; with one γ and β for all batches {shared:.2%}.", None),
    ]  # fmt: skip
    return [Claim(*claim) for claim in claims]


def draw(results: Results) -> Drawn:
    """Draw the accuracy over momenta, and over steps."""
    from fastbn.experiments import plots

    names, momenta = results.networks[:-2], results.settings.momenta
    title = "Test accuracy by the statistics of inference"
    drawn, axes = plots.figure(title, 1, len(names), sharey=True)
    for name, place in zip(names, axes.flat, strict=True):
        moving = np.stack([results.series(name, f"momentum_{m:g}") for m in momenta], 1)
        plots.curve(place, momenta, moving, "moving average", plots.STYLES[plots.BN])
        others = {"algorithm_2": "Algorithm 2", "recalibrated": "recalibrated"}
        for (key, label), look in zip(others.items(), plots.OTHERS, strict=False):
            flat = np.repeat(results.series(name, key)[:, None], 2, axis=1)
            plots.curve(place, (min(momenta), max(momenta)), flat, label, look)
        place.set(title=name, xscale="log", xlabel="momentum (share of the new batch)")
    axes[0, 0].set(ylabel="test accuracy")
    axes[0, 0].legend(fontsize=8)
    yield "accuracy", drawn
    drawn, axes = plots.figure(f"{title}, while training", 1, len(names), sharey=True)
    labels = [f"momentum {m:g}" for m in momenta]
    for name, place in zip(names, axes.flat, strict=True):
        steps = results.series(name, "steps")[0]
        for row, label in enumerate(labels):
            values = results.series(name, "accuracy")[:, row]
            plots.curve(place, steps, values, label, plots.style(label, labels))
        place.set(title=name, xlabel="step")
    axes[0, 0].set(ylabel="test accuracy")
    axes[0, -1].legend(fontsize=7)
    yield "over-steps", drawn


experiment = Experiment(
    name="population-statistics",
    doc=__doc__,
    full=Settings(),
    quick=Settings(
        data=("digits",), images=1437, own_images=512, test_images=300, steps=200, looks=10
    ),
    networks=networks,
    measure=measure,
    judge=judge,
    draw=draw,
)
