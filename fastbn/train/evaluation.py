"""Loss, accuracy and metrics of samples, in inference mode."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

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
    net: Module, loss: Any, metrics: Sequence[Metric], batches: Source
) -> Evaluation:
    """Return loss, accuracy and metrics of all batches; the network stays as it is.

    Raises
    ------
    ValueError
        If there are no samples.
    """
    value = getattr(loss, "value", None) or (lambda pred, target: loss(pred, target)[0])
    count_correct = getattr(loss, "correct", None)
    rows, correct, total = 0, 0, 0.0
    kept: list[tuple[Array, Array]] = []
    for x, y, *_ in batches.epoch(0):
        pred = net.predict(x, max(len(x), 1))
        rows += len(x)
        total += value(pred, y) * len(x)
        if count_correct is not None:
            correct += count_correct(pred, y)
        if metrics:
            kept.append((pred, y))
    if not rows:
        raise ValueError("there is nothing to evaluate: 0 samples")
    numbers: dict[str, float] = {}
    if metrics:
        pred, target = (np.concatenate(parts) for parts in zip(*kept, strict=True))
        numbers = {metric_name(metric): float(metric(pred, target)) for metric in metrics}
    return Evaluation(total / rows, None if count_correct is None else correct / rows, numbers)


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
