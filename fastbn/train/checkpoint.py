"""Checkpoints: one file from which an interrupted run continues as if nothing had happened.

It is a file of weights as `fastbn.train.weights` writes it, with more in it: arrays of the
optimizer and of callbacks, whose names begin with `EXTRA`, and in the metadata an object
``training`` with the rest. What is random in a run hangs on its seed and on the numbers of epoch
and step, and on the generators of layers, whose states are kept.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastbn.train import weights
from fastbn.train.history import Epoch
from fastbn.train.position import Position
from fastbn.train.snapshot import Snapshot, random_states, set_random_states

if TYPE_CHECKING:
    from fastbn.train.trainer import Trainer

Array = NDArray[Any]

EXTRA = weights.EXTRA
ARRAY, PAIRS = "__array__", "__pairs__"  # what JSON does not have


@dataclass
class Interrupted:
    """What the next fit needs of the one that was interrupted."""

    position: Position
    callbacks: list[Any]


def save(trainer: Trainer, path: str | os.PathLike[str], **described: Any) -> None:
    """Write a checkpoint; see `fastbn.train.Trainer.save`."""
    arrays: dict[str, Array] = {}
    optimizer = trainer.optimizer
    state = optimizer.state_dict() if hasattr(optimizer, "state_dict") else None
    plan, resumed = trainer.plan, trainer._resumed
    if resumed is not None:  # and not gone on yet
        callbacks = resumed.callbacks
        position: dict[str, Any] | None = asdict(resumed.position)
    else:
        position = None if plan is None else asdict(plan.position)
        callbacks = [] if plan is None else plan.states()
    training = {
        "step": trainer.steps,
        "epoch": len(trainer.history.epochs),
        "position": position,
        "optimizer": {
            "class": type(optimizer).__name__,
            "state": _pack(state, "optimizer", arrays),
        },
        "callbacks": _pack(callbacks, "callbacks", arrays),
        "random": _pack(random_states(trainer.net), "random", arrays),
        "history": [asdict(epoch) for epoch in trainer.history.epochs],
    }
    weights.save(trainer.net, path, **described, training=training, extra=arrays)


def resume(trainer: Trainer, path: str | os.PathLike[str]) -> Interrupted | None:
    """Take over a checkpoint, all or nothing; see `fastbn.train.Trainer.resume`."""
    name = os.fspath(path)
    content = weights.contents(path)
    if content.training is None:
        raise ValueError(
            f"{name}: weights alone, no checkpoint to go on from; fastbn.train.load reads it"
        )
    before = Snapshot(trainer.net, trainer.optimizer)
    try:
        told = content.training
        made = told["optimizer"]["class"]
        if made != type(trainer.optimizer).__name__:
            raise ValueError(
                f"the optimizer was {made}, this one is {type(trainer.optimizer).__name__}"
            )
        history = [_of(Epoch, row) for row in told["history"]]
        position = told["position"]
        interrupted = None
        if position is not None:
            callbacks = _unpack(told["callbacks"], content.extra)
            position = {"labelled": position.get("seen", 0), **position}  # not in older files
            interrupted = Interrupted(_of(Position, position), callbacks)
        steps = int(told["step"])
        state = _unpack(told["optimizer"]["state"], content.extra)
        random = _unpack(told["random"], content.extra)
        trainer.net.load_state_dict(content.state)
        if state is not None:
            trainer.optimizer.load_state_dict(state)
        set_random_states(trainer.net, random)
    except (KeyError, TypeError, AttributeError) as error:
        before.restore()
        raise ValueError(f"{name}: a damaged checkpoint: {error!r}") from error
    except ValueError as error:
        before.restore()
        raise ValueError(f"{name}: {error}") from None
    trainer.net.discard()
    trainer.history.epochs[:] = history
    trainer.steps = steps
    return interrupted


def _of(kind: Any, values: Mapping[str, Any]) -> Any:
    """Return a dataclass of what a file says, without what a later version knows."""
    known = {field.name for field in fields(kind)}
    return kind(**{name: value for name, value in values.items() if name in known})


def _pack(value: Any, name: str, arrays: dict[str, Array]) -> Any:
    """Return a value of JSON's types; arrays go to `arrays`, their names stand in their place."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        arrays[f"{EXTRA}{name}"] = np.ascontiguousarray(value) if value.ndim else value
        return {ARRAY: f"{EXTRA}{name}"}
    if isinstance(value, Mapping):
        packed = [(key, _pack(item, f"{name}/{key}", arrays)) for key, item in value.items()]
        if all(isinstance(key, str) for key, _ in packed):
            return dict(packed)
        return {PAIRS: [list(pair) for pair in packed]}
    if isinstance(value, list | tuple):
        return [_pack(item, f"{name}/{index}", arrays) for index, item in enumerate(value)]
    return value


def _unpack(value: Any, arrays: Mapping[str, Array]) -> Any:
    if isinstance(value, dict):
        if ARRAY in value:
            return arrays[value[ARRAY]]
        if PAIRS in value:
            return {key: _unpack(item, arrays) for key, item in value[PAIRS]}
        return {key: _unpack(item, arrays) for key, item in value.items()}
    if isinstance(value, list):
        return [_unpack(item, arrays) for item in value]
    return copy.copy(value)
