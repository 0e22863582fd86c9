"""Looks before training: which learning rate, and whether one batch can be learned at all."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastbn.data.batches import Rng, seed_of
from fastbn.train import inputs
from fastbn.train.fit import Fit
from fastbn.train.position import Position
from fastbn.train.snapshot import Snapshot

if TYPE_CHECKING:
    from fastbn.train.trainer import Trainer

SMOOTHING = 0.9  # of the losses, as Smith's
WARMUP = 10  # steps, about those in the mean
EXPLODED = 4.0  # times the least loss


class LearningRates(NamedTuple):
    """Learning rates that were tried, the loss at each, and the one to take.

    Examples
    --------
    >>> found = LearningRates([0.01, 0.1, 1.0], [2.3, 1.9, 40.0], 0.1)
    >>> found.suggestion
    0.1
    """

    lr: list[float]
    loss: list[float]
    suggestion: float | None


def learning_rates(
    trainer: Trainer, data: Any, batch_size: int, start: float, end: float, steps: int, rng: Rng
) -> LearningRates:
    """Try learning rates; see `fastbn.train.Trainer.lr_find`."""
    if not 0.0 < start < end < math.inf:
        raise ValueError(f"expected 0 < start < end, got start={start}, end={end}")
    if steps < 3:
        raise ValueError(f"steps should be at least 3, got {steps}")
    plan = _plan(trainer, data, batch_size, rng)
    lrs, losses, smooth = [], [], []
    mean = 0.0
    with as_before(trainer), plan.together():
        step = plan.step_function()
        rates = np.geomspace(start, end, steps)
        groups = plan.groups_from(plan.position, steps)
        for number, (lr, group) in enumerate(zip(rates, groups, strict=True), 1):
            for settings in trainer.optimizer.param_groups:
                settings["lr"] = float(lr)
            loss = step(group).loss
            if not math.isfinite(loss):
                break
            mean = SMOOTHING * mean + (1.0 - SMOOTHING) * loss
            lrs.append(float(lr))
            losses.append(loss)
            smooth.append(mean / (1.0 - SMOOTHING**number))
            if number > 3 and smooth[-1] > EXPLODED * min(smooth):
                break
    return LearningRates(lrs, losses, _steepest(lrs, smooth))


def _steepest(lrs: list[float], losses: list[float]) -> float | None:
    """Return the rate where the loss falls fastest by the logarithm of the rate."""
    if len(lrs) < 3:
        return None
    slopes = np.gradient(losses, np.log(lrs))
    slopes[: min(WARMUP, len(lrs) // 2)] = 0.0  # the mean of few losses is noise
    best = int(np.argmin(slopes))
    return lrs[best] if slopes[best] < 0.0 else None


def overfit(trainer: Trainer, data: Any, batch_size: int, steps: int, rng: Rng) -> list[float]:
    """Train on one batch; see `fastbn.train.Trainer.overfit_one_batch`."""
    plan = _plan(trainer, data, batch_size, rng)
    [group] = plan.groups_from(plan.position, 1)
    with as_before(trainer), plan.together():
        step = plan.step_function()
        return [step(group).loss for _ in range(steps)]


@contextmanager
def as_before(trainer: Trainer) -> Iterator[None]:
    """Put everything back that training has changed in a ``with`` block.

    Raises
    ------
    TypeError
        If the optimizer has no ``state_dict()`` to do so.
    """
    if not hasattr(trainer.optimizer, "state_dict"):
        raise TypeError(
            f"{type(trainer.optimizer).__name__} has no state_dict() to put its state back"
        )
    before = Snapshot(trainer.net, trainer.optimizer)
    gradients = [p.grad if p.grad is None else p.grad.copy() for p in trainer.net.parameters()]
    modes = [module for module in trainer.net.modules() if not module.training]
    if not trainer.net.training:
        trainer.net.train()
    try:
        yield
    finally:
        trainer.net.discard()
        before.restore()
        for parameter, grad in zip(trainer.net.parameters(), gradients, strict=True):
            parameter.grad = grad
        for module in modes:
            module.training = False
            module.invalidate()
        trainer.net.invalidate_upwards()


def _plan(trainer: Trainer, data: Any, batch_size: int, rng: Rng) -> Fit:
    seed = seed_of(rng)
    if trainer.ranks is not None:
        seed = trainer.ranks.same_seed(seed)
    given = inputs.checked(
        trainer.net,
        trainer.loss,
        data,
        None,
        batch_size=batch_size,
        seed=seed,
        drop_last=False,
        augment=None,
    )
    position = Position(seed, 1, batch_size, 1, given.samples)
    return Fit(trainer, given, position, [], clip_norm=None, max_seconds=None)
