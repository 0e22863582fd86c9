"""The settings of an optimizer: their ranges, and their values at a step.

A setting is a number or, where it may change, a callable of the step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

from fastbn.optim import schedules

Scheduled = float | Callable[[int], float]

# what PyTorch's messages call them
WORDS = {
    "lr": "learning rate",
    "momentum": "momentum value",
    "weight_decay": "weight_decay value",
    "eps": "epsilon value",
}


class Setting:
    """``optimizer.lr`` and the like: read what all groups have, assign to all groups."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, optimizer: Any, owner: type | None = None) -> Any:
        if optimizer is None:
            return self
        first, *others = [group[self.name] for group in optimizer.param_groups]
        if any(value != first for value in others):
            raise ValueError(
                f"the groups have different {self.name}: {[first, *others]}; see param_groups"
            )
        return first

    def __set__(self, optimizer: Any, value: Any) -> None:
        changed = [{**group, self.name: value} for group in optimizer.param_groups]
        changed = [optimizer.checked(group) for group in changed]
        for group, new in zip(optimizer.param_groups, changed, strict=True):
            group[self.name] = new[self.name]


def number(name: str, value: Any, most: float = math.inf) -> float:
    """Return `value` as a float, or raise in PyTorch's words if it is not in [0, most]."""
    if isinstance(value, bool | str) or not (isinstance(value, Real) or hasattr(value, "item")):
        raise TypeError(f"{name}: expected a number, got {value!r}")
    read = float(value)
    if not 0.0 <= read <= most or read == math.inf:
        raise ValueError(f"Invalid {WORDS.get(name, name)}: {read}")
    return read


def number_or_schedule(name: str, value: Any, most: float = math.inf) -> Any:
    """Return a callable as it is, anything else as `number` does."""
    return value if callable(value) else number(name, value, most)


def at_step(name: str, value: Any, step: int, most: float = math.inf) -> float:
    """Return what a setting is at this step."""
    if type(value) is not float or not 0.0 <= value < math.inf:  # rarely: keep steps cheap
        value = number(name, value(step) if callable(value) else value, most)
    return value  # type: ignore[no-any-return]


def described(value: Any) -> Any:
    """Return a setting as what JSON can hold; of a function only its name is kept."""
    if isinstance(value, schedules.Schedule):
        try:
            return value.to_dict()
        except TypeError:
            pass
    if callable(value):
        return {"function": getattr(value, "__qualname__", type(value).__qualname__)}
    return list(value) if isinstance(value, tuple) else value


def undescribed(name: str, value: Any, own: Any) -> Any:
    """Return the setting that `described` wrote; a function is the one that `own` is.

    Raises
    ------
    ValueError
        If it was a function, and `own` is none.
    """
    if not isinstance(value, Mapping):
        return value
    if "function" not in value:
        return schedules.from_dict(value)
    if not callable(own):
        raise ValueError(
            f"loaded {name} was the function {value['function']}, which a state cannot hold: "
            f"make the optimizer with it, then load"
        )
    return own
