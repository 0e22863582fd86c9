"""The recipe beside PyTorch's: the same losses step by step, and the time of an epoch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbn import data as datasets
from fastbn import train
from fastbn.bench.cifar.recipe import Recipe, images_of, jolt, network
from fastbn.bench.cifar.run import batches_of
from fastbn.bench.peers.client import Worker
from fastbn.data import Dataset
from fastbn.experiments.training import Stop, Watch, last_loss

Array = NDArray[Any]

VARIANTS = ("eager", "eager channels_last", "compile channels_last")
QUICK = Recipe(epochs=1.0, batch=128)
QUICK_IMAGES = 2500
SIBLINGS = 5  # runs of our own whose weights differ by a rounding
MARGIN = 3.0  # times the largest distance between them
GRADIENT = 1e-5


@dataclass
class Comparison:
    """How far two libraries are apart, and how far this one is from itself.

    Attributes
    ----------
    gradient, gradient_theirs : float
        Largest error of the first step's gradients, in parts of a tensor's largest value, against
        float64; from weights that were jolted (`fastbn.bench.cifar.recipe.jolt`).
    ours, theirs : list of float
        Losses of the steps.
    spread : float
        Largest difference between the losses of `ours` and of a run that begins one rounding away.
    """

    gradient: float
    gradient_theirs: float
    ours: list[float]
    theirs: list[float]
    spread: float

    @property
    def apart(self) -> float:
        """Largest difference of the losses."""
        return float(np.max(np.abs(np.subtract(self.ours, self.theirs))))

    @property
    def same(self) -> bool:
        """Whether it is the same training, as far as rounding lets one see."""
        exact = self.gradient <= max(GRADIENT, 2.0 * self.gradient_theirs)
        return exact and self.apart <= MARGIN * self.spread


def quick(
    root: str | None, threads: int, tell: Callable[[str], None] = lambda text: None
) -> Comparison:
    """Train on 2,500 images for an epoch here and in PyTorch, and five times one rounding away."""
    data = images_of(datasets.load("cifar10", root), QUICK_IMAGES)
    asked: dict[str, Any] = {
        "root": root,
        "images": QUICK_IMAGES,
        "recipe": asdict(QUICK),
        "seed": 0,
    }
    with Worker("torch", "cifar", threads) as worker:
        tell("PyTorch")
        opened = worker.ask("open", variant=VARIANTS[1], **asked)
        theirs = worker.ask("turn", steps=opened["steps"])["losses"]
        worker.ask("open", variant=VARIANTS[1], jolted=True, **asked)
        worker.ask("turn", steps=1)
        gradients = worker.ask("gradients")
    tell("fastbn")
    ours = losses_of(data, QUICK)
    spread = 0.0
    for sibling in range(SIBLINGS):
        tell(f"fastbn, one rounding away, {sibling + 1} of {SIBLINGS}")
        other = losses_of(data, QUICK, disturb=sibling + 1)
        spread = max(spread, float(np.max(np.abs(np.subtract(ours, other)))))
    exact = gradients_of(data, QUICK, "float64")
    own = worst(gradients_of(data, QUICK), exact)
    return Comparison(own, worst(gradients, exact), ours, theirs, spread)


def worst(found: Mapping[str, Any], exact: Mapping[str, Array]) -> float:
    """Return the largest error of all tensors, in parts of a tensor's largest value."""
    return max(
        float(np.max(np.abs(np.ravel(found[name]) - value.ravel())) / np.max(np.abs(value)))
        for name, value in exact.items()
    )


def losses_of(data: Dataset, recipe: Recipe, disturb: int = 0) -> list[float]:
    """Return the losses of all steps, from weights that may be one rounding up or down."""
    x = np.asarray(data.x_train)
    net = network(x, 0)
    if disturb:
        rng = np.random.default_rng(disturb)
        for parameter in net.parameters():
            away = np.where(rng.random(parameter.shape) < 0.5, np.inf, -np.inf)
            if parameter.requires_grad:
                parameter.data = np.nextafter(parameter.data, away.astype(np.float32))
    trainer = train.Trainer(net, recipe.loss(), recipe.optimizer(net, len(x)))
    steps = recipe.steps(len(x))
    kept = Watch(range(1, steps + 1), last_loss)
    batches = batches_of(data, recipe, 0, recipe.augmentation())
    callbacks = [kept, Stop(steps)]
    trainer.fit(batches, ceil(recipe.epochs), recipe.batch, callbacks=callbacks, progress=False)
    return kept.values


def gradients_of(data: Dataset, recipe: Recipe, dtype: str = "float32") -> dict[str, Array]:
    """Return the gradients of the first batch by name, from weights that were jolted."""
    net = network(np.asarray(data.x_train), 0, dtype=dtype)
    jolt(net)
    x, labels = next(iter(batches_of(data, recipe, 0, recipe.augmentation())))
    _, dlogits = recipe.loss()(net.train()(x.astype(dtype)), labels)
    net.backward(dlogits)
    return {name: p.grad for name, p in net.named_parameters() if p.grad is not None}


@dataclass
class PeerTime:
    """PyTorch's time with the recipe: measured over some steps, and what all would take.

    Attributes
    ----------
    accuracy : float or None
        Where all steps were done.
    """

    variant: str
    steps: int
    seconds: float
    whole: float
    accuracy: float | None = None


def choose_variants(part: str) -> list[str]:
    """Return PyTorch's variants that have `part` in their name.

    Raises
    ------
    ValueError
        If there is none.
    """
    found = [variant for variant in VARIANTS if part in variant]
    if not found:
        raise ValueError(f"variants: {part!r} is no part of {', '.join(VARIANTS)}")
    return found


def time_peer(
    root: str | None,
    recipe: Recipe,
    seed: int,
    threads: int,
    *,
    images: int | None = None,
    variants: Sequence[str],
    full: bool = False,
    tell: Callable[[str], None] = lambda text: None,
) -> list[PeerTime]:
    """Time PyTorch's variants: an epoch each, after a step to warm up, or all steps."""
    found = []
    for variant in variants:
        with Worker("torch", "cifar", threads) as worker:
            tell(f"PyTorch {variant}")
            opened = worker.ask(
                "open",
                root=root,
                images=images,
                recipe=asdict(recipe),
                seed=seed,
                variant=variant,
            )
            steps = int(opened["steps"])
            if not full:
                worker.ask("turn", steps=1)
            timed = steps if full else min(steps - 1, int(steps / recipe.epochs)) or 1
            seconds = float(worker.ask("turn", steps=timed)["seconds"])
            accuracy = float(worker.ask("accuracy")["accuracy"]) if full else None
            found.append(PeerTime(variant, timed, seconds, seconds * steps / timed, accuracy))
    return found
