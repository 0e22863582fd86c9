"""One call of `Trainer.fit`: epochs, steps, validation, and the callbacks between them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from typing import TYPE_CHECKING, Any

from fastbn.optim import clip_grad_norm
from fastbn.train.callbacks import Callback, Checkpoint, Hook, hooks
from fastbn.train.evaluation import rows_counted, rows_labelled
from fastbn.train.history import Epoch
from fastbn.train.inputs import Inputs
from fastbn.train.position import Part, Position

if TYPE_CHECKING:
    from fastbn.train.trainer import Trainer

Step = Callable[[Any], Part]


class Fit:
    """What was asked for, and the loop that does it.

    Parameters
    ----------
    trainer : Trainer
    given : Inputs
        Training and validation samples.
    position : Position
        Where to begin.
    callbacks : list of Callback
        In the order of their calls; `on_fit_end` comes in the reverse order.
    clip_norm : float or None
    max_seconds : float or None

    Attributes
    ----------
    steps : int or None
        Of an epoch, None where the source of the batches does not tell.
    begun : bool
        Whether no callback has refused it, and the first step may be done.
    over : bool
        Whether it came to an end, and was not stopped on the way.
    """

    def __init__(
        self,
        trainer: Trainer,
        given: Inputs,
        position: Position,
        callbacks: list[Any],
        *,
        clip_norm: float | None,
        max_seconds: float | None,
    ) -> None:
        self.trainer = trainer
        self.batches, self.validation, _, self.batches_an_epoch = given
        self.position = position
        self.clip_norm = clip_norm
        self.max_seconds = max_seconds
        # What writes checkpoints comes last, and first in the end, before weights are put back.
        self.callbacks = sorted(callbacks, key=lambda c: isinstance(c, Checkpoint))
        batches = self.batches_an_epoch
        self.steps = None if batches is None else -(-batches // position.accumulate)
        self.begun = self.over = False
        self.ranks = trainer.ranks
        self._deadline: float | None = None

    def run(self, states: list[Any]) -> None:
        """Do the epochs that are left.

        Parameters
        ----------
        states : list
            Of the callbacks, where an interrupted fit continues; else empty.
        """
        with self.together():
            self._run(states)

    def together(self) -> AbstractContextManager[None]:
        """Hold the ranks together, where there are several, for a ``with`` block."""
        return nullcontext() if self.ranks is None else self.ranks.fitting(self)

    def _run(self, states: list[Any]) -> None:
        trainer, position = self.trainer, self.position
        trainer.should_stop = False
        for begin in hooks(self.callbacks, "on_fit_begin"):
            begin(trainer)
        self._load_states(states)
        self.begun, trainer._resumed = True, None
        trainer.net.discard()  # of a call to have a look, say: no backward will come
        if not trainer.net.training:
            trainer.net.train()
        if self.max_seconds is not None:
            self._deadline = time.perf_counter() + self.max_seconds
        ends = hooks(self.callbacks, "on_epoch_end")
        on_step = hooks(self.callbacks, "on_step")
        late = False
        while not position.whole and not self._stopped() and not self._finished():
            whole = self._steps_of_epoch(on_step)
            late = self.is_late() if self.ranks is None else self.ranks.late
            if not (whole or late):
                break  # somebody stopped it, who may go on from here
            trainer.history.epochs.append(self._row())
            position.next_epoch()
            for end in ends:
                end(trainer)
            if late:
                trainer.should_stop = True
        self.over = late or position.whole or self._finished()
        for end in reversed(hooks(self.callbacks, "on_fit_end")):
            end(trainer)

    def states(self) -> list[Any]:
        """Return the states of the callbacks, for `run` to take up."""
        return [
            {"class": type(callback).__name__, "state": callback.state_dict()}
            for callback in self._lasting()
        ]

    def _load_states(self, states: list[Any]) -> None:
        left = list(states)
        for callback in self._lasting():
            for index, kept in enumerate(left):
                if kept["class"] == type(callback).__name__:
                    callback.load_state_dict(left.pop(index)["state"])
                    break

    def _lasting(self) -> list[Callback]:
        """Return the callbacks that have a state."""
        return [hook.__self__ for hook in hooks(self.callbacks, "state_dict")]  # type: ignore[attr-defined]

    def is_late(self) -> bool:
        """Tell whether the time that it may take is over."""
        return self._deadline is not None and time.perf_counter() >= self._deadline

    def _stopped(self) -> bool:
        """Tell whether somebody has stopped it, on any rank."""
        stop = self.trainer.should_stop
        return stop if self.ranks is None else self.ranks.agree(stop)

    def _finished(self) -> bool:
        return any(getattr(callback, "finished", False) for callback in self.callbacks)

    def _groups(self, position: Position) -> Iterator[Any]:
        """Give the batches, or lists of them, that make the steps that are left of the epoch."""
        accumulate = position.accumulate
        start = position.step * accumulate
        batches = self.batches.epoch(position.epoch, start)
        if self.batches_an_epoch is not None:
            batches = islice(batches, self.batches_an_epoch - start)
        if accumulate == 1:
            return batches
        return iter(lambda: list(islice(batches, accumulate)), [])

    def groups_from(self, position: Position, count: int) -> Iterator[Any]:
        """Give what `count` steps from this place on are made of; `position` moves with them."""
        while count > 0:
            for group in islice(self._groups(position), count):
                count -= 1
                yield group
            if count > 0:
                position.next_epoch()

    def _steps_of_epoch(self, on_step: list[Hook]) -> bool:
        """Do the steps that are left of the epoch; return whether these were all."""
        trainer, position, ranks = self.trainer, self.position, self.ranks
        step, stopped = self.step_function(), False
        begin = time.perf_counter() - position.seconds
        try:
            for group in self._groups(position):
                part = step(group)
                position.advance(part)
                trainer.steps += 1
                trainer.last_loss = part.loss
                if ranks is not None:
                    ranks.after_step(trainer)
                if on_step:
                    position.seconds = time.perf_counter() - begin
                    for hook in on_step:
                        hook(trainer)
                stop = trainer.should_stop or self.is_late() if ranks is None else ranks.over
                if stop:
                    stopped = True
                    break
        except BaseException:
            trainer.net.discard()  # what is pending would stand in the way of the next forward
            raise
        finally:
            position.seconds = time.perf_counter() - begin
        if not position.step:
            raise ValueError("there is nothing to train on: the epoch had no batches")
        return not stopped or position.step == self.steps

    def step_function(self, update: bool = True) -> Step:
        """Return what does a step: takes its batches, and returns what it has seen.

        Without `update` it leaves gradients behind, and moves no weights.
        """
        if self.ranks is not None:
            return self.ranks.step_function(self, update)
        net = self.trainer.net
        loss: Any = self.trainer.loss
        clip_norm = self.clip_norm
        move = self.trainer.optimizer.step if update else lambda: None
        parameters = net.parameters()
        adds = getattr(loss, "reduction", "mean") == "sum"
        count_correct = getattr(loss, "correct", None)

        def one(batch: Any) -> Part:
            x, y, *weight = batch
            pred = net(x)
            value, dpred = loss(pred, y, sample_weight=weight[0]) if weight else loss(pred, y)
            net.backward(dpred)
            if clip_norm is not None:
                clip_grad_norm(parameters, clip_norm)
            move()
            value, labelled = float(value), rows_labelled(loss, y)
            correct = 0 if count_correct is None else int(count_correct(pred, y))
            return Part(len(x), labelled, value, value if adds else value * labelled, correct)

        def several(batches: list[Any]) -> Part:
            counts = [rows_counted(loss, y, *weight) for _, y, *weight in batches]
            whole = sum(counts) or 1.0
            loss_value, rows, labelled, correct = 0.0, 0, 0, 0
            for number, (x, y, *weight) in enumerate(batches):
                share = 1.0 if adds else counts[number] / whole  # of its mean in that of all rows
                pred = net(x)
                value, dpred = loss(pred, y, sample_weight=weight[0]) if weight else loss(pred, y)
                net.backward(dpred * share, accumulate=number > 0)
                loss_value += float(value) * share
                rows += len(x)
                labelled += rows_labelled(loss, y)
                if count_correct is not None:
                    correct += int(count_correct(pred, y))
            if clip_norm is not None:
                clip_grad_norm(parameters, clip_norm)
            move()
            total = loss_value if adds else loss_value * labelled
            return Part(rows, labelled, loss_value, total, correct)

        return one if self.position.accumulate == 1 else several

    def _row(self) -> Epoch:
        """Return the numbers of the epoch that ends, validation included."""
        trainer, position = self.trainer, self.position
        has_classes = getattr(trainer.loss, "correct", None) is not None
        labelled = max(position.labelled, 1)
        if self.ranks is not None:
            self.ranks.before_validation(trainer)
        loss = accuracy = None
        metrics: dict[str, float] = {}
        if self.validation is not None:
            evaluation = trainer.evaluate_batches(self.validation)
            loss, accuracy, metrics = *evaluation, evaluation.metrics
        return Epoch(
            epoch=len(trainer.history.epochs) + 1,
            steps=position.step,
            loss=position.total / labelled,
            accuracy=position.correct / labelled if has_classes else None,
            val_loss=loss,
            val_accuracy=accuracy,
            seconds=position.seconds,
            images_per_second=position.seen / max(position.seconds, 1e-9),
            lr=trainer.learning_rate,
            metrics=metrics,
        )
