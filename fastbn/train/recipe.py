"""What a `Config` says of optimizer, learning rate and averages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastbn import optim
from fastbn.train.config import Config

LEARNING_RATES = {"adam": 1e-3, "adamw": 1e-3, "sgd": 0.05}


def optimizer(groups: list[dict[str, Any]], config: Config) -> Any:
    """Return the optimizer of groups of parameters."""
    kind = {"sgd": optim.SGD, "adam": optim.Adam, "adamw": optim.AdamW}[config.optimizer]
    settings: dict[str, Any] = {"momentum": 0.9} if config.optimizer == "sgd" else {}
    if config.weight_decay is not None:
        settings["weight_decay"] = config.weight_decay
    return kind(groups, **settings)


def base_rate(config: Config) -> float:
    """Return the learning rate that schedules begin with."""
    return LEARNING_RATES[config.optimizer] if config.lr is None else config.lr


def learning_rate(config: Config, steps: int) -> float | Callable[[int], float]:
    """Return the learning rate or its schedule over epochs of this many steps."""
    rate = base_rate(config)
    final, kind = config.final_lr, config.schedule
    if kind is None:
        kind = "constant" if final is None else "exponential"
    if final is not None and not (rate > 0.0 and final > 0.0):
        raise ValueError(f"With final_lr, learning rates should be above 0, got {rate} and {final}")
    if final is not None and kind in {"constant", "one_cycle"}:
        raise ValueError(f"final_lr is for the schedules cosine and exponential, not for {kind}")
    total = config.epochs * steps
    schedule: Any
    if kind == "cosine":
        schedule = optim.schedules.cosine(rate, total, final or 0.0)
    elif kind == "one_cycle":
        schedule = optim.schedules.one_cycle(rate, total)
    elif kind == "exponential":
        if final is None:
            raise ValueError("the schedule exponential needs final_lr")
        factor = (final / rate) ** (1.0 / max(config.epochs - 1, 1))
        schedule = optim.schedules.step(rate, steps, factor)
    elif config.warmup:
        schedule = optim.schedules.constant(rate)
    else:
        return rate
    return optim.schedules.warmup(schedule, config.warmup) if config.warmup else schedule


def set_rates(optimizer: Any, config: Config, steps: int) -> None:
    """Give all groups their learning rate or schedule; those after the first get a share of it."""
    rate = optimizer.lr = learning_rate(config, steps)
    share = config.backbone_lr
    for group in optimizer.param_groups[1:]:
        group["lr"] = (lambda step: share * rate(step)) if callable(rate) else share * rate


def decay(most: float) -> Callable[[int], float]:
    """Return the decay of every update: it rises, as initial weights should not count for long."""
    return lambda updates: min(most, (1.0 + updates) / (10.0 + updates))
