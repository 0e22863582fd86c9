"""What every operation refuses: strange `saved`, sizes beyond int64, arrays that share memory."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import psutil
import pytest
from cases import CASES, Case

from fastbn import functional as F
from fastbn import nn
from fastbn.kernels.optim import Sweep

HUGE = [1 << 31, (1 << 62) + 1, (1 << 63) - 1, 1 << 63, 1 << 100]


def one_each() -> list[Case]:
    return list({case.op: case for case in CASES}.values())


@pytest.mark.parametrize("case", one_each(), ids=lambda case: case.op)
def test_backward_takes_only_what_its_forward_returned(case: Case) -> None:
    arrays = case.arrays(np.float32)
    y, saved = case.forward(F, arrays)
    dy = 1.0 if isinstance(y, float) else np.ones_like(y)
    backward = getattr(F, f"{case.op}_backward")
    other = F.flatten(np.ones((2, 3)))[1] if case.op != "flatten" else F.relu(np.ones(2))[1]
    never_filled = type(saved).__new__(type(saved))
    for wrong in (None, 3, "saved", object(), (), other, never_filled):
        with pytest.raises(TypeError):
            backward(dy, wrong)


@pytest.mark.parametrize("huge", HUGE)
@pytest.mark.parametrize("option", ["stride", "padding", "dilation"])
def test_huge_windows_are_refused(option: str, huge: int) -> None:
    x, weight = np.zeros((2, 8, 8, 4), np.float32), np.zeros((4, 4, 3, 3), np.float32)
    calls: list[Callable[[Any], Any]] = [
        lambda n: F.conv2d(x, weight, **{option: n}),
        lambda n: F.conv_transpose2d(x, weight, **{option: n}),
        lambda n: F.max_pool2d(x, 2, **{option: n}),
        lambda n: F.conv2d_algorithm(x.shape, weight.shape, **{option: n}),
        lambda n: nn.Conv2d(4, 4, 3, **{option: n})(x),
        lambda n: nn.MaxPool2d(2, **{option: n})(x),
    ]
    for call in calls:
        for value in (huge, (1, huge)):
            with pytest.raises(ValueError, match=r"."):
                call(value)


@pytest.mark.parametrize("huge", HUGE)
def test_huge_groups_and_kernels_are_refused(huge: int) -> None:
    x, weight = np.zeros((2, 8, 8, 4), np.float32), np.zeros((4, 4, 3, 3), np.float32)
    for call in (
        lambda: F.conv2d(x, weight, groups=huge),
        lambda: F.conv_transpose2d(x, weight, groups=huge),
        lambda: F.max_pool2d(x, huge),
        lambda: F.avg_pool2d(x, (2, huge)),
        lambda: F.avg_pool2d(x, huge, padding=huge // 2),
    ):
        with pytest.raises(ValueError, match=r"."):
            call()


def test_numbers_too_large_for_floats_are_refused() -> None:
    x = np.ones((4, 3), np.float32)
    mean, var = np.zeros(3, np.float32), np.ones(3, np.float32)
    with pytest.raises(ValueError, match="eps is too large"):
        F.batch_norm(x, None, None, training=True, eps=10**400)
    with pytest.raises(ValueError, match="momentum is too large"):
        F.batch_norm(x, None, None, mean, var, training=True, momentum=10**400)
    with pytest.raises(ValueError, match="p is too large"):
        F.dropout(x, 10**400, training=True)


@pytest.mark.parametrize("shape", [(2, 4, 0, 3), (2, 0, 4, 3)])
def test_images_without_pixels_are_not_pooled(shape: tuple[int, ...]) -> None:
    for pool in (F.max_pool2d, F.avg_pool2d):
        with pytest.raises(ValueError, match="at least one pixel"):
            pool(np.zeros(shape, np.float32), 2, padding=1)


@pytest.mark.parametrize("momentum", [-0.1, 1.1, float("nan"), float("inf")])
def test_momentum_lies_between_0_and_1(momentum: float) -> None:
    mean, var = np.zeros(3), np.ones(3)
    with pytest.raises(ValueError, match="momentum should be between 0 and 1"):
        F.batch_norm(np.eye(3), None, None, mean, var, training=True, momentum=momentum)
    assert mean.tolist() == [0.0] * 3
    assert var.tolist() == [1.0] * 3


@pytest.mark.parametrize("training", [True, False])
def test_negative_variances_are_refused(training: bool) -> None:
    var = np.array([1.0, -1e-3, 1.0])
    with pytest.raises(ValueError, match=r"running_var\[1\] is negative"):
        F.batch_norm(np.eye(3), None, None, np.zeros(3), var, training=training)


def shared(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """An array, and another one of three numbers inside it."""
    x = np.random.default_rng(0).uniform(0.5, 1.5, shape).astype(np.float32)
    return x, x.reshape(-1)[1:4]


def test_running_statistics_share_memory_with_nothing() -> None:
    x, inside = shared((4, 3))
    ones = np.ones(3, np.float32)
    for arguments in (
        (x, None, None, inside, ones),
        (x, None, None, ones, inside),
        (np.eye(3, dtype=np.float32), inside, None, inside, ones),
        (np.eye(3, dtype=np.float32), None, inside, ones, inside),
        (np.eye(3, dtype=np.float32), None, None, ones, ones),
    ):
        before = [None if a is None else a.copy() for a in arguments]
        with pytest.raises(ValueError, match="must not overlap"):
            F.batch_norm(*arguments, training=True)
        for a, b in zip(arguments, before, strict=True):
            assert a is b is None or np.array_equal(a, b)


@pytest.mark.parametrize("op", ["batch_norm", "layer_norm", "group_norm"])
def test_only_dx_may_take_the_place_of_dy(op: str) -> None:
    x, weight, bias = np.ones((1, 4), np.float32), np.ones(4, np.float32), np.zeros(4, np.float32)
    _, saved = {
        "batch_norm": lambda: F.batch_norm(x, weight, bias, bias, weight, training=False),
        "layer_norm": lambda: F.layer_norm(x, weight, bias, normalized_shape=4),
        "group_norm": lambda: F.group_norm(x, 2, weight, bias),
    }[op]()
    backward = getattr(F, f"{op}_backward")
    dy = np.ones((1, 4), np.float32)
    for name in ("dweight", "dbias"):
        for need_dx in (True, False):
            with pytest.raises(ValueError, match=f"{name} must not overlap dy"):
                backward(dy, saved, need_dx=need_dx, **{name: dy[0]})


def test_a_masked_call_checks_out_before_the_statistics_move() -> None:
    x, mask = np.random.default_rng(0).random((4, 3)), np.array([True, True, False, True])
    mean, var = np.zeros(3), np.ones(3)
    closed = np.empty((4, 3))
    closed.flags.writeable = False
    for out in (np.empty((4, 2)), np.empty((4, 3), np.float32), closed, [0.0]):
        with pytest.raises((ValueError, TypeError), match="out"):
            F.batch_norm(x, None, None, mean, var, training=True, mask=mask, out=out)
    assert not mean.any()
    dweight, weight = np.zeros(3), np.ones(3)
    _, saved = F.batch_norm(x, weight, None, mean, var, training=True, mask=mask)
    with pytest.raises(ValueError, match="out: expected shape"):
        F.batch_norm_backward(x, saved, dweight=dweight, out=np.empty((4, 2)))
    assert not dweight.any()


@pytest.mark.parametrize("op", ["batch_norm", "linear", "conv2d", "conv_transpose2d"])
def test_gradients_share_memory_with_nothing(op: str) -> None:
    case = next(c for c in CASES if c.op == op and "bias" in c.arrays())
    arrays = case.arrays(np.float32)
    y, saved = case.forward(F, arrays)
    backward = getattr(F, f"{op}_backward")
    weight, bias = arrays["weight"], arrays["bias"]
    for name, like in (("dweight", weight), ("dbias", bias)):
        dy = np.ones(max(y.size, like.size), np.float32)
        inside = dy[: like.size].reshape(like.shape)
        dy = dy[: y.size].reshape(y.shape)
        with pytest.raises(ValueError, match=f"{name} must not overlap dy"):
            backward(dy, saved, **{name: inside})
    dy = np.ones(y.shape, np.float32)
    out = np.empty(max(arrays["x"].size, weight.size), np.float32)
    inside = out[: weight.size].reshape(weight.shape)
    out = out[: arrays["x"].size].reshape(arrays["x"].shape)
    with pytest.raises(ValueError, match="out must not overlap dweight"):
        backward(dy, saved, out=out, dweight=inside)


def test_optimizers_refuse_arrays_that_share_memory() -> None:
    both = np.ones(10, np.float32)
    with pytest.raises(ValueError, match=r"data\[0\] must not overlap data\[1\]"):
        Sweep([both[:6], both[5:]])
    with pytest.raises(ValueError, match=r"must not overlap states\[0\]\[0\]"):
        Sweep([both], [both])
    sweep = Sweep([both[:5]])
    with pytest.raises(ValueError, match=r"grads\[0\] must not overlap data\[0\]"):
        sweep.sgd_step([both[1:6]], lr=0.1)
    assert both.tolist() == [1.0] * 10
    sweep.sgd_step([both[5:]], lr=0.5)
    assert both.tolist() == [0.5] * 5 + [1.0] * 5


@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize("scale", [1e22, 1e30, 1e-20, 1e-14])
@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gradients_at_extreme_scales(
    axis: int, scale: float, activation: str | None, dtype: type, rng: np.random.Generator
) -> None:
    """dx scales with 1 / std: it is what ordinary inputs have, divided by the scale."""
    if dtype is np.float64:
        scale = scale**5  # to 1e150
    shape = (8, 5, 6, 5)
    x, dy = rng.standard_normal(shape), rng.standard_normal(shape).astype(dtype)
    weight, bias = rng.uniform(0.5, 1.5, 5).astype(dtype), rng.standard_normal(5).astype(dtype)
    options: dict[str, Any] = {"training": True, "eps": 0.0, "axis": axis, "activation": activation}
    _, saved = F.batch_norm((x * scale).astype(dtype), weight, bias, **options)
    _, saved64 = F.batch_norm((x * scale).astype(dtype) / scale, weight, bias, **options)
    found = F.batch_norm_backward(dy, saved)
    wanted = F.batch_norm_backward(dy, saved64)
    found = (found[0].astype(np.float64) * scale, *found[1:])
    for gradient, other in zip(found, wanted, strict=True):
        assert np.abs(gradient - other).max() < 1e-4 * np.abs(other).max()


def test_scratch_ends_with_its_thread() -> None:
    x, weight = np.zeros((8, 32, 32, 32), np.float32), np.zeros((64, 32, 3, 3), np.float32)

    def work() -> None:
        F.conv2d(x, weight, padding=1)

    def threads(count: int) -> int:
        for _ in range(count):
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
        return psutil.Process().memory_info().rss

    before = threads(20)
    assert threads(100) < before + (20 << 20)
