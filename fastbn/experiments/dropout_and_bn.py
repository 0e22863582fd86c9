"""Few training images: neither, dropout, BN, and both in either order.

An MLP 784-256-256-10 on 300, 1,000 and 3,000 images of MNIST, Adam at 0.001, batches of 50, as many
steps for every size, so that all fit their training images. "BN, dropout" is Linear, BN, ReLU,
dropout; "dropout, BN" is Linear, dropout, BN, ReLU. Dropout is 0.5.

Masks are drawn after training, too: the accuracy with one mask, of the mean of the probabilities
over many masks, and of the whole network with dropout off, which approximates that mean. After
training, BN's statistics are also computed anew with dropout off (recalibrated).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fastbn import functional as F
from fastbn import nn
from fastbn.experiments import sources, training
from fastbn.experiments.experiment import Array, Claim, Drawn, Experiment, Results, Spread, verdict
from fastbn.train import Trainer

NONE, DROPOUT, BN, AFTER, BEFORE = "neither", "dropout", "BN", "BN, dropout", "dropout, BN"
KINDS = (NONE, DROPOUT, BN, AFTER, BEFORE)
FITTED = 0.1  # training loss


@dataclass(frozen=True)
class Settings:
    """Sizes, and how long to train."""

    data: tuple[str, ...] = ("mnist",)
    images: tuple[int, ...] = (300, 1000, 3000)
    test_images: int = 2000
    width: int = 256
    p: float = 0.5
    masks: int = 30
    batch_size: int = 50
    steps: int = 1500


def networks(settings: Settings) -> dict[str, tuple[str, int]]:
    """Return kind and number of training images of every network."""
    return {f"{kind}, {n} images": (kind, n) for n in settings.images for kind in KINDS}


def build(settings: Settings, kind: str, inputs: int, seed: int) -> nn.Sequential:
    """Return a network."""
    rng, width = np.random.default_rng(seed), settings.width
    layers: list[nn.Module] = [nn.Flatten()]
    for seen in (inputs, width):
        dropout, norm = nn.Dropout(settings.p, rng=rng), nn.BatchNorm(width)
        behind: dict[str, list[nn.Module]] = {
            NONE: [nn.ReLU()],
            DROPOUT: [nn.ReLU(), dropout],
            BN: [norm, nn.ReLU()],
            AFTER: [norm, nn.ReLU(), dropout],
            BEFORE: [dropout, norm, nn.ReLU()],
        }
        layers += [nn.Linear(seen, width, rng=rng), *behind[kind]]
    return nn.Sequential(*layers, nn.Linear(width, 10, rng=rng))


def dropped_out(net: nn.Sequential, x: Array, masks: int) -> Array:
    """Return the probabilities of several networks that dropout leaves, ``(masks, N, classes)``."""
    net.eval()
    for layer in net:
        if isinstance(layer, nn.Dropout):
            layer.train()
    found = [F.softmax(np.array(net(x)))[0] for _ in range(masks)]
    net.eval()
    return np.stack(found)


def measure(settings: Settings, network: str, seed: int) -> dict[str, Any]:
    """Return accuracies on training and test images, of the network and of its parts."""
    kind, images = networks(settings)[network]
    data = training.load(settings.data[0], images, settings.test_images, seed)
    test, labels = np.ascontiguousarray(data.x_test), np.asarray(data.y_test)
    net = build(settings, kind, int(np.prod(data.input_shape)), seed)
    trainer = Trainer(net)
    steps = range(10, settings.steps + 1, 10)
    watch = training.Watch(steps, training.last_loss)
    training.fit(trainer, data, settings.steps, settings.batch_size, seed, [watch])
    fitted = np.flatnonzero(np.array(watch.values) < FITTED)
    found: dict[str, Any] = {
        "test_accuracy": trainer.evaluate(data).accuracy,
        "train_accuracy": trainer.evaluate((data.x_train, data.y_train)).accuracy,
        "steps_to_fit": float(steps[fitted[0]] if len(fitted) else settings.steps),
    }
    if kind in {DROPOUT, AFTER, BEFORE}:
        each = dropped_out(net, test, settings.masks)
        found["one_mask"] = float((each.argmax(axis=2) == labels).mean())
        found["mean_of_masks"] = float((each.mean(axis=0).argmax(axis=1) == labels).mean())
    if kind in {BN, AFTER, BEFORE}:
        nn.recalibrate(net, np.ascontiguousarray(data.x_train))
        found["recalibrated"] = trainer.evaluate(data).accuracy
    return found


def judge(results: Results) -> list[Claim]:
    """Set what the texts say beside what was measured."""
    counts = results.settings.images

    def of(kind: str, images: int, key: str = "test_accuracy") -> Spread:
        return results.spread(f"{kind}, {images} images", key)

    def told(*kinds: str, key: str = "test_accuracy", spec: str = ".1%") -> str:
        return (
            "; ".join(
                f"{n} images: " + ", ".join(f"{kind} {of(kind, n, key):{spec}}" for kind in kinds)
                for n in counts
            )
            + "."
        )

    def better(a: str, b: str, by: float = 0.0) -> list[bool]:
        return [of(a, n).mean > of(b, n).mean + by for n in counts]

    def gap(kind: str, n: int) -> float:
        return of(kind, n, "train_accuracy").mean - of(kind, n).mean

    def masks(n: int) -> tuple[Spread, Spread, Spread]:
        one, many = of(DROPOUT, n, "one_mask"), of(DROPOUT, n, "mean_of_masks")
        return one, many, of(DROPOUT, n)

    claims = [
        (sources.TUTORIAL_C, "Dropout curbs overfitting.",
         verdict(*better(DROPOUT, NONE), *(gap(DROPOUT, n) < gap(NONE, n) for n in counts)),
         f"{told(NONE, DROPOUT)} Training above test: "
         + "; ".join(f"{gap(NONE, n):.1%}, {gap(DROPOUT, n):.1%}" for n in counts) + ".",
         "accuracy"),
        (sources.TUTORIAL_C, "Dropout is an average of many networks.",
         verdict(*(many.mean > one.mean and abs(many.mean - off.mean) < 0.01
                   for one, many, off in map(masks, counts))),
         "; ".join(f"{n} images: one {one:.1%}, mean of {results.settings.masks} {many:.1%}, "
                   f"dropout off {off:.1%}" for n in counts for one, many, off in [masks(n)]) + ".",
         None),
        (sources.PAPER, "BN stands in for dropout.", verdict(*better(BN, DROPOUT, -0.002)),
         told(DROPOUT, BN), "accuracy"),
        (sources.PAPER, "With BN, dropout is not needed.",
         verdict(*(not more for more in better(AFTER, BN, 0.002))), told(BN, AFTER), "accuracy"),
        (sources.PAPER, "BN learns faster.",
         verdict(*(of(BN, n, "steps_to_fit").mean < of(NONE, n, "steps_to_fit").mean
                   for n in counts)),
         f"Steps to a training loss of {FITTED}, or all: "
         + told(NONE, BN, key="steps_to_fit", spec=".0f"), None),
        (sources.LI, "Dropout in front of BN is worse than behind it.",
         verdict(*better(AFTER, BEFORE)), told(AFTER, BEFORE), "accuracy"),
        (sources.LI, "That is for the variance, which is another in inference.",
         verdict(*(of(BEFORE, n, "recalibrated").mean > of(BEFORE, n).mean for n in counts)),
         "With statistics taken anew: " + told(BEFORE, key="recalibrated"), None),
    ]  # fmt: skip
    return [Claim(*claim) for claim in claims]


def draw(results: Results) -> Drawn:
    """Draw test accuracy over the number of training images."""
    from fastbn.experiments import plots

    counts = results.settings.images
    drawn, axes = plots.figure("Test accuracy after training on few images")
    for kind in KINDS:
        values = [results.series(f"{kind}, {n} images", "test_accuracy") for n in counts]
        look = plots.style(plots.NO_BN if kind == NONE else kind, KINDS)
        plots.curve(axes[0, 0], counts, np.stack(values, 1), kind, look)
    axes[0, 0].set(xlabel="training images", ylabel="test accuracy", xscale="log")
    axes[0, 0].set_xticks(counts, [f"{n:,}" for n in counts])
    axes[0, 0].minorticks_off()
    axes[0, 0].legend(fontsize=8)
    yield "accuracy", drawn


experiment = Experiment(
    name="dropout-and-bn",
    doc=__doc__,
    full=Settings(),
    quick=Settings(data=("digits",), images=(100, 300), test_images=300, width=64, steps=200),
    networks=networks,
    measure=measure,
    judge=judge,
    draw=draw,
)
