"""Sequences of several lengths, padded to one: BN, BN with a mask, LN.

The rows of an image are the steps of a sequence; each is repeated 1, 2 or 4 times, so that lengths
differ, and zeros pad them to the longest. Two convolutions along the sequence, each
with a normalisation and ReLU, then the mean over the steps that are real, and the classes. Adam at
0.002. The mask tells BN which steps are real. The effect of padding is how much the outputs for a
batch change in training mode if it is padded to twice the length: root mean square, in standard
deviations of the outputs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbn import nn, optim
from fastbn.experiments import sources, training
from fastbn.experiments.experiment import Claim, Drawn, Experiment, Results, Spread, verdict
from fastbn.train import Trainer

Array = NDArray[Any]
NORMS: dict[str, Callable[[int], nn.Module] | None] = {
    "no BN": None,
    "BN": nn.BatchNorm,
    "BN with a mask": nn.BatchNorm,
    "LN": nn.LayerNorm,
}
REPEATS = (1, 2, 4)


@dataclass(frozen=True)
class Settings:
    """Sizes, and how long to train."""

    data: tuple[str, ...] = ("mnist",)
    images: int = 10_000
    channels: int = 32
    batch_sizes: tuple[int, ...] = (32, 4)
    steps: int = 600
    look_every: int = 50


class Classifier(nn.Module):
    """x (N, T, F + 1), of which the last tells what is real (1), to logits (N, classes)."""

    def __init__(self, features: int, channels: int, classes: int, kind: str, seed: int) -> None:
        super().__init__()
        rng, norm = np.random.default_rng(seed), NORMS[kind]
        layers: list[nn.Module] = []
        for inputs in (features, channels):
            layers += [nn.Conv1d(inputs, channels, 3, padding=1, rng=rng)]
            layers += [*([norm(channels)] if norm else []), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.head: nn.Module = nn.Linear(channels, classes, rng=rng)
        self.classes = classes
        self.masked = "mask" in kind

    def forward(self, x: Array) -> tuple[Array, Any]:
        """Take the mean over what is real."""
        real = x[..., -1] > 0.5
        h = self.body(np.ascontiguousarray(x[..., :-1]), mask=real if self.masked else None)
        share = real / real.sum(1, keepdims=True, dtype=x.dtype)
        return self.head(np.einsum("ntc,nt->nc", h, share)), share

    def backward(self, dy: Array, saved: Any, need_dx: bool = True) -> Array | None:
        """Hand the gradient to the steps that are real; there is none by what is real."""
        dh = np.einsum("nc,nt->ntc", self.head.backward(dy), saved)
        dx = self.body.backward(dh, need_dx=need_dx)
        return np.pad(dx, ((0, 0), (0, 0), (0, 1))) if need_dx else None

    def output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the number of classes."""
        return (self.classes,)


def sequences(images: Any, seed: int) -> tuple[Array, Array]:
    """Return sequences ``(N, T, F + 1)`` of an image's rows, and how often each row is said."""
    count, steps = images.shape[:2]
    rows = images.reshape(count, steps, -1)
    times = np.random.default_rng(seed).choice(REPEATS, count)
    x = np.zeros((count, steps * max(REPEATS), rows.shape[-1] + 1), np.float32)
    for often in REPEATS:
        said = np.repeat(rows[times == often], often, axis=1)
        x[times == often, : steps * often, :-1] = said
        x[times == often, : steps * often, -1] = 1
    return x, times


def networks(settings: Settings) -> dict[str, tuple[str, int]]:
    """Return normalisation and batch size of every network."""
    return {
        f"{kind}, batch {size}": (kind, size) for size in settings.batch_sizes for kind in NORMS
    }


def measure(settings: Settings, network: str, seed: int) -> dict[str, Any]:
    """Return the accuracy over the steps, that of every length, and the effect of padding."""
    kind, batch_size = networks(settings)[network]
    data = training.load(settings.data[0], settings.images, 1000)
    x, _ = sequences(data.x_train, 0)
    test, times = sequences(data.x_test, 1)
    net = Classifier(x.shape[-1] - 1, settings.channels, data.outputs, kind, seed)
    looks = range(0, settings.steps + 1, settings.look_every)
    accuracy = training.Watch(looks, lambda t: t.evaluate((test, data.y_test)).accuracy)
    trainer = Trainer(net, optimizer=optim.Adam(net.parameters(), lr=2e-3))
    training.fit(trainer, (x, data.y_train), settings.steps, batch_size, seed, [accuracy])
    right = trainer.predict(test).argmax(1) == data.y_test
    return {
        "accuracy": accuracy.values,
        "test_accuracy": accuracy.values[-1],
        **{f"of_length_{often}": float(right[times == often].mean()) for often in REPEATS},
        "effect_of_padding": effect_of_padding(net, x[:32]),
    }


def effect_of_padding(net: nn.Module, x: Array) -> float:
    """Return how much outputs in training mode change with twice the length, by their spread."""
    net = copy.deepcopy(net).train()
    padded = np.pad(x, ((0, 0), (0, x.shape[1]), (0, 0)))
    outputs = []
    for batch in (x, padded):
        outputs.append(net(batch).astype(np.float64))
        net.discard()
    change = outputs[1] - outputs[0]
    return float(np.sqrt(np.square(change).mean()) / outputs[0].std())


def judge(results: Results) -> list[Claim]:
    """Set what the tutorial says beside what was measured."""
    sizes = results.settings.batch_sizes

    def of(kind: str, size: int, key: str = "test_accuracy") -> Spread:
        return results.spread(f"{kind}, batch {size}", key)

    def told(key: str, form: str, *kinds: str) -> str:
        return "; ".join(
            f"batch {size}: " + ", ".join(f"{kind} {of(kind, size, key):{form}}" for kind in kinds)
            for size in sizes
        )

    def apart(kind: str, size: int) -> float:
        return of(kind, size).mean - of("BN", size).mean

    return [
        Claim(sources.TUTORIAL_D, "BN cannot be used on sequences.",
              verdict(*(apart("no BN", size) > 0 for size in sizes)),
              told("test_accuracy", ".1%", "no BN", "BN"), "accuracy"),
        Claim(sources.TUTORIAL_D, "BN is hard to use on sequences: padding changes its statistics.",
              verdict(*(of("BN", size, "effect_of_padding").mean > 0.01 for size in sizes)),
              "Change of the outputs with twice the padding: "
              + told("effect_of_padding", ".2%", "BN", "BN with a mask", "LN"), "padding"),
        Claim(sources.TUTORIAL_D, "LN is better for sequences.",
              verdict(*(apart("LN", size) > of("LN", size).std for size in sizes)),
              told("test_accuracy", ".1%", "BN", "LN"), "accuracy"),
        Claim(sources.OWN, "A mask makes BN as good as LN on padded sequences.",
              verdict(*(of("BN with a mask", size).mean > of("LN", size).mean - of("LN", size).std
                        for size in sizes)),
              told("test_accuracy", ".1%", "BN with a mask", "LN"), "accuracy"),
    ]  # fmt: skip


def draw(results: Results) -> Drawn:
    """Draw accuracy over the steps, and the effect of padding."""
    from fastbn.experiments import plots

    settings: Settings = results.settings
    steps = range(0, settings.steps + 1, settings.look_every)
    drawn, axes = plots.figure("Test accuracy on padded sequences", 1, len(settings.batch_sizes))
    for size, place in zip(settings.batch_sizes, axes.flat, strict=True):
        for kind in NORMS:
            values = results.series(f"{kind}, batch {size}", "accuracy")
            plots.curve(place, steps, values, kind, plots.style(kind, list(NORMS)))
        place.set(title=f"batches of {size}", xlabel="step", ylabel="accuracy", ylim=(0, 1))
    axes[0, 0].legend(loc="lower right")
    yield "accuracy", drawn

    drawn, axes = plots.figure("Change of outputs with twice the padding", panel=(7, 3.5))
    found = [results.series(name, "effect_of_padding") for name in results.networks]
    looks = [plots.style(kind, list(NORMS)) for kind, _ in networks(settings).values()]
    plots.bars(axes[0, 0], results.networks, found, looks)
    axes[0, 0].set(xlabel="root mean square, in standard deviations of the outputs")
    yield "padding", drawn


experiment = Experiment(
    name="sequences",
    doc=__doc__,
    full=Settings(),
    quick=Settings(data=("digits",), images=1437, steps=120, look_every=20),
    networks=networks,
    measure=measure,
    judge=judge,
    draw=draw,
)
