"""Layer, group, instance and RMS normalisation: offsets, scales, shapes, bfloat16, PyTorch."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from checks import LAYOUTS, error
from hypothesis import given, settings
from hypothesis import strategies as st

from fastbn import functional as F
from fastbn import reference

RNG = np.random.default_rng(0)
CALLS = {
    "layer_norm": ((64, 96), {"normalized_shape": (96,)}),
    "rms_norm": ((64, 96), {"normalized_shape": (96,)}),
    "group_norm": ((3, 9, 7, 16), {"num_groups": 4}),
    "group_norm, axis 1": ((3, 16, 9, 7), {"num_groups": 4, "axis": 1}),
    "instance_norm": ((3, 9, 7, 16), {}),
    "instance_norm, axis 1": ((3, 16, 9, 7), {"axis": 1}),
}


def run(module: Any, call: str, x: Any, dy: Any = None) -> tuple[Any, Any]:
    op = call.split(",", maxsplit=1)[0]
    y, saved = getattr(module, op)(x, **CALLS[call][1])
    dx = None if dy is None else getattr(module, f"{op}_backward")(dy, saved)[0]
    return y, dx


@pytest.mark.parametrize("call", [c for c in CALLS if not c.startswith("rms")])
def test_offsets_cost_no_digits(call: str) -> None:
    x = (RNG.standard_normal(CALLS[call][0]) + 1e4).astype(np.float32)
    dy = RNG.standard_normal(x.shape).astype(np.float32)
    y, dx = run(F, call, x, dy)
    y64, dx64 = run(reference, call, x, dy)
    assert error(y, y64) < 1e-6
    assert error(dx, dx64) < 1e-6


@pytest.mark.parametrize("scale", [1e-30, 1e-10, 1e15, 1e30])
@pytest.mark.parametrize("call", CALLS)
def test_any_scale(call: str, scale: float) -> None:
    x = (RNG.standard_normal(CALLS[call][0]) * scale).astype(np.float32)
    y, _ = run(F, call, x)
    assert error(y, run(reference, call, x)[0]) < 1e-6


@pytest.mark.parametrize("scale", [1e-20, 1e15, 1e30])
@pytest.mark.parametrize("activation", [None, "relu", "leaky_relu", "gelu", "silu"])
@pytest.mark.parametrize("call", [c for c in CALLS if c.startswith(("group", "instance"))])
def test_gradients_at_any_scale(call: str, activation: str | None, scale: float) -> None:
    shape, options = CALLS[call]
    rng = np.random.default_rng(0)
    x, dy = (rng.standard_normal(shape) * scale).astype(np.float32), rng.standard_normal(shape)
    dy = (dy * scale).astype(np.float32)  # so that dx is a number of the type
    parameters = {name: rng.uniform(0.5, 1.5, 16).astype(np.float32) for name in ("weight", "bias")}
    results = []
    for module in (F, reference):
        op = call.split(",", maxsplit=1)[0]
        more = {"activation": activation, "eps": 0.0}
        _, saved = getattr(module, op)(x, **options, **parameters, **more)
        results.append(getattr(module, f"{op}_backward")(dy, saved))
    for ours, theirs in zip(*results, strict=True):
        assert error(ours, theirs) < 1e-6


@pytest.mark.parametrize("call", CALLS)
def test_constant_values_give_zero_or_one(call: str) -> None:
    y, _ = run(F, call, np.full(CALLS[call][0], 3.0, np.float32))
    np.testing.assert_allclose(y, 1.0 if call == "rms_norm" else 0.0, atol=1e-6)


@pytest.mark.parametrize("call", CALLS)
def test_bfloat16_is_float32_rounded_once(call: str) -> None:
    x = RNG.standard_normal(CALLS[call][0]).astype(ml_dtypes.bfloat16)
    dy = RNG.standard_normal(x.shape).astype(ml_dtypes.bfloat16)
    y, dx = run(F, call, x, dy)
    assert y.dtype == dx.dtype == ml_dtypes.bfloat16
    y64, dx64 = run(reference, call, x.astype(np.float32), dy.astype(np.float32))
    if call == "rms_norm":  # eps follows the dtype
        y64 = reference.rms_norm(x.astype(np.float64), normalized_shape=(96,), eps=2.0**-7)[0]
        dx64 = None
    np.testing.assert_allclose(y.astype(np.float64), y64, rtol=2**-8, atol=1e-6)
    if dx64 is not None:
        np.testing.assert_allclose(dx.astype(np.float64), dx64, rtol=2**-7, atol=1e-5)


@given(
    rows=st.integers(0, 9),
    pixels=st.sampled_from([1, 2, 15, 17, 49, 64]),
    groups=st.integers(1, 5),
    width=st.sampled_from([1, 2, 3, 15, 17, 33]),
    activation=st.sampled_from([None, "gelu", "silu"]),
    axis=st.sampled_from([1, -1]),
    dtype=st.sampled_from([np.float32, np.float64]),
    seed=st.integers(0, 99),
)
@settings(max_examples=120, deadline=None)
def test_group_norm_of_any_shape(
    rows: int, pixels: int, groups: int, width: int, activation: str | None, axis: int, dtype: Any,
    seed: int,
) -> None:  # fmt: skip
    if rows and pixels * width < 2:
        return
    rng = np.random.default_rng(seed)
    C = groups * width
    shape = (rows, pixels, C) if axis == -1 else (rows, C, pixels)
    x, dy = rng.standard_normal(shape).astype(dtype), rng.standard_normal(shape).astype(dtype)
    weight, bias = (rng.standard_normal(C).astype(dtype) for _ in range(2))
    y, saved = F.group_norm(x, groups, weight, bias, axis=axis, activation=activation)
    y64, saved64 = reference.group_norm(x, groups, weight, bias, axis=axis, activation=activation)
    tolerance = 2e-5 if dtype == np.float32 else 1e-12
    assert error(y, y64) < tolerance
    for ours, theirs in zip(
        F.group_norm_backward(dy, saved), reference.group_norm_backward(dy, saved64), strict=True
    ):
        if ours is not None and (pixels * width >= 8 or ours.ndim == 1):  # of two values dx is 0
            assert error(ours, theirs) < tolerance


@given(
    rows=st.integers(0, 40),
    n=st.sampled_from([1, 2, 15, 16, 17, 31, 33, 257, 4097]),
    activation=st.sampled_from([None, "relu", "leaky_relu", "gelu", "silu"]),
    with_residual=st.booleans(),
    dtype=st.sampled_from([np.float32, np.float64]),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_rows_of_any_length(
    rows: int, n: int, activation: str | None, with_residual: bool, dtype: Any, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    x, dy, residual = rng.standard_normal((3, rows, n)).astype(dtype)
    options = {"activation": activation, "residual": residual if with_residual else None}
    weight, bias = rng.standard_normal((2, n)).astype(dtype)
    tolerance = 2e-5 if dtype == np.float32 else 1e-12
    for op, parameters in (("layer_norm", (weight, bias)), ("rms_norm", (weight,))):
        results = []
        for module in (F, reference):
            y, saved = getattr(module, op)(
                x, *parameters, normalized_shape=(n,), eps=1e-5, **options
            )
            results.append((y, *getattr(module, f"{op}_backward")(dy, saved)))
        for ours, theirs in zip(*results, strict=True):
            if n >= 8 or ours is not results[0][1]:  # of two values dx is 0
                assert error(ours, theirs) < tolerance


def test_one_axis_may_be_a_number() -> None:
    x = np.arange(6.0).reshape(2, 3)
    for function in (F.layer_norm, F.rms_norm):
        one, saved = function(x, normalized_shape=3)
        np.testing.assert_array_equal(one, function(x, normalized_shape=(3,))[0])
        assert getattr(F, f"{function.__name__}_backward")(x, saved)[0].shape == x.shape


def test_bad_arguments_are_named() -> None:
    x = np.zeros((2, 3, 4), np.float32)
    with pytest.raises(ValueError, match="num_groups should divide"):
        F.group_norm(x, 3)
    with pytest.raises(ValueError, match="normalized_shape"):
        F.layer_norm(x, normalized_shape=(3,))
    with pytest.raises(ValueError, match="weight: expected shape"):
        F.layer_norm(x, np.zeros(3, np.float32), normalized_shape=(4,))
    with pytest.raises(ValueError, match="more than 1 value per group"):
        F.instance_norm(np.zeros((2, 4), np.float32))
    with pytest.raises(ValueError, match="out must not overlap x"):
        F.group_norm(x, 2, out=x)
    _, saved = F.layer_norm(x, normalized_shape=(4,))
    for backward in (F.rms_norm_backward, F.group_norm_backward, F.layer_norm_backward):
        with pytest.raises(TypeError, match="saved is not what"):
            backward(x, None if backward is F.layer_norm_backward else saved)


@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh", "silu", "mish"])
@pytest.mark.parametrize("call", ["batch_norm", *CALLS])
def test_activated_as_exact_as_pytorch(call: str, activation: str) -> None:
    torch = pytest.importorskip("torch", reason="the comparison with PyTorch needs torch")
    shape, options = CALLS.get(call, ((3, 16, 9, 7), {"axis": 1, "training": True}))
    op, axis = call.split(",", maxsplit=1)[0], options.get("axis", -1)
    rng = np.random.default_rng(0)
    x, dy = (1.5 * rng.standard_normal((2, *shape)) + 0.5).astype(np.float32)
    weight = rng.uniform(0.5, 1.5, 96 if op in {"layer_norm", "rms_norm"} else 16)
    weight, bias = weight.astype(np.float32), rng.standard_normal(weight.shape).astype(np.float32)
    parameters = [weight] if op == "rms_norm" else [weight, bias]
    results = []
    for module in (F, reference):
        y, saved = getattr(module, op)(
            x, weight=weight, **({} if op == "rms_norm" else {"bias": bias}), **options,
            activation=activation,
        )  # fmt: skip
        results.append([y, *getattr(module, f"{op}_backward")(dy, saved)])

    leaf = torch.from_numpy(np.ascontiguousarray(np.moveaxis(x, axis, 1))).requires_grad_()
    if op in {"layer_norm", "rms_norm"}:
        leaf = torch.from_numpy(x).requires_grad_()
    leaves = [torch.from_numpy(p).requires_grad_() for p in parameters]
    match op:
        case "batch_norm":
            z = torch.nn.functional.batch_norm(leaf, None, None, *leaves, training=True)
        case "layer_norm" | "rms_norm":
            z = getattr(torch.nn.functional, op)(leaf, options["normalized_shape"], *leaves)
        case _:
            z = torch.nn.functional.group_norm(leaf, options.get("num_groups", 16), *leaves)
    act, _, form = activation.partition("_")
    t = getattr(torch.nn.functional, act)(z, **({"approximate": form} if form else {}))
    rows = op in {"layer_norm", "rms_norm"}
    t.backward(torch.from_numpy(dy if rows else np.ascontiguousarray(np.moveaxis(dy, axis, 1))))
    theirs = [t.detach().numpy(), leaf.grad.numpy()]
    if not rows:
        theirs = [np.moveaxis(a, 1, axis) for a in theirs]
    theirs += [p.grad.numpy() for p in leaves]
    for ours, truth, other in zip(*results, theirs, strict=True):
        assert error(ours, truth) <= max(2 * error(other, truth), 4 * 2.0**-23)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, ml_dtypes.bfloat16])
@pytest.mark.parametrize("place", [None, "apart", "x", "residual"])
@pytest.mark.parametrize("op", ["layer_norm", "rms_norm"])
def test_a_residual_in_front(op: str, place: str | None, dtype: Any) -> None:
    rng = np.random.default_rng(0)
    x, residual, dy = rng.standard_normal((3, 37, 19)).astype(dtype)
    options: dict[str, Any] = {"normalized_shape": (19,), "eps": 1e-5}
    total = x + residual
    expected, expected_saved = getattr(F, op)(total, **options)
    to = {None: None, "apart": np.empty_like(x), "x": x, "residual": residual}[place]
    y, saved = getattr(F, op)(x, **options, residual=residual, total=to)
    assert to is None or saved.x is to
    for ours, theirs in ((saved.x, total), (y, expected)):  # the same bits as of two passes
        np.testing.assert_array_equal(ours.view(np.uint8), theirs.view(np.uint8))
    backward = getattr(F, f"{op}_backward")
    dx, dx_expected = backward(dy, saved)[0], backward(dy, expected_saved)[0]
    np.testing.assert_array_equal(dx.view(np.uint8), dx_expected.view(np.uint8))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("rows", [301, 40_001])  # these are written past the caches
def test_terms_of_a_sum_may_lie_anywhere(rows: int, layout: str) -> None:
    rng = np.random.default_rng(0)
    x, residual = rng.standard_normal((2, rows, 67)).astype(np.float32)
    y, saved = F.layer_norm(
        LAYOUTS[layout](x), normalized_shape=(67,), residual=LAYOUTS[layout](residual)
    )
    np.testing.assert_array_equal(saved.x, x + residual)
    np.testing.assert_array_equal(y, F.layer_norm(x + residual, normalized_shape=(67,))[0])


def test_what_a_sum_refuses() -> None:
    x = np.ones((4, 6), np.float32)
    options: dict[str, Any] = {"normalized_shape": (6,)}
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"total": x.copy()}, "goes with a residual"),
        ({"residual": x[:2]}, "residual: expected shape"),
        ({"residual": x.astype(np.float64)}, "residual: expected float32"),
        ({"residual": x.copy(), "total": np.ones((4, 5), np.float32)}, "total: expected shape"),
        ({"residual": x.copy(), "out": x}, "out must not overlap x"),
    ]
    for arguments, message in wrong:
        with pytest.raises((TypeError, ValueError), match=message):
            F.layer_norm(x, **options, **arguments)
    assert (x == 1).all()


@pytest.mark.parametrize("scale", [1.0, 1e-20, 1e20])
@pytest.mark.parametrize("call", CALLS)
def test_as_exact_as_pytorch(call: str, scale: float) -> None:
    torch = pytest.importorskip("torch", reason="the comparison with PyTorch needs torch")
    shape, options = CALLS[call]
    x = (RNG.standard_normal(shape) * scale).astype(np.float32)
    axis = options.get("axis", -1)
    if call.startswith(("layer", "rms")):
        theirs = getattr(torch.nn.functional, call)(
            torch.from_numpy(x), options["normalized_shape"]
        )
    else:
        t = torch.from_numpy(np.ascontiguousarray(np.moveaxis(x, axis, 1)))
        groups = options.get("num_groups", t.shape[1])
        theirs = torch.nn.functional.group_norm(t, groups)
    theirs = theirs.numpy()
    if call.split(",", maxsplit=1)[0] in {"group_norm", "instance_norm"}:
        theirs = np.moveaxis(theirs, 1, axis)
    y64 = run(reference, call, x)[0]
    assert error(run(F, call, x)[0], y64) <= max(2 * error(theirs, y64), 4 * 2.0**-23)


@pytest.mark.parametrize("n", [16, 17, 31])
@pytest.mark.parametrize("op", ["layer_norm", "rms_norm"])
def test_large_offsets_do_not_reach_beyond_the_row(op: str, n: int) -> None:
    x = np.full((2, n), 1e37, np.float32)
    dy = RNG.standard_normal((2, n)).astype(np.float32)
    _, saved = getattr(F, op)(x, normalized_shape=n)
    dx = getattr(F, f"{op}_backward")(dy, saved)[0]
    assert np.isfinite(dx).all()
