"""batch_norm: random shapes and layouts, large offsets, in place, bfloat16, what it refuses."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from checks import LAYOUTS, TOLERANCE, error
from hypothesis import given, settings
from hypothesis import strategies as st

from fastbn import functional as F
from fastbn import reference

ACTIVATIONS = [None, "relu", "leaky_relu", "gelu", "silu"]


@st.composite
def calls(draw: st.DrawFn) -> dict[str, Any]:
    """A call of batch_norm: shape, axis, layout, dtype and every option, with its arrays."""
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    c = draw(st.sampled_from([1, 2, 3, 7, 8, 15, 16, 17, 33, 64, 130]))
    spatial = draw(st.lists(st.integers(1, 7), max_size=3))
    n = draw(st.integers(1, 17))
    axis = draw(st.sampled_from([-1, 1]))
    training = draw(st.booleans())
    if training:  # with few values dx is the small rest of large terms: no measure of a kernel
        n += 16
    shape = (n, c, *spatial) if axis == 1 else (n, *spatial, c)
    layout = LAYOUTS[draw(st.sampled_from(list(LAYOUTS)))]
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))

    def random(size: tuple[int, ...]) -> Any:
        return layout(rng.standard_normal(size).astype(dtype))

    affine = draw(st.booleans())
    call = {
        "x": layout((rng.standard_normal(shape) * 3 + 1).astype(dtype)),
        "weight": random((c,)) if affine else None,
        "bias": random((c,)) if affine else None,
        "residual": random(shape) if draw(st.booleans()) else None,
        "training": training,
        "axis": axis,
        "activation": draw(st.sampled_from(ACTIVATIONS)),
        "momentum": draw(st.sampled_from([0.1, 0.9, None])),
        "eps": draw(st.sampled_from([1e-5, 1e-3])),
    }
    if not training or draw(st.booleans()):
        call["running_mean"] = rng.standard_normal(c).astype(dtype)
        call["running_var"] = rng.uniform(0.3, 3.0, c).astype(dtype)
        call["num_batches_tracked"] = np.array(4)
    return {"call": call, "dy": random(shape)}


def with_own_buffers(call: dict[str, Any], dtype: Any = None) -> dict[str, Any]:
    buffers = {"running_mean", "running_var", "num_batches_tracked"}
    return {
        k: np.array(v, dtype=dtype if k.startswith("running") else None) if k in buffers else v
        for k, v in call.items()
    }


@settings(max_examples=150)
@given(calls())
def test_random_calls_equal_the_reference(example: dict[str, Any]) -> None:
    call, dy = with_own_buffers(example["call"]), example["dy"]
    call64 = with_own_buffers(example["call"], np.float64)
    tolerance = TOLERANCE[call["x"].dtype]
    y, saved = F.batch_norm(**call)
    y64, saved64 = reference.batch_norm(**call64)
    assert y.dtype == call["x"].dtype
    assert error(y, y64) < tolerance
    if "running_mean" in call:
        assert error(call["running_mean"], call64["running_mean"]) < tolerance
        assert error(call["running_var"], call64["running_var"]) < tolerance
        assert call["num_batches_tracked"] == call64["num_batches_tracked"]
    if call["activation"] is not None:  # where rounding turned a sign, both masks are right
        z64 = reference.batch_norm(**(with_own_buffers(example["call"]) | {"activation": None}))[0]
        dy = np.where(np.abs(z64) < 1e-5, 0, dy).astype(dy.dtype)
    gradients = F.batch_norm_backward(dy, saved)
    gradients64 = reference.batch_norm_backward(dy, saved64)
    assert len(gradients) == len(gradients64)
    for gradient, gradient64 in zip(gradients, gradients64, strict=True):
        assert (gradient is None) == (gradient64 is None)
        if gradient is not None:
            assert error(gradient, gradient64) < 4 * tolerance


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(256, 24), (4, 9, 11, 24)])
def test_offset_of_ten_thousand_standard_deviations(
    shape: tuple[int, ...],
    training: bool,
    axis: int,
    residual: bool,
    activation: str | None,
    rng: np.random.Generator,
) -> None:
    c = shape[-1]
    std = rng.uniform(0.5, 2.0, c)
    sign = np.where(np.arange(c) % 2, 1.0, -1.0)
    x = np.moveaxis(std * (rng.standard_normal(shape) + 1e4 * sign), -1, axis).astype(np.float32)
    over = tuple(i for i in range(x.ndim) if i != axis % x.ndim)
    mean = x.mean(axis=over, dtype=np.float64).astype(np.float32)
    var = x.var(axis=over, dtype=np.float64).astype(np.float32)
    call: dict[str, Any] = {
        "weight": rng.uniform(0.5, 1.5, c).astype(np.float32),
        "bias": rng.standard_normal(c).astype(np.float32),
        "residual": rng.standard_normal(x.shape).astype(np.float32) if residual else None,
        "training": training,
        "axis": axis,
        "activation": activation,
    }
    stats = {"running_mean": mean.copy(), "running_var": var.copy()}
    stats64 = {k: v.astype(np.float64) for k, v in stats.items()}
    y, saved = F.batch_norm(x, **call, **stats)
    y64, saved64 = reference.batch_norm(x, **call, **stats64)
    assert error(y, y64) < 1e-6
    for name, value in stats.items():
        assert error(value, stats64[name]) < 1e-6
    dy = rng.standard_normal(x.shape).astype(np.float32)
    z64 = reference.batch_norm(x, **(call | {"activation": None}), **stats64)[0]
    dy[np.abs(z64) < 1e-4] = 0  # where rounding may turn the sign
    for gradient, gradient64 in zip(
        F.batch_norm_backward(dy, saved),
        reference.batch_norm_backward(dy, saved64),
        strict=True,
    ):
        assert error(gradient, gradient64) < 2e-6


@pytest.mark.parametrize("outlier", [1e2, 1e4, 1e6])
@pytest.mark.parametrize("place", [0, 1500, -1])
@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize("shape", [(3000, 5), (60, 50, 64)])
def test_an_outlier_spoils_no_digits(
    shape: tuple[int, ...], axis: int, place: int, outlier: float, rng: np.random.Generator
) -> None:
    """Moments are taken about a value of the channel, and that value may be the outlier."""
    values = rng.standard_normal(shape)
    values.reshape(-1, shape[-1])[place] = outlier
    x = np.moveaxis(values, -1, axis).astype(np.float32)
    mean, var = np.zeros((2, shape[-1]), np.float32)
    mean64, var64 = np.zeros((2, shape[-1]))
    options: dict[str, Any] = {"training": True, "momentum": 1.0, "axis": axis}
    y, _ = F.batch_norm(x, None, None, mean, var, **options)
    y64, _ = reference.batch_norm(x, None, None, mean64, var64, **options)
    assert error(y, y64) < 2e-6
    assert np.abs((mean - mean64) / np.sqrt(var64)).max() < 5e-7  # in standard deviations
    assert error(var, var64) < 2e-6


@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_constant_channels_give_the_bias(axis: int, dtype: type) -> None:
    constants = np.array([0.0, 1.0, -3.3, 1e6, 1e-20, 7.7e8, 12345.678], dtype)
    x = np.moveaxis(np.broadcast_to(constants, (37, 5, 7)), -1, axis).copy()
    bias = np.arange(7, dtype=dtype)
    mean, var = np.zeros(7, dtype), np.ones(7, dtype)
    y, _ = F.batch_norm(
        x, np.ones(7, dtype), bias, mean, var, training=True, momentum=1.0, axis=axis
    )
    np.testing.assert_array_equal(np.moveaxis(y, axis, -1), np.broadcast_to(bias, (37, 5, 7)))
    np.testing.assert_array_equal(mean, constants)
    np.testing.assert_array_equal(var, 0)


@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_bad_value_spoils_its_channel_only(
    axis: int, bad: float, rng: np.random.Generator
) -> None:
    x = rng.standard_normal((6, 5, 5)).astype(np.float32)
    np.moveaxis(x, axis, -1)[3, 2, 1] = bad
    y, _ = F.batch_norm(x, None, None, training=True, axis=axis, activation="relu")
    channels = np.moveaxis(y, axis, -1).reshape(-1, 5)
    assert np.isnan(channels[:, 1]).all() or np.isnan(channels[15 + 2, 1])
    assert np.isfinite(np.delete(channels, 1, axis=1)).all()


def test_two_rows_in_float64(rng: np.random.Generator) -> None:
    x, dy = rng.standard_normal((2, 2, 9))
    y, saved = F.batch_norm(x, None, None, training=True)
    y64, saved64 = reference.batch_norm(x, None, None, training=True)
    assert error(y, y64) < 1e-13
    dx, dx64 = F.batch_norm_backward(dy, saved)[0], reference.batch_norm_backward(dy, saved64)[0]
    assert np.abs(dx - dx64).max() < 1e-13 * np.abs(dy).max() * saved64[1].max()


@pytest.mark.parametrize("shape", [(64, 7), (3, 5, 5, 16), (33, 1)])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_bfloat16(
    shape: tuple[int, ...], training: bool, activation: str | None, rng: np.random.Generator
) -> None:
    c = shape[-1]
    x = (rng.standard_normal(shape) + 1).astype(ml_dtypes.bfloat16)
    weight, bias = rng.standard_normal((2, c)).astype(np.float32)
    mean, var = np.zeros(c, np.float32), np.ones(c, np.float32)
    mean64, var64 = mean.astype(np.float64), var.astype(np.float64)
    options: dict[str, Any] = {"training": training, "activation": activation}
    y, saved = F.batch_norm(x, weight, bias, mean, var, **options)
    y64, saved64 = reference.batch_norm(x, weight, bias, mean64, var64, **options)
    assert y.dtype == x.dtype
    assert error(y, y64) < 2**-8  # rounded once
    assert error(mean, mean64) < 1e-6
    assert error(var, var64) < 1e-6
    dy = rng.standard_normal(shape).astype(ml_dtypes.bfloat16)
    z64 = reference.batch_norm(x, weight, bias, mean64, var64, training=training)[0]
    if training:
        dy = np.where(np.abs(z64) < 1e-5, 0, dy.astype(np.float32)).astype(ml_dtypes.bfloat16)
    dx, dweight, dbias = F.batch_norm_backward(dy, saved)
    dx64, dweight64, dbias64 = reference.batch_norm_backward(dy, saved64)
    assert dx.dtype == x.dtype
    assert dweight.dtype == dbias.dtype == np.float32
    smooth = activation in {"gelu", "silu"}  # whose dz is rounded before its sums are taken
    assert error(dx, dx64) < (2**-7 if smooth else 2**-8)
    assert error(dweight, dweight64) < (2**-8 if smooth else 1e-5)
    assert error(dbias, dbias64) < (2**-8 if smooth else 1e-5)


def test_bfloat16_keeps_nan_and_rounds_to_even() -> None:
    stats = np.zeros(1, np.float32), np.ones(1, np.float32)
    x = np.array([[1.0], [np.nan], [np.inf]], ml_dtypes.bfloat16)
    weight = np.array([1 + 2**-8], np.float32)  # halfway between two neighbours: the even one
    y, _ = F.batch_norm(x, weight, None, *stats, training=False, eps=0.0)
    assert y[0, 0] == 1.0
    assert np.isnan(y[1, 0])
    assert y[2, 0] == np.inf
    weight[0] = 1 + 3 * 2**-8
    assert F.batch_norm(x, weight, None, *stats, training=False, eps=0.0)[0][0, 0] == 1 + 2**-6


@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize("shape", [(19, 5), (3, 17, 5, 17)])
@pytest.mark.parametrize("training", [True, False])
def test_out_may_be_x_in_inference_and_dy_in_backward(
    training: bool, shape: tuple[int, ...], axis: int, rng: np.random.Generator
) -> None:
    c = shape[axis]
    x, dy = rng.standard_normal((2, *shape)).astype(np.float32)
    weight, bias = rng.uniform(0.5, 1, (2, c)).astype(np.float32)
    options: dict[str, Any] = {"training": training, "axis": axis, "activation": "relu"}
    mean, var = np.zeros(c, np.float32), np.ones(c, np.float32)
    y, saved = F.batch_norm(x, weight, bias, mean.copy(), var.copy(), **options)
    dx, _, _ = F.batch_norm_backward(dy, saved)
    if not training:
        same = x.copy()
        out, _ = F.batch_norm(same, weight, bias, mean, var, **options, out=same)
        assert out is same
        np.testing.assert_array_equal(same, y)
    same = dy.copy()
    out, _, _ = F.batch_norm_backward(same, saved, out=same)
    assert out is same
    np.testing.assert_array_equal(same, dx)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", ["x", "residual"])
def test_out_may_not_be_what_backward_needs(
    name: str, activation: str | None, rng: np.random.Generator
) -> None:
    x, residual, dy = rng.standard_normal((3, 9, 6)).astype(np.float32)
    arrays = {"x": x, "residual": residual}
    before = arrays[name].copy()
    mean, var = np.zeros(6, np.float32), np.ones(6, np.float32)
    call: dict[str, Any] = {"weight": None, "bias": None, "running_mean": mean, "running_var": var}
    call |= arrays | {"activation": activation, "out": arrays[name]}
    with pytest.raises(ValueError, match=f"out may be {name} in"):
        F.batch_norm(**call, training=True)
    np.testing.assert_array_equal(arrays[name], before)
    assert not mean.any()
    assert (var == 1).all()
    _, saved = F.batch_norm(**call, training=False)
    with pytest.raises(ValueError, match=f"backward needs {name}"):
        F.batch_norm_backward(dy, saved)


def test_out_may_not_overlap_x_in_part(rng: np.random.Generator) -> None:
    memory = rng.standard_normal((10, 6)).astype(np.float32)
    before = memory.copy()
    stats = np.zeros(6, np.float32), np.ones(6, np.float32)
    with pytest.raises(ValueError, match="overlaps x in part"):
        F.batch_norm(memory[:9], None, None, *stats, training=False, out=memory[1:])
    np.testing.assert_array_equal(memory, before)


def test_dresidual_has_memory_of_its_own(rng: np.random.Generator) -> None:
    x, residual, dy = rng.standard_normal((3, 8, 5)).astype(np.float32)
    for activation in ACTIVATIONS:
        _, saved = F.batch_norm(
            x, None, None, training=True, residual=residual, activation=activation
        )
        dx, _, _, dresidual = F.batch_norm_backward(dy, saved)
        assert not np.shares_memory(dresidual, dy)
        assert not np.shares_memory(dresidual, dx)


def good_call() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "x": rng.standard_normal((4, 3, 5)).astype(np.float32),
        "weight": np.ones(5, np.float32),
        "bias": np.zeros(5, np.float32),
        "running_mean": np.zeros(5, np.float32),
        "running_var": np.ones(5, np.float32),
        "num_batches_tracked": np.array(7),
        "training": True,
    }


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "one value per channel": (
        {"x": np.ones((1, 5), np.float32)},
        r"Expected more than 1 value per channel when training, got input size \(1, 5\)",
    ),
    "no value per channel": (
        {"x": np.ones((0, 5), np.float32)},
        r"Expected more than 1 value per channel when training, got input size \(0, 5\)",
    ),
    "x of one axis": ({"x": np.ones(5, np.float32)}, "x"),
    "weight of another size": ({"weight": np.ones(4, np.float32)}, "weight"),
    "weight of two axes": ({"weight": np.ones((1, 5), np.float32)}, "weight"),
    "bias of another size": ({"bias": np.ones(6, np.float32)}, "bias"),
    "running_mean of another size": ({"running_mean": np.ones(4, np.float32)}, "running_mean"),
    "running_var of another size": ({"running_var": np.ones(4, np.float32)}, "running_var"),
    "running_mean alone": ({"running_var": None}, "running_var"),
    "no statistics in inference": (
        {"training": False, "running_mean": None, "running_var": None},
        "running_mean",
    ),
    "unknown activation": ({"activation": "tanh"}, "None or one of 'relu'"),
    "another axis": ({"axis": 0}, "axis"),
    "axis out of range": ({"axis": 3}, "axis"),
    "momentum=None without a count": (
        {"momentum": None, "num_batches_tracked": None},
        "num_batches_tracked",
    ),
    "a count that is no array": ({"num_batches_tracked": 7}, "num_batches_tracked"),
    "a count of another dtype": ({"num_batches_tracked": np.array(7.0)}, "num_batches_tracked"),
    "a count of another byte order": (
        {"num_batches_tracked": np.array(7, ">i8")},
        "num_batches_tracked",
    ),
    "a count that is not aligned": (
        {"num_batches_tracked": np.frombuffer(bytearray(9), np.int64, 1, 1).reshape(())},
        "num_batches_tracked",
    ),
    "two counts": ({"num_batches_tracked": np.array([7, 7])}, "num_batches_tracked"),
    "residual of another shape": ({"residual": np.ones((4, 3, 4), np.float32)}, "residual"),
    "residual of another dtype": ({"residual": np.ones((4, 3, 5))}, "residual"),
    "weight of another dtype": ({"weight": np.ones(5)}, "weight"),
    "out of another shape": ({"out": np.ones((4, 3, 6), np.float32)}, "out"),
    "out of another dtype": ({"out": np.ones((4, 3, 5))}, "out"),
    "negative eps": ({"eps": -1.0}, "eps"),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_refused_before_anything_changed(name: str) -> None:
    changes, message = REFUSED[name]
    call = good_call() | changes
    before = {k: v.copy() for k, v in call.items() if isinstance(v, np.ndarray)}
    with pytest.raises((TypeError, ValueError), match=message):
        F.batch_norm(**call)
    for key, value in before.items():
        np.testing.assert_array_equal(call[key], value, err_msg=key)


@pytest.mark.parametrize("name", ["running_mean", "running_var", "num_batches_tracked"])
def test_read_only_buffers_are_refused_in_training(name: str) -> None:
    call = good_call() | {"momentum": None}
    call[name].flags.writeable = False
    before = {k: v.copy() for k, v in call.items() if isinstance(v, np.ndarray)}
    with pytest.raises(ValueError, match=name):
        F.batch_norm(**call)
    for key, value in before.items():
        np.testing.assert_array_equal(call[key], value, err_msg=key)


def test_wrong_dy_is_refused() -> None:
    _, saved = F.batch_norm(**good_call())
    with pytest.raises(ValueError, match="dy"):
        F.batch_norm_backward(np.ones((4, 3, 6), np.float32), saved)
    with pytest.raises(TypeError, match="dy"):
        F.batch_norm_backward(np.ones((4, 3, 5)), saved)


@pytest.mark.parametrize("name", ["running_mean", "running_var"])
def test_strided_running_buffers_are_refused(name: str) -> None:
    """They are updated in place, so that a copy would not do."""
    call = good_call() | {name: np.ones(10, np.float32)[::2]}
    before = {k: v.copy() for k, v in call.items() if isinstance(v, np.ndarray)}
    with pytest.raises(ValueError, match=f"{name} must be contiguous"):
        F.batch_norm(**call)
    for key, value in before.items():
        np.testing.assert_array_equal(call[key], value, err_msg=key)


@pytest.mark.parametrize("momentum", [0.3, None])
def test_a_bias_left_out_of_x_moves_the_running_mean_only(
    momentum: float | None, rng: np.random.Generator
) -> None:
    x, bias = rng.standard_normal((6, 3)), rng.standard_normal(3)
    results = []
    for module, left_out, seen in ((F, bias, x), (reference, bias, x), (F, None, x + bias)):
        mean, var, count = np.zeros(3), np.ones(3), np.array(1)
        y, _ = module.batch_norm(
            seen, None, None, mean, var, training=True, momentum=momentum,
            num_batches_tracked=count, **({} if left_out is None else {"left_out_bias": left_out}),
        )  # fmt: skip
        results.append((y, mean, var, count))
    for other in results[1:]:
        for ours, expected in zip(results[0], other, strict=True):
            np.testing.assert_allclose(ours, expected, rtol=1e-12, atol=1e-14)
    mean = np.zeros(3)
    for left_out, training in ((bias[:2], True), (bias, False)):
        with pytest.raises(ValueError, match="left_out_bias should have"):
            F.batch_norm(x, None, None, mean, np.ones(3), training=training, left_out_bias=left_out)
    assert not mean.any()
