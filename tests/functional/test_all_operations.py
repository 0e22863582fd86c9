"""What holds for every operation: results and gradients, layouts, destinations, no side effects."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import CASES, WITH_PARAMETERS, Case
from checks import LAYOUTS, TOLERANCE, error, numeric_gradient

from fastbn import functional as F
from fastbn import reference

DTYPES = [np.float32, np.float64]
LOSSES = {
    "cross_entropy",
    "mse_loss",
    "l1_loss",
    "huber_loss",
    "binary_cross_entropy_with_logits",
}
WITH_OUT = [c for c in CASES if c.op not in LOSSES | {"flatten"}]


def random_dy(y: Any, rng: np.random.Generator) -> Any:
    if isinstance(y, float):
        return 0.7
    return rng.standard_normal(y.shape).astype(y.dtype)


def test_functional_and_reference_have_the_same_operations() -> None:
    def pairs(module: Any) -> set[str]:
        return {n for n in dir(module) if hasattr(module, f"{n}_backward")}

    halves = {"batch_moments", "scale_shift"}  # test_moments.py
    many = {"concat"}  # takes any number of arrays: test_concat.py
    assert pairs(F) == pairs(reference) == {c.op for c in CASES} | halves | many


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_reference(case: Case, dtype: type, rng: np.random.Generator) -> None:
    arrays = case.arrays(dtype)
    y, saved = case.forward(F, arrays)
    y64, saved64 = case.forward(reference, arrays)
    tolerance = TOLERANCE[np.dtype(dtype)]
    assert error(np.asarray(y), y64) < tolerance
    dy = random_dy(y, rng)
    gradients, gradients64 = case.backward(F, dy, saved), case.backward(reference, dy, saved64)
    assert set(gradients) == set(gradients64) == set(arrays)
    for name, gradient in gradients.items():
        assert gradient.dtype == dtype
        assert error(gradient, gradients64[name]) < tolerance, name
    if not isinstance(y, float):
        assert y.dtype == dtype


@pytest.mark.parametrize("case", CASES, ids=str)
def test_backward_is_the_derivative_of_forward(case: Case, rng: np.random.Generator) -> None:
    arrays = case.arrays(np.float64)
    y, saved = case.forward(F, arrays)
    dy = random_dy(y, rng)
    for name, gradient in case.backward(F, dy, saved).items():

        def of_one(a: Any, name: str = name) -> Any:
            return case.forward(F, arrays | {name: a})[0]

        assert error(gradient, numeric_gradient(of_one, arrays[name], dy)) < 1e-7, name


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", list(LAYOUTS))
@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_memory_layout_gives_the_same_bits(
    case: Case, layout: str, dtype: type, rng: np.random.Generator
) -> None:
    arrays = case.arrays(dtype)
    y, saved = case.forward(F, arrays)
    dy = random_dy(y, rng)
    expected = case.backward(F, dy, saved)

    laid = {name: LAYOUTS[layout](a) for name, a in arrays.items()}
    y_laid, saved = case.forward(F, laid)
    dy_laid = dy if isinstance(dy, float) else LAYOUTS[layout](dy)
    gradients = case.backward(F, dy_laid, saved)
    np.testing.assert_array_equal(y_laid, y)
    for name, gradient in gradients.items():
        np.testing.assert_array_equal(gradient, expected[name], err_msg=name)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_arguments_are_left_alone(case: Case, rng: np.random.Generator) -> None:
    arrays = case.arrays(np.float32)
    before = {name: a.copy() for name, a in arrays.items()}
    y, saved = case.forward(F, arrays)
    dy = random_dy(y, rng)
    dy_before, y_before = np.copy(dy), np.copy(y)
    case.backward(F, dy, saved)
    np.testing.assert_array_equal(dy, dy_before)
    np.testing.assert_array_equal(y, y_before)
    for name, a in arrays.items():
        np.testing.assert_array_equal(a, before[name], err_msg=name)


@pytest.mark.parametrize("layout", ["contiguous", "one element off"])
@pytest.mark.parametrize("case", WITH_OUT, ids=str)
def test_out_receives_the_result(case: Case, layout: str, rng: np.random.Generator) -> None:
    arrays = case.arrays(np.float32)
    y, saved = case.forward(F, arrays)
    dy = random_dy(y, rng)
    gradients = case.backward(F, dy, saved)

    out = LAYOUTS[layout](np.full_like(y, np.nan))
    y_out, saved = getattr(F, case.op)(**arrays, **case.options(np.float32), out=out)
    assert y_out is out
    np.testing.assert_array_equal(out, y)

    x = next(iter(arrays))
    dx = LAYOUTS[layout](np.full_like(arrays[x], np.nan))
    result = getattr(F, f"{case.op}_backward")(dy, saved, out=dx)
    assert (result[0] if isinstance(result, tuple) else result) is dx
    np.testing.assert_array_equal(dx, gradients[x])


@pytest.mark.parametrize("case", WITH_OUT, ids=str)
def test_wrong_out_is_refused(case: Case) -> None:
    arrays = case.arrays(np.float32)
    y, _ = case.forward(F, arrays)
    read_only = np.zeros_like(y)
    read_only.flags.writeable = False
    wider = np.zeros((*y.shape[:-1], y.shape[-1] + 1), np.float32)
    for out in (wider, np.zeros(y.shape), read_only):
        with pytest.raises((TypeError, ValueError), match="out"):
            getattr(F, case.op)(**arrays, **case.options(np.float32), out=out)
        assert not out.any()


DESTINATIONS = [c for c in CASES if c.op in WITH_PARAMETERS | {"rms_norm"}]


@pytest.mark.parametrize("case", DESTINATIONS, ids=str)
def test_gradients_go_where_they_are_told(case: Case, rng: np.random.Generator) -> None:
    arrays = case.arrays(np.float32)
    y, saved = case.forward(F, arrays)
    dy = random_dy(y, rng)
    expected = case.backward(F, dy, saved)
    destinations = {
        "out" if name == "x" else f"d{name}": np.full_like(a, np.nan) for name, a in arrays.items()
    }
    result = getattr(F, f"{case.op}_backward")(dy, saved, **destinations)
    for gradient, (name, destination) in zip(
        (g for g in result if g is not None), destinations.items(), strict=True
    ):
        assert gradient is destination, name
        np.testing.assert_array_equal(
            destination, expected["x" if name == "out" else name.removeprefix("d")]
        )


@pytest.mark.parametrize("case", DESTINATIONS, ids=str)
def test_gradients_that_nobody_needs(case: Case, rng: np.random.Generator) -> None:
    arrays = case.arrays(np.float32)
    y, saved = case.forward(F, arrays)
    dy = random_dy(y, rng)
    backward = getattr(F, f"{case.op}_backward")
    everything = backward(dy, saved)
    names = ["dx", "dweight", "dbias", "dresidual"][: len(everything)]
    for left_out in names:
        result = backward(dy, saved, **{f"need_{left_out}": False})
        assert len(result) == len(everything)
        for name, gradient, expected in zip(names, result, everything, strict=True):
            if name == left_out:
                assert gradient is None
            else:
                np.testing.assert_array_equal(gradient, expected, err_msg=name)


BY_ROWS = [c for c in CASES if c.op not in LOSSES and not str(c).startswith("batch_norm")]
BY_ROWS += [c for c in CASES if str(c).startswith("batch_norm[inference")]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", BY_ROWS, ids=str)
def test_no_rows_give_no_rows(case: Case, dtype: type) -> None:
    arrays = case.arrays(dtype)
    arrays |= {name: arrays[name][:0] for name in ("x", "residual") if name in arrays}
    y, saved = case.forward(F, arrays)
    assert y.shape == case.forward(reference, arrays)[0].shape
    assert y.dtype == dtype
    for name, gradient in case.backward(F, np.empty_like(y), saved).items():
        assert gradient.shape == arrays[name].shape
        assert not gradient.any(), name


@pytest.mark.parametrize("dtype", [np.float16, np.int64, np.complex64, object])
@pytest.mark.parametrize("op", sorted({c.op for c in CASES}))
def test_other_dtypes_are_refused(op: str, dtype: Any) -> None:
    case = next(c for c in CASES if c.op == op)
    arrays = case.arrays(np.float64)
    with pytest.raises(TypeError, match="float32"):
        getattr(F, op)(
            **{k: v.astype(dtype) for k, v in arrays.items()}, **case.options(np.float64)
        )


@pytest.mark.parametrize("case", DESTINATIONS, ids=str)
def test_mixed_dtypes_are_refused(case: Case) -> None:
    arrays = case.arrays(np.float32)
    for name in arrays if len(arrays) > 1 else ():
        mixed = arrays | {name: arrays[name].astype(np.float64)}
        with pytest.raises(TypeError, match=r"float32|float64"):
            getattr(F, case.op)(**mixed, **case.options(np.float32))
