"""Graphs drawn at random: gradients, what is frozen, copies, and export, whatever is fused."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from fastbn import nn

F64 = np.float64
SIZE = 3


def norm(rng: np.random.Generator) -> nn.BatchNorm:
    layer = nn.BatchNorm(SIZE, dtype=F64)
    assert layer.weight is not None
    assert layer.bias is not None
    layer.weight.data = rng.uniform(0.5, 1.5, SIZE)
    layer.bias.data = rng.standard_normal(SIZE)
    if rng.random() < 0.2:
        layer.freeze()
    return layer


def linear(rng: np.random.Generator, size: int = SIZE) -> nn.Linear:
    return nn.Linear(size, SIZE, bias=bool(rng.random() < 0.6), rng=rng, dtype=F64)


def layer(rng: np.random.Generator) -> nn.Module:
    makes: list[Any] = [
        lambda: linear(rng),
        lambda: linear(rng),
        lambda: norm(rng),
        lambda: norm(rng),
        lambda: norm(rng),
        nn.ReLU,
        lambda: nn.LeakyReLU(0.3),
        nn.Tanh,
        nn.Sequential,
        lambda: nn.Sequential(linear(rng), norm(rng)),
        lambda: nn.Residual(nn.Sequential(linear(rng), norm(rng)), None, "leaky_relu", 0.2),
        lambda: nn.Concat(linear(rng)),
    ]
    made: nn.Module = makes[rng.integers(len(makes))]()
    return made


def draw(seed: int) -> nn.Graph:
    """Draw ten nodes or so, each from values drawn before; what nobody uses is an output."""
    rng = np.random.default_rng(seed)
    inputs = [nn.Input((SIZE,)) for _ in range(rng.integers(1, 3))]
    values: list[Any] = [linear(rng)(x) for x in inputs]
    used: set[int] = set()

    def pick() -> Any:
        # mostly one of the latest: chains as well as forks
        value = values[-1] if rng.random() < 0.6 else values[rng.integers(len(values))]
        used.add(id(value))
        return value

    for _ in range(rng.integers(6, 16)):
        kind = rng.random()
        if kind < 0.6:
            values.append(layer(rng)(pick()))
        elif kind < 0.85:
            total = nn.add(*(pick() for _ in range(2 if rng.random() < 0.8 else 3)))
            values.append(nn.ReLU()(total) if rng.random() < 0.5 else total)
            used.add(id(total))
        elif kind < 0.93:
            values.append(nn.multiply(pick(), nn.Sigmoid()(pick())))
        else:
            values.append(linear(rng, 2 * SIZE)(nn.concat(pick(), pick())))
    ends = [value for value in values if id(value) not in used]
    ends += [value for value in values if id(value) in used and rng.random() < 0.1]
    return nn.Graph(inputs, ends)


SEEDS = range(40)


@pytest.mark.parametrize("seed", SEEDS)
def test_gradients_are_finite_differences(seed: int) -> None:
    net = draw(seed)
    shape: Any = ((SIZE,),) * net.input_count if net.input_count > 1 else (SIZE,)
    assert nn.check_gradients(net, shape, rows=5, rng=seed, tolerance=2e-5) < 2e-5


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_frozen_changes_no_other_gradient(seed: int) -> None:
    net = draw(seed)
    rng = np.random.default_rng(seed)
    xs = [rng.standard_normal((5, SIZE)) for _ in range(net.input_count)]
    ys = net(*xs)
    dys = tuple(rng.standard_normal(y.shape) for y in ys)
    net.backward(dys)
    frozen = copy.deepcopy(net)
    for parameter in frozen.parameters():
        parameter.requires_grad = bool(rng.random() < 0.4)
    frozen.load_state_dict(net.state_dict())
    for y, other in zip(net(*xs), frozen(*xs), strict=True):
        np.testing.assert_array_equal(y, other)
    dx = net.backward(dys, need_dx=True)
    dx_too = frozen.backward(dys, need_dx=True)
    for d, other in zip(*(v if type(v) is tuple else (v,) for v in (dx, dx_too)), strict=True):
        np.testing.assert_array_equal(d, other)
    frozen(*xs)
    frozen.backward(dys)
    for (name, ours), theirs in zip(frozen.named_parameters(), net.parameters(), strict=True):
        if ours.requires_grad:
            np.testing.assert_array_equal(ours.grad, theirs.grad, err_msg=name)
        else:
            assert ours.grad is None
