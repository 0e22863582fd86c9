"""What stops a training run that has gone wrong, and says where."""

from __future__ import annotations

import math
import time
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastbn.data import Batches
from fastbn.nn import Module
from fastbn.nn.layerwise import outputs
from fastbn.optim import EMA
from fastbn.train.callbacks import Callback
from fastbn.train.snapshot import Snapshot

if TYPE_CHECKING:
    from fastbn.train.fit import Fit
    from fastbn.train.ranks import Ranks
    from fastbn.train.trainer import Trainer

Array = NDArray[Any]

SHARE = 0.005  # of the time, for looks and copies
REMEDY = ". A smaller learning rate or clip_norm=1.0 may help"
TOGETHER = 50  # steps from copy to copy of several ranks, which must agree on them


class NotFiniteError(FloatingPointError):
    """A loss, a gradient or the data are not finite; the message tells the step and the place.

    Attributes
    ----------
    step : int
        Steps in all when it happened; the weights are those before.
    place : str
        The first layer, parameter or row of the data that is not finite.

    Examples
    --------
    >>> error = NotFiniteError("stopped at step 12: 0.weight is not finite", 12, "0.weight")
    >>> error.step, error.place
    (12, '0.weight')
    """

    def __init__(self, message: str, step: int, place: str) -> None:
        super().__init__(message)
        self.step = step
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (*self.args, self.step, self.place)


class NaNGuard(Callback):
    """Stop at the first step whose loss or gradients are not finite; a `Trainer` has one anyway.

    Only the loss is looked at in every step, and the weights now and then, when they are copied.
    Once something is wrong, the steps since the copy are done again, each looked at from end to
    end, until the bad one is found: the network is left as it was before it, and
    `NotFiniteError` names the row of the data, or the first layer, that is not finite.

    Parameters
    ----------
    enabled : bool, default True
        False takes the place of the guard that is there by default, and does nothing.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn import models
    >>> from fastbn.train import Trainer
    >>> x, y = np.random.default_rng(0).random((64, 4)), np.arange(64) % 2
    >>> x[5, 1] = np.nan
    >>> history = Trainer(models.mlp((4,), 2, rng=0)).fit((x, y), rng=0)
    Traceback (most recent call last):
        ...
    fastbn.train.guard.NotFiniteError: training stopped at step 1: row 5 of the data has values ...
    """

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled
        self._forget()

    def _forget(self) -> None:
        self._copy: Snapshot | None = None
        self._averages: list[tuple[EMA, dict[str, Any], bool]] = []  # state; due for an update
        self._place: Any = None
        self._due = 0.0

    def on_fit_begin(self, trainer: Trainer) -> None:
        """Copy what there is."""
        self._forget()
        if self.enabled:
            begin = time.perf_counter()
            _check_weights(trainer.net, trainer.steps)
            self._take(trainer, begin, stepped=False)

    def on_step(self, trainer: Trainer) -> None:
        """Look at the loss."""
        if not math.isfinite(trainer.last_loss) and self.enabled:
            self._find(trainer)
        if trainer.ranks is None:
            due = time.perf_counter() >= self._due
        else:
            due = trainer.steps % TOGETHER == 0
        if due and self.enabled:
            self._look(trainer)

    def on_epoch_end(self, trainer: Trainer) -> None:
        """Look at the weights."""
        if self.enabled and self._is_bad(trainer):
            self._find(trainer)

    def _is_bad(self, trainer: Trainer) -> bool:
        """Tell whether weights or statistics are not finite, on any rank."""
        bad = _bad_state(trainer.net) is not None
        return bad if trainer.ranks is None else trainer.ranks.agree(bad)

    def on_fit_end(self, trainer: Trainer) -> None:
        """Give the memory back."""
        self._forget()

    def _look(self, trainer: Trainer) -> None:
        begin = time.perf_counter()
        if self._is_bad(trainer):
            self._find(trainer)
        self._take(trainer, begin, stepped=True)

    def _take(self, trainer: Trainer, begin: float, *, stepped: bool) -> None:
        """Copy what there is; the look that began then says when the next one is due."""
        assert trainer.plan is not None
        self._copy = Snapshot(trainer.net, trainer.optimizer)
        self._averages, seen = [], False
        for callback in trainer.plan.callbacks:
            seen = seen or callback is self
            if isinstance(callback, EMA):  # one that is called later has not seen this step yet
                self._averages.append((callback, callback.state_dict(), stepped and seen))
        self._place = (replace(trainer.plan.position), trainer.steps)
        end = time.perf_counter()
        self._due = end + (end - begin) / SHARE

    def _find(self, trainer: Trainer) -> None:
        """Do the steps since the copy again, and raise what is wrong with the bad one."""
        plan = trainer.plan
        assert plan is not None
        assert self._copy is not None
        last = trainer.steps
        loss = trainer.last_loss
        kept, steps = self._place
        position = replace(kept)
        trainer.net.discard()
        self._restore()
        if trainer.ranks is not None:
            raise self._found_by_ranks(trainer, trainer.ranks)
        with np.errstate(all="ignore"), suppress(ValueError):  # of a source that is used up
            for group in plan.groups_from(position, last - steps):
                before = Snapshot(trainer.net, trainer.optimizer)
                found, remedy = _wrong_data(plan, group), ""
                if found is None:
                    found, remedy = _wrong(plan, group), REMEDY
                trainer.net.discard()
                if found is None:
                    position.advance(plan.step_function()(group))
                    steps += 1
                    if (bad := _bad_state(trainer.net)) is None:
                        for average, *_ in self._averages:
                            average.update()
                        continue
                    steps -= 1
                    found = f"the update made {bad} not finite", bad
                before.restore()
                self._stand(trainer, position, steps)
                what, place = found
                raise NotFiniteError(
                    f"training stopped at step {steps + 1}: {what}; the weights are those of "
                    f"before{remedy}",
                    steps + 1,
                    place,
                )
        self._restore()  # the steps were others this time, or cannot be done again
        position, steps = self._place
        self._stand(trainer, position, steps)
        raise NotFiniteError(
            f"training stopped at step {last}: the loss was {loss}; the weights are those after "
            f"step {steps}",
            last,
            "loss",
        )

    def _restore(self) -> None:
        """Go back to the copy, with averages of weights."""
        assert self._copy is not None
        self._copy.restore()
        for average, state, due in self._averages:
            average.load_state_dict(state)
            if due:
                average.update()

    def _found_by_ranks(self, trainer: Trainer, ranks: Ranks) -> NotFiniteError:
        """Return what several ranks say, who do not do the steps again."""
        last = trainer.steps
        position, steps = self._place
        self._stand(trainer, position, steps)
        bad = [rank for rank, loss in enumerate(ranks.losses) if not math.isfinite(loss)]
        place = f"loss of rank {', '.join(map(str, bad))}" if bad else "weights"
        return NotFiniteError(
            f"training stopped at step {last}: not finite: {place}; the weights are those after "
            f"step {steps}. Training by one process finds the layer or the row of the data",
            last,
            place,
        )

    def _stand(self, trainer: Trainer, position: Any, steps: int) -> None:
        """Let a checkpoint that is written now continue from these weights."""
        assert trainer.plan is not None
        later = trainer.plan.position.epoch - position.epoch  # epochs that are done again
        rows = trainer.history.epochs
        del rows[len(rows) - later :]
        trainer.plan.position = position
        trainer.steps = steps

    def __getstate__(self) -> dict[str, Any]:
        return vars(NaNGuard(self.enabled))


def _check_weights(net: Module, steps: int) -> None:
    bad = _bad_state(net)
    if bad is not None:
        raise NotFiniteError(f"{bad} has values that are not finite before training", steps, bad)


def _bad_state(net: Module) -> str | None:
    """Return the name of the first parameter or buffer that is not finite."""
    for name, parameter in net.named_parameters():
        if not np.isfinite(parameter.storage).all():
            return name
    for name, buffer in net.named_buffers():
        if not np.isfinite(buffer).all():
            return name
    return None


def _wrong_data(plan: Fit, group: Any) -> tuple[str, str] | None:
    """Return what of a step's data is not finite, and where."""
    for x, y, *_ in group if isinstance(group, list) else [group]:
        rows = np.flatnonzero(~np.isfinite(x.reshape(len(x), -1)).all(axis=1))
        if rows.size:
            row = _row_of_data(plan, x[rows[0]])
            return f"{row} of the data has values that are not finite", row
        targets = np.asarray(y)
        if targets.dtype.kind == "f" and not np.isfinite(targets).all():
            return "the targets are not finite", "targets"
    return None


def _wrong(plan: Fit, group: Any) -> tuple[str, str] | None:
    """Return what a step makes of finite data that is not finite, and where; nothing is changed."""
    net = plan.trainer.net
    before = Snapshot(net)
    value = plan.step_function(update=False)(group).loss
    grads = [(name, p.grad) for name, p in net.named_parameters() if p.grad is not None]
    bad = next((name for name, grad in reversed(grads) if not np.isfinite(grad).all()), None)
    statistics = _bad_state(net)
    before.restore()
    if bad is None and statistics is None and math.isfinite(value):
        return None
    for x, *_ in group if isinstance(group, list) else [group]:
        for path, module, out in outputs(net, x):
            if not np.isfinite(out).all():
                place = f"{type(module).__name__} '{path}'" if path else type(module).__name__
                before.restore()
                return f"the output of {place} is not finite", place
    before.restore()
    if not math.isfinite(value):
        return f"the loss is {value}", "loss"
    if bad is not None:
        return f"the gradient of {bad} is not finite", bad
    assert statistics is not None
    return f"{statistics} is not finite after the forward", statistics


def _row_of_data(plan: Fit, sample: Array) -> str:
    """Return ``row N``, where the row can be found in the data."""
    batches = plan.batches
    if isinstance(batches, Batches) and isinstance(batches.x, np.ndarray):
        for first in range(0, len(batches.x), 1024):
            part = batches.x[first : first + 1024]
            bad = np.flatnonzero(~np.isfinite(part.reshape(len(part), -1)).all(axis=1))
            for row in bad:
                if np.array_equal(part[row], sample, equal_nan=True):
                    return f"row {first + row}"
    return "a row"
