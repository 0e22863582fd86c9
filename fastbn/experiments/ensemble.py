"""Several Inceptions with BN averaged, one image seen several times, and little dropout.

The paper's section 4.2.3 in kind: six networks as BN-x5 of "Inception on small images" trains them,
from other initial weights and in another order, every second with 5 % dropout, every third with
10 %. Their class probabilities are averaged. For multi-crop, every test image is seen in ten forms:
shifted by a pixel to the four corners or not at all, mirrored or not.

With ten classes instead of a thousand, the error of the two most likely classes takes the place of
the paper's top-5 error: 7.82 % of one network, 5.82 % with crops, 4.9 % of the ensemble of six with
crops (4.82 % on the test set).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fastbn import functional as F
from fastbn.experiments import inceptions, sources, training
from fastbn.experiments.experiment import Array, Claim, Drawn, Experiment, Results, Spread, verdict

DROPOUTS = (0.0, 0.05, 0.1)
CORNERS = ((1, 1), (0, 0), (0, 2), (2, 0), (2, 2))


@dataclass(frozen=True)
class Settings(inceptions.Settings):
    """Sizes, and how long to train."""

    members: int = 6
    steps: int = 900


def networks(settings: Settings) -> list[str]:
    """Return the members."""
    return [f"network {number + 1}" for number in range(settings.members)]


def crops(x: Array) -> list[Array]:
    """Return ten forms of every image, the image itself first."""
    _, h, w, _ = x.shape
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    moved = [padded[:, i : i + h, j : j + w] for i, j in CORNERS]
    return [np.ascontiguousarray(m[:, :, ::way]) for way in (1, -1) for m in moved]


def measure(settings: Settings, network: str, seed: int) -> dict[str, Any]:
    """Return probabilities of the test images, seen once and ten times."""
    number = int(network.split()[1]) - 1
    data = training.load(settings.data[0], settings.images, settings.test_images)
    x, test = (inceptions.images_of(settings, part) for part in (data.x_train, data.x_test))
    kind = inceptions.Kind(dropout=DROPOUTS[number % len(DROPOUTS)])
    of_member = 100 * seed + number
    trainer, _ = inceptions.train(settings, kind, x, data.y_train, of_member)
    seen = [F.softmax(np.array(trainer.predict(form)))[0] for form in crops(test)]
    once, many = seen[0], np.mean(seen, axis=0)
    return {
        "dropout": kind.dropout,
        "labels": data.y_test,
        "once": once.astype(np.float64).round(5),
        "many": many.astype(np.float64).round(5),
        "error": wrong(once, data.y_test),
        "error_with_crops": wrong(many, data.y_test),
        "top_2_error": wrong(once, data.y_test, 2),
        "top_2_error_with_crops": wrong(many, data.y_test, 2),
    }


def wrong(probabilities: Array, labels: Array, top: int = 1) -> float:
    """Return the share of images whose class is not among the most likely ones."""
    likely = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
    return float(1.0 - (likely == np.asarray(labels)[:, None]).any(axis=1).mean())


def together(results: Results, key: str, members: int, top: int = 1) -> Spread:
    """Return the error of the mean over the first so many members, by seed."""
    names = results.networks[:members]
    mean = np.mean([results.series(name, key) for name in names], axis=0)
    labels = results.series(names[0], "labels")
    return Spread([wrong(p, y, top) for p, y in zip(mean, labels, strict=True)])


def judge(results: Results) -> list[Claim]:
    """Set what the paper says beside what was measured."""
    names = results.networks
    count = len(names)

    def single(key: str) -> Array:
        return np.array([results.series(name, key) for name in names])  # (members, seeds)

    best = Spread(single("error").min(axis=0).tolist())
    mean = {key: Spread(single(key).mean(axis=0).tolist()) for key in (
        "error", "error_with_crops", "top_2_error", "top_2_error_with_crops")}  # fmt: skip
    all_once, all_many = (together(results, key, count) for key in ("once", "many"))
    top_many = together(results, "many", count, 2)
    fewer = 1 - top_many.mean / mean["top_2_error"].mean
    by_dropout = {p: np.mean([v for name, v in zip(names, single("error").mean(axis=1), strict=True)
                              if results.series(name, "dropout")[0] == p])
                  for p in DROPOUTS[:count]}  # fmt: skip
    claims = [
        ("An ensemble is better than its best network.", verdict(all_once.mean < best.mean),
         f"Error of {count} together {all_once:.1%}, of the best one {best:.1%}, of one on average "
         f"{mean['error']:.1%}.", "error"),
        ("Several crops are better than one.",
         verdict(mean["error_with_crops"].mean < mean["error"].mean,
                 all_many.mean < all_once.mean),
         f"One network {mean['error']:.1%}, with crops {mean['error_with_crops']:.1%}; the "
         f"ensemble {all_once:.1%}, with crops {all_many:.1%}.", "error"),
        ("From one network and crop to the ensemble with crops, a third of the top-5 errors goes "
         "(7.82 % to 4.9 %).", verdict(fewer > 1 / 3),
         f"Top-2 error {mean['top_2_error']:.1%}, with crops {mean['top_2_error_with_crops']:.1%}, "
         f"of the ensemble with crops {top_many:.1%}: {fewer:.0%} fewer.", "error"),
        ("Members have little dropout, 5 % or 10 %.",
         verdict(*(by_dropout[p] <= by_dropout[0.0] for p in by_dropout if p)),
         "Error: " + ", ".join(f"dropout {p:.0%}: {e:.1%}" for p, e in by_dropout.items()) + ".",
         None),
    ]  # fmt: skip
    return [Claim(sources.PAPER, *claim) for claim in claims]


def draw(results: Results) -> Drawn:
    """Draw the error over the number of networks that are averaged."""
    from fastbn.experiments import plots

    numbers = range(1, len(results.networks) + 1)
    labels = {"once": "one crop", "many": "ten crops"}
    drawn, axes = plots.figure("Test error of BN-Inceptions averaged")
    for key, label in labels.items():
        errors = np.array([together(results, key, n).values for n in numbers]).T
        look = plots.STYLES[plots.BN] if key == "once" else plots.OTHERS[0]
        plots.curve(axes[0, 0], numbers, errors, label, look)
    axes[0, 0].set(xlabel="networks", ylabel="test error", xticks=list(numbers))
    axes[0, 0].legend()
    yield "error", drawn


experiment = Experiment(
    name="ensemble",
    doc=__doc__,
    full=Settings(),
    quick=Settings(
        data=("digits",),
        images=640,
        test_images=200,
        shrink=1,
        width=2,
        steps=100,
        rate=0.03,
        members=3,
    ),
    networks=networks,
    measure=measure,
    judge=judge,
    draw=draw,
)
