"""Schedules: their values, PyTorch's where it has the same, and their descriptions."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any, cast

import numpy as np
import pytest

from fastbn import nn, optim
from fastbn.optim import schedules

ALL = [
    schedules.constant(0.1),
    schedules.step(0.1, every=3, factor=0.5),
    schedules.exponential(0.1, factor=0.9),
    schedules.cosine(0.1, steps=10),
    schedules.cosine(0.1, steps=10, end=0.01),
    schedules.polynomial(0.1, steps=10),
    schedules.polynomial(0.1, steps=10, power=2.0, end=0.02),
    schedules.one_cycle(0.1, steps=10),
    schedules.one_cycle(0.1, steps=10, pct_start=0.5, anneal_strategy="linear"),
    schedules.warmup(schedules.cosine(0.1, steps=10), steps=3),
    schedules.warmup(0.1, steps=3),
    schedules.piecewise([(0, 0.02), (3, 0.1), (7, 0.05), (7, 0.0)]),
]


def torch_values(torch: Any, make: Any, steps: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    scheduler = make(torch.optim.lr_scheduler, optimizer)
    values = []
    for _ in range(steps):
        values.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return values


@pytest.mark.parametrize(
    ("schedule", "make", "steps"),
    [
        (schedules.step(0.1, 3, 0.5), lambda s, o: s.StepLR(o, 3, 0.5), 12),
        (schedules.exponential(0.1, 0.9), lambda s, o: s.ExponentialLR(o, 0.9), 12),
        (schedules.cosine(0.1, 10, 0.01), lambda s, o: s.CosineAnnealingLR(o, 10, 0.01), 11),
        (schedules.polynomial(0.1, 10, 2.0), lambda s, o: s.PolynomialLR(o, 10, 2.0), 14),
        (schedules.one_cycle(0.1, 20), lambda s, o: s.OneCycleLR(o, 0.1, 20), 19),
        (
            schedules.one_cycle(0.1, 17, 0.4, 10.0, 50.0, "linear"),
            lambda s, o: s.OneCycleLR(
                o, 0.1, 17, pct_start=0.4, div_factor=10, final_div_factor=50,
                anneal_strategy="linear",
            ),
            16,
        ),
    ],
)  # fmt: skip
def test_values_are_pytorchs(schedule: Any, make: Any, steps: int, torch: Any) -> None:
    expected = torch_values(torch, make, steps)
    np.testing.assert_allclose([schedule(n) for n in range(steps)], expected, rtol=1e-12)


def test_they_end_where_they_say_and_stay_there() -> None:
    for n in (10, 11, 1000):
        assert schedules.cosine(0.1, steps=10, end=0.01)(n) == pytest.approx(0.01, rel=1e-12)
        assert schedules.polynomial(0.1, steps=10, end=0.02)(n) == pytest.approx(0.02, rel=1e-12)
    one_cycle = schedules.one_cycle(0.1, steps=10)
    assert max(one_cycle(n) for n in range(10)) == pytest.approx(0.1, rel=1e-12)
    for n in (9, 10, 1000):
        assert one_cycle(n) == pytest.approx(0.1 / 25 / 1e4)
    for steps in (1, 2, 3):  # no room to rise in
        assert all(0.0 < schedules.one_cycle(0.1, steps)(n) <= 0.1 for n in range(5))


def test_warmup_multiplies_and_does_not_move() -> None:
    inner = schedules.cosine(0.1, steps=10)
    schedule = schedules.warmup(inner, steps=4)
    assert [schedule(n) / inner(n) for n in range(5)] == pytest.approx([0.25, 0.5, 0.75, 1, 1])
    assert schedules.warmup(lambda n: 2.0 * n, steps=2)(5) == 10.0
    assert schedules.warmup(0.5, steps=2)(0) == 0.25


@pytest.mark.parametrize("schedule", ALL, ids=str)
def test_they_can_be_copied_pickled_and_written(schedule: schedules.Schedule) -> None:
    for other in (
        copy.deepcopy(schedule),
        pickle.loads(pickle.dumps(schedule)),
        schedules.from_dict(json.loads(json.dumps(schedule.to_dict()))),
        eval(repr(schedule), vars(schedules).copy()),
    ):
        assert other == schedule
        assert [other(n) for n in range(12)] == [schedule(n) for n in range(12)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: schedules.cosine(-0.1, 10), "cosine: start should be finite and >= 0"),
        (lambda: schedules.cosine(0.1, 0), "cosine: steps should be a positive integer"),
        (lambda: schedules.cosine(0.1, 2.5), "cosine: steps should be a positive integer"),
        (lambda: schedules.step(0.1, 0, 0.1), "step: every should be a positive integer"),
        (lambda: schedules.exponential(float("nan"), 0.1), "exponential: start should be finite"),
        (lambda: schedules.one_cycle(0.1, 5, pct_start=1.5), "pct_start should be at most 1"),
        (lambda: schedules.piecewise([]), "piecewise: steps should begin at 0"),
        (lambda: schedules.piecewise([(0, 0.1), (4, 0.2), (3, 0.1)]), "and not fall"),
        (lambda: schedules.piecewise([(0, 0.1), (4, -0.2)]), "value at 4 should be finite"),
        (lambda: schedules.one_cycle(0.1, 5, div_factor=0), "div_factor should not be 0"),
        (lambda: schedules.one_cycle(0.1, 5, anneal_strategy="x"), "'cos' or 'linear'"),
        (lambda: schedules.warmup(-1.0, 5), "warmup: schedule should be finite"),
        (
            lambda: schedules.cosine(cast(float, "0.1"), 5),
            "start should be a number, but got '0.1'",
        ),
        (lambda: schedules.step(0.1, cast(int, None), 0.5), "every should be a positive integer"),
        (lambda: schedules.from_dict({"name": "sine"}), "unknown schedule 'sine'; there are"),
        (lambda: schedules.from_dict({"name": "constant", "start": 1}), "schedule constant: "),
    ],
)
def test_arguments_are_checked(make: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        make()


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_optimizers_follow_a_schedule(name: str) -> None:
    """A callable does what assigning its value before each step does."""
    rate = schedules.one_cycle(0.1, steps=6)
    decay = schedules.polynomial(0.2, steps=6)
    one, two = nn.Parameter(np.ones(3)), nn.Parameter(np.ones(3))
    scheduled = getattr(optim, name)([one], lr=rate, weight_decay=decay)
    assigned = getattr(optim, name)([two])
    for n in range(6):
        assigned.lr, assigned.weight_decay = rate(n), decay(n)
        for parameter, optimizer in ((one, scheduled), (two, assigned)):
            parameter.grad = np.arange(3.0) - n
            optimizer.step()
        np.testing.assert_array_equal(one.data, two.data)
    assert scheduled.steps == assigned.steps == 6


def test_momentum_may_follow_a_schedule(torch: Any) -> None:
    moment = schedules.polynomial(0.9, steps=5, end=0.5)
    ours = nn.Parameter(np.ones(3))
    theirs = torch.ones(3, dtype=torch.float64, requires_grad=True)
    optimizer = optim.SGD([ours], lr=0.1, momentum=moment, nesterov=True)
    torch_optimizer = torch.optim.SGD([theirs], lr=0.1, momentum=0.9, nesterov=True)
    for n in range(8):
        torch_optimizer.param_groups[0]["momentum"] = moment(n)
        ours.grad, theirs.grad = np.arange(3.0) - n, torch.arange(3.0, dtype=torch.float64) - n
        optimizer.step()
        torch_optimizer.step()
    np.testing.assert_allclose(ours.data, theirs.detach().numpy(), rtol=1e-12)


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf"), "fast", None])
def test_a_bad_value_at_a_step_moves_nothing(value: Any) -> None:
    first, second = nn.Parameter([1.0]), nn.Parameter([1.0])
    groups = [{"params": [first]}, {"params": [second], "lr": lambda n: value if n else 0.1}]
    optimizer = optim.SGD(groups, lr=0.1)
    first.grad = second.grad = [1.0]
    optimizer.step()
    with pytest.raises((ValueError, TypeError), match=r"Invalid learning rate|lr: expected a num"):
        optimizer.step()
    assert first.data[0] == second.data[0] == 0.9
    assert optimizer.steps == 1
