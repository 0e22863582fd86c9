"""Ghost batches, renormalisation and masks: equal to what they are made of."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from checks import error, numeric_gradient

from fastbn import functional as F
from fastbn import nn

RNG = np.random.default_rng(0)


def made(**options: Any) -> nn.BatchNorm:
    layer = nn.BatchNorm(3, dtype=np.float64, **options)
    layer.weight.data, layer.bias.data = [0.5, 1.5, -1.0], [0.1, -0.2, 0.3]
    layer.running_mean[...], layer.running_var[...] = [0.2, -0.1, 0.0], [0.5, 1.5, 1.0]
    return layer


def test_ghost_batches_are_batches_of_their_own() -> None:
    x, dy = RNG.standard_normal((2, 256, 3)) + 1.0
    ghost, whole = made(ghost_size=32), made()
    y = ghost(x).copy()
    dx = ghost.backward(dy).copy()
    dweight = np.zeros(3)
    for part in range(0, 256, 32):
        own = made()
        np.testing.assert_array_equal(y[part : part + 32], own(x[part : part + 32]))
        np.testing.assert_array_equal(dx[part : part + 32], own.backward(dy[part : part + 32]))
        dweight += own.weight.grad
    assert error(ghost.weight.grad, dweight) < 1e-14
    whole(x)
    assert error(ghost.running_mean, whole.running_mean) < 1e-14
    assert error(ghost.running_var, whole.running_var) < 1e-14
    assert ghost.num_batches_tracked == 1
    np.testing.assert_array_equal(ghost.eval()(x), nn.BatchNorm.__call__(ghost, x))


def test_a_last_row_joins_the_part_before() -> None:
    x = RNG.standard_normal((9, 3))
    y = made(ghost_size=4)(x)
    np.testing.assert_array_equal(y[4:], made()(x[4:]))


def test_renormalisation_without_limits_to_correct_is_batch_normalisation() -> None:
    x, dy = RNG.standard_normal((2, 64, 3))
    renorm, plain = made(renorm=(1.0, 0.0)), made()
    assert error(renorm(x), plain(x)) < 1e-14
    assert error(renorm.backward(dy), plain.backward(dy)) < 1e-14
    assert error(renorm.weight.grad, plain.weight.grad) < 1e-14
    assert error(renorm.running_mean, plain.running_mean) < 1e-14


def test_renormalisation_with_wide_limits_normalises_by_the_running_statistics() -> None:
    x, dy = RNG.standard_normal((2, 64, 3))
    steps = []
    layer = made(renorm=(lambda step: steps.append(step) or 1e9, 1e9))
    expected = made().eval()(x)
    assert error(layer(x), expected) < 1e-12
    assert steps == [0]
    # r and d are constants in backward: dx is not that of inference
    r = np.sqrt(x.var(axis=0) + 1e-5) / np.sqrt(np.array([0.5, 1.5, 1.0]) + 1e-5)
    plain = made()
    plain.weight.data = plain.weight.data * r
    plain(x)
    assert error(layer.backward(dy), plain.backward(dy)) < 1e-12


@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize("training", [True, False])
def test_a_mask_leaves_the_packed_rows(axis: int, training: bool) -> None:
    x = RNG.standard_normal((4, 6, 3) if axis == -1 else (4, 3, 6))
    weight, bias = RNG.standard_normal((2, 3))
    mask = np.arange(6) < np.array([[6], [3], [1], [4]])
    buffers = [np.zeros(3), np.ones(3)], [np.zeros(3), np.ones(3)]

    def masked(x: Any, weight: Any, bias: Any) -> Any:
        return F.batch_norm(
            x, weight, bias, *buffers[0], training=training, axis=axis, mask=mask, activation="relu"
        )

    y, saved = masked(x, weight, bias)
    rows = np.moveaxis(x, axis, -1)[mask]
    expected, _ = F.batch_norm(
        rows, weight, bias, *buffers[1], training=training, activation="relu"
    )
    np.testing.assert_array_equal(np.moveaxis(y, axis, -1)[mask], expected)
    assert not np.moveaxis(y, axis, -1)[~mask].any()
    np.testing.assert_array_equal(buffers[0], buffers[1])
    dy = RNG.standard_normal(x.shape)
    dx, dweight, _ = F.batch_norm_backward(dy, saved)
    assert not np.moveaxis(dx, axis, -1)[~mask].any()
    assert error(dx, numeric_gradient(lambda a: masked(a, weight, bias)[0], x, dy)) < 1e-7
    assert error(dweight, numeric_gradient(lambda a: masked(x, a, bias)[0], weight, dy)) < 1e-7


def test_variants_run_beside_fused_layers() -> None:
    net = nn.Sequential(
        nn.Linear(4, 6, rng=0), nn.BatchNorm(6, ghost_size=8), nn.ReLU(),
        nn.Linear(6, 6, rng=1), nn.BatchNorm(6, renorm=(3.0, 5.0)), nn.ReLU(),
        nn.Linear(6, 2, rng=2),
    )  # fmt: skip
    x = RNG.standard_normal((32, 4)).astype(np.float32)
    y = net(x)
    net.backward(np.ones_like(y))
    assert all(np.isfinite(p.grad).all() for p in net.parameters())
    assert np.isfinite(net.predict(x)).all()


@pytest.mark.parametrize("options", [{}, {"ghost_size": 4}, {"renorm": (3.0, 5.0)}])
@pytest.mark.parametrize("behind", [[], [nn.ReLU]])
def test_momentum_may_be_a_function_of_the_step(options: Any, behind: list[Any]) -> None:
    asked = []

    def momentum(step: int) -> float:
        asked.append(step)
        return (0.5, 0.25, 0.1)[step]

    scheduled, fixed = made(momentum=momentum, **options), made(**options)
    nets = [nn.Sequential(norm, *(layer() for layer in behind)) for norm in (scheduled, fixed)]
    for step, share in enumerate((0.5, 0.25, 0.1)):
        x = RNG.standard_normal((8, 3))
        fixed.momentum = share
        for net in nets:
            net.backward(np.ones_like(net(x)))
        assert asked == list(range(step + 1))
        np.testing.assert_array_equal(scheduled.running_mean, fixed.running_mean)
        np.testing.assert_array_equal(scheduled.running_var, fixed.running_var)
    nets[0].eval()(x)
    assert len(asked) == 3


def test_bad_arguments_are_named() -> None:
    for options, match in (
        ({"ghost_size": 1}, "ghost_size"),
        ({"renorm": 3.0}, "renorm"),
        ({"renorm": (3.0, 5.0), "track_running_stats": False}, "renorm needs running"),
        ({"momentum": abs, "track_running_stats": False}, "needs running"),
    ):
        with pytest.raises(ValueError, match=match):
            nn.BatchNorm(3, **options)
    with pytest.raises(ValueError, match="momentum should be between 0 and 1"):
        made(momentum=lambda step: 2.0)(np.zeros((4, 3)))
    with pytest.raises(ValueError, match="r_max >= 1"):
        made(renorm=(0.5, 0.0))(np.zeros((4, 3)))
    with pytest.raises(ValueError, match="mask: expected booleans of shape"):
        F.batch_norm(np.zeros((4, 3)), None, None, training=True, mask=np.ones(3, bool))


def test_a_mask_goes_through_the_network() -> None:
    net = nn.Sequential(nn.Linear(4, 6, rng=0), nn.BatchNorm(6), nn.ReLU(), nn.Linear(6, 2, rng=1))
    twin = nn.Sequential(nn.Linear(4, 6, rng=0), nn.BatchNorm(6), nn.ReLU(), nn.Linear(6, 2, rng=1))
    net.astype(np.float64)
    twin.astype(np.float64)
    x, dy = RNG.standard_normal((3, 5, 4)), RNG.standard_normal((3, 5, 2))
    mask = np.arange(5) < np.array([[5], [2], [3]])
    dy[~mask] = 0  # what is padded has no loss
    y = net(x, mask=mask)
    expected = twin(x[mask])
    assert error(y[mask], expected) < 1e-14
    net.backward(dy)
    twin.backward(dy[mask])
    for (name, ours), theirs in zip(net.named_parameters(), twin.parameters(), strict=True):
        if name != "0.bias":  # without effect in front of a BatchNorm
            assert error(ours.grad, theirs.grad) < 1e-12, name
    assert error(net[1].running_var, twin[1].running_var) < 1e-14
    with pytest.raises(
        ValueError, match=r"BatchNorm '1': mask: expected booleans of shape \(3, 4\)"
    ):
        net(x[:, :4], mask=mask)
    for refuses in (nn.BatchNorm(6, ghost_size=2), nn.BatchNorm(6, renorm=(3.0, 5.0))):
        several = nn.Sequential(nn.BatchNorm(4), nn.Linear(4, 6, rng=0), refuses)
        several.astype(np.float64)
        with pytest.raises(ValueError, match=r"BatchNorm '2': a mask goes with no ghost_size"):
            several(x, mask=mask)
        assert several[0].num_batches_tracked == 0
        assert not several[0].running_mean.any()
    shrinks = nn.Sequential(nn.BatchNorm(4), nn.Conv1d(4, 6, 3, stride=2, rng=0), nn.BatchNorm(6))
    shrinks.astype(np.float64)
    with pytest.raises(ValueError, match=r"BatchNorm '2': mask: expected booleans of shape"):
        shrinks(x, mask=mask)
    assert not shrinks[0].running_mean.any()
    net(x)  # no mask is left behind
