"""Concat: its place among other layers, its buffers, its names; what it refuses."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

from fastbn import nn


def block(rng: int = 0) -> nn.Concat:
    return nn.Concat(
        nn.Sequential(nn.Conv2d(3, 4, 1, rng=rng), nn.BatchNorm(4), nn.ReLU()),
        nn.Sequential(nn.Conv2d(3, 2, 3, padding=1, rng=rng), nn.BatchNorm(2)),
        nn.MaxPool2d(3, 1, 1),
    )


def test_outputs_stand_side_by_side(rng: np.random.Generator) -> None:
    net = block().eval()
    x = rng.standard_normal((2, 5, 4, 3)).astype(np.float32)
    parts = [branch.eval()(x) for branch in block().branches]
    np.testing.assert_array_equal(net(x), np.concatenate(parts, axis=-1))
    assert net.output_shape((5, 4, 3)) == (5, 4, 9)
    assert next(iter(net.state_dict())) == "0.0.weight"


def test_normalisation_and_activation_of_branches_are_fused() -> None:
    text = str(nn.Sequential(block()).summary((4, 4, 3)))
    assert "BatchNorm '0.0.1'" in text


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_copies_train_by_themselves(duplicate: object, rng: np.random.Generator) -> None:
    assert callable(duplicate)
    net = nn.Sequential(block(), nn.Conv2d(9, 2, 1, rng=1))
    other = duplicate(net)
    x = rng.standard_normal((2, 4, 4, 3)).astype(np.float32)
    dy = rng.standard_normal((2, 4, 4, 2)).astype(np.float32)
    for each in (net, other):
        each(x)
        each.backward(dy)
    for parameter, again in zip(net.parameters(), other.parameters(), strict=True):
        assert parameter is not again
        np.testing.assert_array_equal(parameter.grad, again.grad)


def test_identity_branches_do_not_write_into_the_gradient(rng: np.random.Generator) -> None:
    net = nn.Concat(nn.Sequential(), nn.Sequential())
    x, dy = rng.standard_normal((3, 2)), rng.standard_normal((3, 4))
    y, kept = net(x), dy.copy()
    np.testing.assert_array_equal(y, np.concatenate([x, x], axis=1))
    np.testing.assert_array_equal(net.backward(dy, need_dx=True), dy[:, :2] + dy[:, 2:])
    np.testing.assert_array_equal(dy, kept)


def test_the_order_of_flattened_features_is_followed() -> None:
    net = nn.Sequential(
        nn.Concat(nn.Sequential(nn.Conv2d(3, 2, 1, rng=0), nn.Flatten()), nn.Flatten()),
        nn.Linear(20, 2, rng=0),
    ).build((2, 2, 3))
    ours, theirs = net.state_dict(), net.state_dict(layout="NCHW")
    first = np.arange(8).reshape(2, 2, 2).transpose(2, 0, 1).reshape(-1)
    second = np.arange(12).reshape(2, 2, 3).transpose(2, 0, 1).reshape(-1) + 8
    order = np.concatenate([first, second])
    np.testing.assert_array_equal(theirs["1.weight"], ours["1.weight"][:, order])
    mixed = nn.Sequential(
        nn.Flatten(), nn.Concat(nn.Sequential(), nn.Linear(12, 2, rng=0)), nn.Linear(14, 2)
    ).build((2, 2, 3))
    with pytest.raises(ValueError, match=r"Concat '1': only some branches"):
        mixed.state_dict(layout="NCHW")


def test_refused(rng: np.random.Generator) -> None:
    with pytest.raises(ValueError, match="Concat: expected at least one branch"):
        nn.Concat()
    with pytest.raises(TypeError, match="Concat: int at 1 is not a Module subclass"):
        nn.Concat(nn.ReLU(), 3)  # type: ignore[arg-type]
    shared = nn.ReLU()
    with pytest.raises(ValueError, match="used twice"):
        nn.Concat(shared, shared)
    with pytest.raises(ValueError, match=r"Concat: branches should agree in all sizes"):
        nn.Concat(nn.ReLU(), nn.MaxPool2d(2)).output_shape((4, 4, 3))
    net = nn.Concat(nn.ReLU(), nn.Tanh())
    with pytest.raises(RuntimeError, match="Concat"):
        net.backward(np.zeros((2, 6)))
    x = rng.standard_normal((2, 3))
    net(x)
    with pytest.raises(RuntimeError, match="Concat"):
        net(x)
    net.discard()
    net(x)
