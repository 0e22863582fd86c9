"""Small batches: BN, ghost BN, renorm, GroupNorm, LayerNorm and InstanceNorm, from 2 to 128 images.

Three 3×3 convolutions of 16, 32 and 32 channels, each with a normalisation, ReLU and a pool of 2×2,
then a Linear. CIFAR-10, 4,000 images, as many epochs for every batch size; SGD with momentum 0.9,
its rate in proportion to the batch (Goyal et al. 2017).
LayerNorm is that of Wu & He: one group of all channels. Ghost batches have 16 images, so they are
for larger batches. Renorm's limits grow from (1, 0) to (3, 5) in the first half. Test images are
seen once more at half their contrast, about the mean of all images.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastbn import nn, optim
from fastbn.experiments import sources, training
from fastbn.experiments.experiment import Claim, Drawn, Experiment, Results, Spread, verdict
from fastbn.train import Trainer

BN, GHOST, RENORM, GN, LN, IN = "BN", "ghost BN", "renorm", "GroupNorm", "LayerNorm", "InstanceNorm"
KINDS = (BN, GHOST, RENORM, GN, LN, IN)


@dataclass(frozen=True)
class Settings:
    """Sizes, and how long to train."""

    data: tuple[str, ...] = ("cifar10",)
    images: int = 4000
    test_images: int = 2000
    channels: tuple[int, ...] = (16, 32, 32)
    groups: int = 4
    ghost: int = 16
    batch_sizes: tuple[int, ...] = (2, 4, 8, 32, 128)
    epochs: int = 4
    rate: float = 0.05  # of 32 images


def networks(settings: Settings) -> dict[str, tuple[str, int]]:
    """Return kind and batch size of every network."""
    return {
        f"{kind}, batch {size}": (kind, size)
        for kind in KINDS
        for size in settings.batch_sizes
        if kind != GHOST or size > settings.ghost
    }


def norm_of(settings: Settings, kind: str, steps: int) -> Callable[[int], nn.Module]:
    """Return what makes a normalisation of so many channels."""

    def grown(step: int) -> float:
        return min(1.0, 2.0 * step / steps)

    limits = (lambda step: 1.0 + 2.0 * grown(step), lambda step: 5.0 * grown(step))
    makers: dict[str, Callable[[int], nn.Module]] = {
        BN: nn.BatchNorm,
        GHOST: lambda count: nn.BatchNorm(count, ghost_size=settings.ghost),
        RENORM: lambda count: nn.BatchNorm(count, renorm=limits),
        GN: lambda count: nn.GroupNorm(settings.groups, count),
        LN: lambda count: nn.GroupNorm(1, count),
        IN: lambda count: nn.InstanceNorm(count, affine=True),
    }
    return makers[kind]


def measure(settings: Settings, network: str, seed: int) -> dict[str, Any]:
    """Return test accuracies, and the loss of the last epoch."""
    kind, size = networks(settings)[network]
    data = training.load(settings.data[0], settings.images, settings.test_images)
    mean, std = np.mean(data.x_train), np.std(data.x_train)
    x, test = ((np.asarray(images) - mean) / std for images in (data.x_train, data.x_test))
    steps = settings.epochs * (len(x) // size)
    make, rng, seen = norm_of(settings, kind, steps), np.random.default_rng(seed), x.shape[-1]
    layers: list[nn.Module] = []
    for count in settings.channels:
        conv = nn.Conv2d(seen, count, 3, padding=1, bias=False, rng=rng)
        layers += [conv, make(count), nn.ReLU(), nn.MaxPool2d(2)]
        seen = count
    body, classes = nn.Sequential(*layers, nn.Flatten()), int(np.max(data.y_train)) + 1
    features = body.output_shape(x.shape[1:])[-1]
    net = nn.Sequential(body, nn.Linear(features, classes, rng=rng))
    rate = settings.rate * size / 32
    trainer = Trainer(net, optimizer=optim.SGD(net.parameters(), lr=rate, momentum=0.9))
    stopped = training.fit(trainer, (x, data.y_train), steps, size, seed)
    if stopped is not None:
        return {"accuracy": None, "half_contrast": None, "train_loss": None}
    return {
        "accuracy": trainer.evaluate((test, data.y_test)).accuracy,
        "half_contrast": trainer.evaluate((test / 2, data.y_test)).accuracy,
        "train_loss": trainer.history.loss[-1],
    }


def judge(results: Results) -> list[Claim]:
    """Set what the texts say beside what was measured."""
    sizes = results.settings.batch_sizes

    def of(kind: str, size: int, key: str = "accuracy") -> Spread:
        return results.spread(f"{kind}, batch {size}", key)

    def best(kind: str) -> Spread:
        return max((of(kind, size) for size in sizes), key=lambda spread: spread.mean)

    def width(kind: str) -> float:
        means = [of(kind, size).mean for size in sizes]
        return max(means) - min(means)

    def told(*kinds: str, size: int = sizes[0]) -> str:
        return f"Batch {size}: " + ", ".join(f"{kind} {of(kind, size):.1%}" for kind in kinds) + "."

    def lost(kind: str) -> float:
        return of(kind, 32).mean - of(kind, 32, "half_contrast").mean

    least, most = sizes[0], sizes[-1]
    claims = [
        (sources.TUTORIAL_D, "BN depends on the batch size, and fails for small ones.",
         verdict(width(BN) > width(GN), of(BN, least).mean < best(BN).mean - 0.05),
         "BN: " + ", ".join(f"{of(BN, s):.1%} at {s}" for s in sizes)
         + f". From the best to the worst: BN {width(BN):.1%}, GroupNorm {width(GN):.1%}.",
         "accuracy"),
        (sources.TUTORIAL_D, "GroupNorm is for small batches.",
         verdict(of(GN, least).mean > of(BN, least).mean), told(BN, GN, LN, IN), "accuracy"),
        (sources.WU, "With usual batches, BN is better than GroupNorm.",
         verdict(of(BN, 32).mean > of(GN, 32).mean), told(BN, GN, LN, IN, size=32), "accuracy"),
        (sources.IOFFE_2017, "Renorm keeps BN's accuracy in small batches.",
         verdict(*(of(RENORM, s).mean > of(BN, s).mean for s in sizes[:2])),
         " ".join(told(BN, RENORM, size=s) for s in sizes[:2]), "accuracy"),
        (sources.HOFFER, "Ghost batches make large batches generalise better.",
         verdict(of(GHOST, most).mean > of(BN, most).mean), told(BN, GHOST, size=most), "accuracy"),
        (sources.TUTORIAL_D, "InstanceNorm takes away an image's contrast.",
         verdict(lost(IN) < 0.02, lost(BN) > lost(IN)),
         "Accuracy lost at half the contrast, batch 32: "
         + ", ".join(f"{kind} {lost(kind):.1%}" for kind in (BN, GN, LN, IN)) + ".", "contrast"),
    ]  # fmt: skip
    return [Claim(*claim) for claim in claims]


def draw(results: Results) -> Drawn:
    """Draw accuracy over batch sizes, and at half the contrast."""
    from fastbn.experiments import plots

    settings: Settings = results.settings
    drawn, axes = plots.figure("Test accuracy by normalisation and batch size")
    place = axes[0, 0]
    for kind in KINDS:
        sizes = [s for s in settings.batch_sizes if f"{kind}, batch {s}" in results.networks]
        values = [results.series(f"{kind}, batch {size}", "accuracy") for size in sizes]
        plots.curve(place, sizes, np.stack(values, 1), kind, plots.style(kind, KINDS))
    place.set(xlabel="images in a batch", ylabel="test accuracy", xscale="log")
    place.set_xticks(settings.batch_sizes, [str(size) for size in settings.batch_sizes])
    place.minorticks_off()
    place.legend(fontsize=8)
    yield "accuracy", drawn
    drawn, axes = plots.figure("Test accuracy at half the contrast, batch 32")
    values = [results.series(f"{kind}, batch 32", "half_contrast") for kind in KINDS]
    plots.bars(axes[0, 0], KINDS, values, [plots.style(kind, KINDS) for kind in KINDS])
    axes[0, 0].set(xlabel="test accuracy")
    yield "contrast", drawn


experiment = Experiment(
    name="small-batches",
    doc=__doc__,
    full=Settings(),
    quick=Settings(
        data=("digits",), images=256, test_images=300, channels=(8, 16), batch_sizes=(2, 32, 128)
    ),
    networks=networks,
    measure=measure,
    judge=judge,
    draw=draw,
)
