"""Loss, accuracy and metrics of samples, in inference mode."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from fastbn.data.batches import Batches
from fastbn.data.shards import shard_of
from fastbn.distributed.communicator import Communicator, gather_rows
from fastbn.nn import Module

if TYPE_CHECKING:
    from fastbn.train.inputs import Source

Array = NDArray[Any]
Metric = Callable[[Array, Array], float]


class _Evaluation(NamedTuple):
    loss: float
    accuracy: float | None


class Evaluation(_Evaluation):
    """Mean loss over a set of samples, and the share of them whose class was found.

    Attributes
    ----------
    loss : float
    accuracy : float or None
        None where the loss knows no classes.
    metrics : dict of str to float
        Other numbers that were asked for.

    Examples
    --------
    >>> loss, accuracy = Evaluation(0.25, 0.9, {"f1": 0.88})
    >>> loss, accuracy
    (0.25, 0.9)
    >>> Evaluation(0.25, 0.9, {"f1": 0.88}).metrics
    {'f1': 0.88}
    """

    metrics: dict[str, float]

    def __new__(
        cls, loss: float, accuracy: float | None, metrics: dict[str, float] | None = None
    ) -> Self:
        """Make one; `metrics` is no part of the tuple."""
        made = super().__new__(cls, loss, accuracy)
        made.metrics = metrics or {}
        return made


def evaluate_batches(
    net: Module,
    loss: Any,
    metrics: Sequence[Metric],
    batches: Source,
    communicator: Communicator | None = None,
) -> Evaluation:
    """Return loss, accuracy and metrics of all batches; the network stays as it is.

    Several ranks take a share of the batches each, and get the same numbers.

    Raises
    ------
    ValueError
        If there are no samples.
    """
    value = getattr(loss, "value", None) or (lambda pred, target: loss(pred, target)[0])
    count_correct = getattr(loss, "correct", None)
    adds = getattr(loss, "reduction", "mean") == "sum"
    rows, labelled, correct, total, counted = 0, 0, 0, 0.0, 0.0
    kept: list[tuple[Array, Array]] = []
    if shared := communicator is not None and isinstance(batches, Batches):
        own = shard_of(len(batches), communicator.rank, communicator.size)
        parts = batches.epoch(0, own.start, own.stop)
    else:
        parts = batches.epoch(0)
    for x, y, *_ in parts:
        pred = net.predict(x, max(len(x), 1))
        rows += len(x)
        labelled += rows_labelled(loss, y)
        count = rows_counted(loss, y)
        total += float(value(pred, y)) * (1.0 if adds else count)
        counted += count
        if count_correct is not None:
            correct += int(count_correct(pred, y))
        if metrics:
            kept.append((pred, y))
    if shared:
        assert communicator is not None
        told = communicator.allgather(np.array([rows, labelled, correct, total, counted]))
        rows, labelled, correct = (int(sum(each[part] for each in told)) for part in (0, 1, 2))
        total, counted = (float(sum(each[part] for each in told)) for part in (3, 4))
    if not rows:
        raise ValueError("there is nothing to evaluate: 0 samples")
    numbers: dict[str, float] = {}
    if metrics:
        if not kept:  # all batches are others'
            x, y, *_ = next(iter(batches.epoch(0)))
            kept = [(net.predict(x[:1])[:0], y[:0])]
        pred, target = (np.concatenate(parts) for parts in zip(*kept, strict=True))
        if shared:
            assert communicator is not None
            pred, target = (gather_rows(communicator, each) for each in (pred, target))
        numbers = {metric_name(metric): float(metric(pred, target)) for metric in metrics}
    accuracy = None if count_correct is None else correct / max(labelled, 1)
    return Evaluation(total / (counted or 1.0), accuracy, numbers)


def rows_counted(loss: Any, target: Array, *weight: Array) -> float:
    """Return what the mean of a loss is divided by: its rows, by what each counts.

    Parameters
    ----------
    loss : callable
        May say it itself, ``count(target, sample_weight)``: rows without a label count nothing.
    target : ndarray
    *weight : ndarray
        Those of the rows, where they have some.
    """
    own = getattr(loss, "count", None)
    if own is not None:
        return float(own(target, *weight))
    return float(weight[0].sum()) if weight else float(len(target))


def rows_labelled(loss: Any, target: Array) -> int:
    """Return how many rows have a label: all, unless the loss says otherwise by ``labelled``."""
    own = getattr(loss, "labelled", None)
    return len(target) if own is None else int(own(target))


def metric_name(metric: Metric) -> str:
    """Return what a metric is called in the history: its function's name.

    Examples
    --------
    >>> from functools import partial
    >>> metric_name(max), metric_name(partial(max, key=abs))
    ('max', 'max')
    """
    function = getattr(metric, "func", metric)
    return getattr(function, "__name__", type(function).__name__)
