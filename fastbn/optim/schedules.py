"""Schedules: what a learning rate, a momentum or a weight decay is at a step.

A schedule is a callable of the step, counted from 0, and so is any function. Those here can also be
compared, pickled and written as JSON, which is how an optimizer's state keeps them. After the
`steps` they were made for they keep their last value.

Examples
--------
>>> from fastbn.optim import schedules
>>> rate = schedules.warmup(schedules.cosine(0.1, steps=100), steps=5)
>>> [round(rate(step), 3) for step in (0, 4, 50, 100)]
[0.02, 0.1, 0.05, 0.0]
>>> rate.to_dict()["name"], schedules.from_dict(rate.to_dict()) == rate
('warmup', True)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from numbers import Real
from typing import Any, Literal

Anneal = Literal["cos", "linear"]


@dataclass(frozen=True)
class Schedule:
    """Base class of the schedules in this module.

    Examples
    --------
    >>> cosine(0.1, 100).to_dict()
    {'name': 'cosine', 'start': 0.1, 'steps': 100, 'end': 0.0}
    """

    def __call__(self, step: int) -> float:
        """Return the value at this step, the first being 0."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """Return the schedule as what JSON can hold; `from_dict` makes it again.

        Raises
        ------
        TypeError
            If it holds a function that is no schedule of this module.
        """
        described: dict[str, Any] = {"name": type(self).__name__}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Schedule):
                value = value.to_dict()
            elif callable(value):
                raise TypeError(f"{value!r} in {type(self).__name__} cannot be written as JSON")
            described[field.name] = value
        return described


def from_dict(described: Mapping[str, Any]) -> Schedule:
    """Return the schedule that `Schedule.to_dict` has described.

    Raises
    ------
    ValueError
        If there is no schedule of that name, or it does not take these arguments.

    Examples
    --------
    >>> from_dict(cosine(0.1, 100).to_dict()) == cosine(0.1, 100)
    True
    """
    arguments = {
        name: from_dict(value) if isinstance(value, Mapping) else value
        for name, value in described.items()
    }
    name = arguments.pop("name", None)
    kinds = {kind.__name__: kind for kind in Schedule.__subclasses__()}
    if name not in kinds:
        raise ValueError(f"unknown schedule {name!r}; there are {', '.join(sorted(kinds))}")
    try:
        return kinds[name](**arguments)
    except TypeError as error:
        raise ValueError(f"schedule {name}: {error}") from None


@dataclass(frozen=True)
class constant(Schedule):
    """The same `value` at every step.

    Examples
    --------
    >>> constant(0.1)(0), constant(0.1)(1000)
    (0.1, 0.1)
    """

    value: float

    def __post_init__(self) -> None:
        _check(self, "value")

    def __call__(self, step: int) -> float:
        return self.value


@dataclass(frozen=True)
class step(Schedule):
    """``start · factor^⌊step / every⌋``: a stair.

    Examples
    --------
    >>> [round(step(0.1, every=30, factor=0.1)(n), 6) for n in (0, 29, 30)]
    [0.1, 0.1, 0.01]
    """

    start: float
    every: int
    factor: float

    def __post_init__(self) -> None:
        _check(self, "start", "factor", counts=("every",))

    def __call__(self, step: int) -> float:
        return float(self.start * self.factor ** (step // self.every))


@dataclass(frozen=True)
class exponential(Schedule):
    """``start · factor^step``.

    Examples
    --------
    >>> [round(exponential(0.1, 0.5)(n), 6) for n in (0, 1, 2)]
    [0.1, 0.05, 0.025]
    """

    start: float
    factor: float

    def __post_init__(self) -> None:
        _check(self, "start", "factor")

    def __call__(self, step: int) -> float:
        return float(self.start * self.factor**step)


@dataclass(frozen=True)
class cosine(Schedule):
    """Half a cosine wave from `start` to `end` (Loshchilov & Hutter 2017, Eq. 5, no restarts).

    Examples
    --------
    >>> [round(cosine(0.1, 100)(n), 6) for n in (0, 50, 100)]
    [0.1, 0.05, 0.0]
    """

    start: float
    steps: int
    end: float = 0.0

    def __post_init__(self) -> None:
        _check(self, "start", "end", counts=("steps",))

    def __call__(self, step: int) -> float:
        return _anneal(self.start, self.end, min(step / self.steps, 1.0), "cos")


@dataclass(frozen=True)
class polynomial(Schedule):
    """``end + (start - end) · (1 - step / steps)^power``; a line with power 1.

    Examples
    --------
    >>> [round(polynomial(0.1, 100, power=2.0)(n), 6) for n in (0, 50, 100)]
    [0.1, 0.025, 0.0]
    """

    start: float
    steps: int
    power: float = 1.0
    end: float = 0.0

    def __post_init__(self) -> None:
        _check(self, "start", "end", "power", counts=("steps",))

    def __call__(self, step: int) -> float:
        left = 1.0 - min(step / self.steps, 1.0)
        return float(self.end + (self.start - self.end) * left**self.power)


@dataclass(frozen=True)
class piecewise(Schedule):
    """Straight lines between points; two points at one step make a jump.

    Parameters
    ----------
    points : sequence of (int, float)
        Steps, from 0 on and never falling, and the values there.

    Examples
    --------
    >>> rate = piecewise([(0, 0.2), (4, 1.0), (8, 0.0)])
    >>> [round(rate(step), 2) for step in (0, 2, 4, 6, 8, 100)]
    [0.2, 0.6, 1.0, 0.5, 0.0, 0.0]
    """

    points: Sequence[tuple[int, float]]

    def __post_init__(self) -> None:
        points = tuple((step, value) for step, value in self.points)
        steps = [step for step, _ in points]
        if not points or steps[0] != 0 or steps != sorted(steps):
            raise ValueError(f"piecewise: steps should begin at 0 and not fall, but got {steps}")
        for step, value in points:
            if not 0.0 <= value < math.inf:
                raise ValueError(
                    f"piecewise: value at {step} should be finite and >= 0, but got {value}"
                )
        object.__setattr__(self, "points", points)

    def __call__(self, step: int) -> float:
        end = next((i for i, (at, _) in enumerate(self.points) if at > step), len(self.points))
        if end == len(self.points):
            return float(self.points[-1][1])
        (left, low), (right, high) = self.points[end - 1], self.points[end]
        return float(low + (high - low) * (step - left) / (right - left))


@dataclass(frozen=True)
class one_cycle(Schedule):
    """Up to `peak` and down again within `steps` (Smith & Topin 2019), as in PyTorch's OneCycleLR.

    Parameters
    ----------
    peak : float
    steps : int
        Of the whole training: the last one, ``steps - 1``, has the lowest value.
    pct_start : float, default 0.3
        Share of the steps that goes up.
    div_factor : float, default 25
        The first value is ``peak / div_factor``.
    final_div_factor : float, default 1e4
        The last value is the first one over this.
    anneal_strategy : {"cos", "linear"}

    Examples
    --------
    >>> [round(one_cycle(0.1, 101)(n), 6) for n in (0, 30, 100)]
    [0.004, 0.099976, 0.0]
    """

    peak: float
    steps: int
    pct_start: float = 0.3
    div_factor: float = 25.0
    final_div_factor: float = 1e4
    anneal_strategy: Anneal = "cos"

    def __post_init__(self) -> None:
        _check(self, "peak", "pct_start", "div_factor", "final_div_factor", counts=("steps",))
        if self.pct_start > 1.0:
            raise ValueError(f"one_cycle: pct_start should be at most 1, but got {self.pct_start}")
        for name in ("div_factor", "final_div_factor"):
            if getattr(self, name) == 0.0:
                raise ValueError(f"one_cycle: {name} should not be 0")
        if self.anneal_strategy not in {"cos", "linear"}:
            raise ValueError(
                "one_cycle: anneal_strategy should be 'cos' or 'linear', "
                f"but got {self.anneal_strategy!r}"
            )

    def __call__(self, step: int) -> float:
        first = self.peak / self.div_factor
        top, end = self.pct_start * self.steps - 1.0, self.steps - 1.0
        if step < top:
            return _anneal(first, self.peak, step / top, self.anneal_strategy)
        top = max(top, 0.0)
        down = min((step - top) / (end - top), 1.0) if end > top else float(step > end)
        return _anneal(self.peak, first / self.final_div_factor, down, self.anneal_strategy)


@dataclass(frozen=True)
class warmup(Schedule):
    """``schedule(step)`` times a factor that grows from ``1 / steps`` to 1 in the first `steps`.

    The schedule itself is not moved: ``warmup(cosine(0.1, 1000), 100)`` ends at step 1000.

    Parameters
    ----------
    schedule : callable or float
        A schedule, any function of the step, or a number.
    steps : int

    Examples
    --------
    >>> [round(warmup(0.1, 4)(n), 6) for n in (0, 1, 3, 10)]
    [0.025, 0.05, 0.1, 0.1]
    """

    schedule: Callable[[int], float] | float
    steps: int

    def __post_init__(self) -> None:
        if not callable(self.schedule):
            _check(self, "schedule")
        _check(self, counts=("steps",))

    def __call__(self, step: int) -> float:
        value = self.schedule(step) if callable(self.schedule) else self.schedule
        return value * min((step + 1) / self.steps, 1.0)


def _anneal(start: float, end: float, way: float, strategy: Anneal) -> float:
    """Return what lies between `start` and `end` at `way` in [0, 1]."""
    if strategy == "cos":
        way = (1.0 - math.cos(math.pi * way)) / 2.0
    return end + (start - end) * (1.0 - way)


def _check(schedule: Schedule, *values: str, counts: tuple[str, ...] = ()) -> None:
    kind = type(schedule).__name__
    for name in values:
        value = getattr(schedule, name)
        if not isinstance(value, Real):
            raise TypeError(f"{kind}: {name} should be a number, but got {value!r}")
        if not 0.0 <= float(value) < math.inf:
            raise ValueError(f"{kind}: {name} should be finite and >= 0, but got {value}")
    for name in counts:
        count: Any = getattr(schedule, name)
        flag = isinstance(count, bool)
        if not isinstance(count, Real):
            raise TypeError(f"{kind}: {name} should be a positive integer, but got {count!r}")
        if flag or not float(count).is_integer() or float(count) < 1:
            raise ValueError(f"{kind}: {name} should be a positive integer, but got {count}")
