"""Losses: accuracy, huge values, labels and weights, what they refuse."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
from checks import LAYOUTS, TOLERANCE, error
from hypothesis import given, settings
from hypothesis import strategies as st

from fastbn import functional as F
from fastbn import reference

DTYPES = [np.float32, np.float64]
LABELS = [np.int64, np.int32, np.uint8, np.int8, np.intp]


@settings(max_examples=100)
@given(
    rows=st.integers(1, 70),
    classes=st.sampled_from([1, 2, 3, 7, 10, 16, 17, 33, 100]),
    dtype=st.sampled_from(DTYPES),
    label_dtype=st.sampled_from(LABELS),
    layout=st.sampled_from(list(LAYOUTS)),
    scale=st.sampled_from([0.1, 1.0, 40.0]),
    dloss=st.sampled_from([1.0, -0.3]),
)
def test_cross_entropy(
    rows: int,
    classes: int,
    dtype: type,
    label_dtype: type,
    layout: str,
    scale: float,
    dloss: float,
) -> None:
    rng = np.random.default_rng((rows, classes))
    logits = LAYOUTS[layout]((scale * rng.standard_normal((rows, classes))).astype(dtype))
    labels = LAYOUTS[layout](rng.integers(0, classes, rows).astype(label_dtype))
    loss, saved = F.cross_entropy(logits, labels)
    loss64, saved64 = reference.cross_entropy(logits, labels)
    assert isinstance(loss, float)
    assert abs(loss - loss64) <= TOLERANCE[logits.dtype] * max(loss64, 1.0)
    dlogits = F.cross_entropy_backward(dloss, saved)
    assert dlogits.dtype == dtype
    dlogits64 = reference.cross_entropy_backward(dloss, saved64)
    assert np.abs(dlogits - dlogits64).max() < TOLERANCE[logits.dtype] * abs(dloss) / rows


@settings(max_examples=60)
@given(
    shape=st.lists(st.sampled_from([1, 2, 3, 15, 16, 17, 65]), min_size=1, max_size=3),
    dtype=st.sampled_from(DTYPES),
    layout=st.sampled_from(list(LAYOUTS)),
    offset=st.sampled_from([0.0, 1e4]),
)
def test_mse_loss(shape: list[int], dtype: type, layout: str, offset: float) -> None:
    rng = np.random.default_rng(shape)
    pred, target = (
        LAYOUTS[layout]((rng.standard_normal(shape) + offset).astype(dtype)) for _ in range(2)
    )
    loss, saved = F.mse_loss(pred, target)
    loss64, saved64 = reference.mse_loss(pred, target)
    assert isinstance(loss, float)
    assert abs(loss - loss64) <= TOLERANCE[pred.dtype] * loss64
    dpred = F.mse_loss_backward(0.5, saved)
    assert dpred.dtype == dtype
    assert error(dpred, reference.mse_loss_backward(0.5, saved64)) < TOLERANCE[pred.dtype]


@pytest.mark.parametrize("dtype", DTYPES)
def test_huge_logits(dtype: type) -> None:
    logits = np.array([[1e4, 0.0, -1e4], [3e38, -3e38, 0.0]], dtype)
    loss, saved = F.cross_entropy(logits, np.array([0, 0]))
    assert loss == 0.0
    np.testing.assert_array_equal(F.cross_entropy_backward(1.0, saved), np.zeros((2, 3)))
    loss, saved = F.cross_entropy(logits[:1], np.array([2]))
    assert loss == 2e4
    np.testing.assert_array_equal(F.cross_entropy_backward(1.0, saved), [[1.0, 0.0, -1.0]])


def test_a_sure_right_answer_keeps_its_digits() -> None:
    """log(1 + tiny) must not be rounded to 0 where float64 can tell."""
    logits = np.array([[30.0, 0.0]])
    loss, _ = F.cross_entropy(logits, np.array([0]))
    assert loss == pytest.approx(np.exp(-30.0), rel=2e-2)
    assert loss > 0


def test_nan_is_not_hidden() -> None:
    loss, saved = F.cross_entropy(np.array([[0.0, np.nan], [1.0, 2.0]]), np.array([0, 1]))
    assert np.isnan(loss)
    assert np.isnan(F.cross_entropy_backward(1.0, saved)[0]).any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_equal_torch(dtype: type, torch: ModuleType, rng: np.random.Generator) -> None:
    logits, labels = (3 * rng.standard_normal((33, 10))).astype(dtype), rng.integers(0, 10, 33)
    leaf = torch.from_numpy(logits.copy()).requires_grad_()
    loss_torch = torch.nn.functional.cross_entropy(leaf, torch.from_numpy(labels))
    loss_torch.backward()
    loss, saved = F.cross_entropy(logits, labels)
    assert loss == pytest.approx(loss_torch.item(), rel=1e-6)
    assert error(F.cross_entropy_backward(1.0, saved), leaf.grad.numpy()) < 1e-6


@pytest.mark.parametrize(
    ("logits", "labels", "error_type", "message"),
    [
        (
            np.ones((3, 4)),
            np.array([0, 1, 4]),
            (ValueError, IndexError),
            "Target 4 is out of bounds",
        ),
        (np.ones((3, 4)), np.array([0, -1, 3]), (ValueError, IndexError), "Target -1 is out of"),
        (np.ones((3, 4)), np.array([0.0, 1.0, 2.0]), TypeError, "labels"),
        (np.ones((3, 4)), np.array([True, False, True]), TypeError, "labels"),
        (np.ones((3, 4)), np.array([0, 1]), ValueError, "batch_size|labels"),
        (np.ones((3, 4)), np.array([[0, 1, 2]]), ValueError, "labels"),
        (np.ones((3, 4, 1)), np.array([0, 1, 2]), ValueError, "logits"),
        (np.ones((0, 4)), np.zeros(0, int), ValueError, "logits|rows"),
        (np.ones((3, 0)), np.zeros(3, int), ValueError, "logits|out of bounds|classes"),
    ],
)
def test_cross_entropy_refuses(logits: Any, labels: Any, error_type: Any, message: str) -> None:
    with pytest.raises(error_type, match=message):
        F.cross_entropy(logits, labels)


PAIRS = ["mse_loss", "l1_loss", "huber_loss", "binary_cross_entropy_with_logits"]


@settings(max_examples=80)
@given(
    op=st.sampled_from(PAIRS),
    shape=st.lists(st.sampled_from([1, 2, 3, 15, 16, 17, 65, 600]), min_size=1, max_size=3),
    dtype=st.sampled_from(DTYPES),
    layout=st.sampled_from(list(LAYOUTS)),
    scale=st.sampled_from([1e-25, 0.3, 1.0, 50.0, 1e25]),
    weighted=st.booleans(),
)
def test_pairs(
    op: str, shape: list[int], dtype: type, layout: str, scale: float, weighted: bool
) -> None:
    rng = np.random.default_rng(shape)
    pred = LAYOUTS[layout]((scale * rng.standard_normal(shape)).astype(dtype))
    drawn = rng.uniform(size=shape) if op.startswith("binary") else rng.standard_normal(shape)
    target = LAYOUTS[layout](drawn.astype(dtype))
    options: dict[str, Any] = {"sample_weight": rng.uniform(size=shape[0])} if weighted else {}
    loss, saved = getattr(F, op)(pred, target, **options)
    loss64, saved64 = getattr(reference, op)(pred, target, **options)
    assert abs(loss - loss64) <= TOLERANCE[pred.dtype] * loss64
    dpred = getattr(F, f"{op}_backward")(-0.3, saved)
    dpred64 = getattr(reference, f"{op}_backward")(-0.3, saved64)
    assert dpred.dtype == dtype
    assert error(dpred, dpred64) < TOLERANCE[pred.dtype]


@pytest.mark.parametrize("dtype", DTYPES)
def test_sure_answers_keep_their_digits(dtype: type) -> None:
    """Neither 1 + tiny nor x - x t may round the loss of a sure right answer to 0."""
    for x, t in ((30.0, 1.0), (-30.0, 0.0)):
        loss, _ = F.binary_cross_entropy_with_logits(np.array([x], dtype), np.array([t], dtype))
        assert loss == pytest.approx(np.exp(-30.0), rel=1e-5)
    far = np.array([1e30, -1e30, 0.0], dtype)
    loss, saved = F.binary_cross_entropy_with_logits(far, np.array([1.0, 0.0, 1.0], dtype))
    assert loss == pytest.approx(np.log(2.0) / 3.0, rel=1e-6)
    dpred = F.binary_cross_entropy_with_logits_backward(3.0, saved)
    np.testing.assert_array_equal(dpred, [0.0, 0.0, -0.5])


@pytest.mark.parametrize("op", PAIRS)
def test_nan_of_pairs_is_not_hidden(op: str) -> None:
    for dtype in DTYPES:
        pred = np.array([0.0, np.nan, 1.0], dtype)
        loss, saved = getattr(F, op)(pred, np.zeros(3, dtype))
        assert np.isnan(loss)
        dpred = getattr(F, f"{op}_backward")(1.0, saved)
        np.testing.assert_array_equal(np.isnan(dpred), [False, True, False])


@pytest.mark.parametrize("op", PAIRS)
def test_rows_that_weigh_nothing_may_hold_anything(op: str) -> None:
    pred, target = np.array([[0.2, 0.3], [np.nan, np.inf], [0.4, 0.9]]), np.full((3, 2), 0.5)
    loss, saved = getattr(F, op)(pred, target, sample_weight=[1, 0, 2])
    kept, saved_kept = getattr(F, op)(pred[::2], target[::2], sample_weight=[1, 2])
    assert loss == kept
    dpred = getattr(F, f"{op}_backward")(1.0, saved)
    np.testing.assert_array_equal(dpred[1], 0.0)
    np.testing.assert_array_equal(dpred[::2], getattr(F, f"{op}_backward")(1.0, saved_kept))
    loss, saved = getattr(F, op)(pred, target, sample_weight=np.zeros(3))
    assert loss == 0.0
    assert not getattr(F, f"{op}_backward")(1.0, saved).any()


def test_ignored_rows_may_hold_anything(rng: np.random.Generator) -> None:
    logits, labels = rng.standard_normal((5, 4)), np.array([1, -100, 3, 7, 0])
    logits[1], logits[3] = np.nan, np.inf
    weight = rng.uniform(0.5, 1.0, 4)
    loss, saved = F.cross_entropy(
        logits, np.where(labels == 7, -100, labels), weight, label_smoothing=0.1
    )
    kept, saved_kept = F.cross_entropy(logits[::2], labels[::2], weight, label_smoothing=0.1)
    assert loss == pytest.approx(kept, rel=1e-15)
    dlogits = F.cross_entropy_backward(1.0, saved)
    np.testing.assert_array_equal(dlogits[1::2], 0.0)
    np.testing.assert_allclose(dlogits[::2], F.cross_entropy_backward(1.0, saved_kept), rtol=1e-14)
    loss, saved = F.cross_entropy(logits, np.full(5, 9), ignore_index=9)
    assert loss == 0.0
    assert not F.cross_entropy_backward(1.0, saved).any()


def test_a_weight_of_two_is_the_row_twice(rng: np.random.Generator) -> None:
    logits, labels = rng.standard_normal((4, 3)), np.array([0, 2, 1, 1])
    twice = np.array([0, 1, 1, 2, 3, 3])
    loss, _ = F.cross_entropy(logits, labels, sample_weight=[1, 2, 1, 2])
    assert loss == pytest.approx(F.cross_entropy(logits[twice], labels[twice])[0], rel=1e-14)
    pred, target = rng.standard_normal((2, 4, 3))
    loss, _ = F.mse_loss(pred, target, sample_weight=[1, 2, 1, 2])
    assert loss == pytest.approx(F.mse_loss(pred[twice], target[twice])[0], rel=1e-14)


def test_probabilities_that_are_sure_are_labels(rng: np.random.Generator) -> None:
    logits, labels = rng.standard_normal((6, 5)), rng.integers(0, 5, 6)
    loss, saved = F.cross_entropy(logits, labels, label_smoothing=0.2)
    other, other_saved = F.cross_entropy(logits, np.eye(5)[labels], label_smoothing=0.2)
    assert loss == pytest.approx(other, rel=1e-14)
    expected = F.cross_entropy_backward(1.0, other_saved)
    np.testing.assert_allclose(F.cross_entropy_backward(1.0, saved), expected, atol=1e-16)


@pytest.mark.parametrize("op", ["cross_entropy", "mse_loss"])
def test_gradients_may_take_the_place_of_operands(op: str, rng: np.random.Generator) -> None:
    pred, target = rng.standard_normal((9, 33)), rng.dirichlet(np.ones(33), 9)
    saved = getattr(F, op)(pred, target)[1]
    expected = getattr(F, f"{op}_backward")(1.0, saved)
    for number in range(2):
        arrays = [pred.copy(), target.copy()]
        saved = getattr(F, op)(*arrays)[1]
        assert getattr(F, f"{op}_backward")(1.0, saved, out=arrays[number]) is arrays[number]
        np.testing.assert_array_equal(arrays[number], expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": np.ones(3)}, "weight should contain 4 elements"),
        ({"weight": np.ones(4, np.float32)}, "weight: expected float64, got float32"),
        ({"weight": np.array([1.0, -1.0, 1.0, 1.0])}, r"weight\[1\] should be finite and >= 0"),
        ({"sample_weight": [1.0, 2.0]}, "sample_weight should contain 3 elements"),
        ({"sample_weight": [1.0, np.nan, 2.0]}, r"sample_weight\[1\] should be finite and >= 0"),
        ({"label_smoothing": 1.5}, "label_smoothing must be between 0.0 and 1.0. Got: 1.5"),
        ({"reduction": "none"}, "reduction should be 'mean' or 'sum', but got 'none'"),
        ({"labels": np.full((3, 3), 0.3)}, r"labels: expected shape \(3, 4\), got \(3, 3\)"),
        ({"labels": np.full((3, 4), 0.3, np.float32)}, "labels: expected float64, got float32"),
        ({"labels": np.ones((3, 4), int)}, r"labels: expected shape \(3,\), got \(3, 4\)"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    options = {"labels": np.array([0, 1, 2]), **options}
    with pytest.raises((ValueError, TypeError), match=message):
        F.cross_entropy(np.ones((3, 4)), **options)


def test_what_another_operation_saved_is_refused() -> None:
    one = np.ones((2, 3))
    saved = F.mse_loss(one, one)[1]
    with pytest.raises(TypeError, match="saved is not what l1_loss returned"):
        F.l1_loss_backward(1.0, saved)
    with pytest.raises(TypeError):
        F.cross_entropy_backward(1.0, saved)  # type: ignore[arg-type]
    for op in (*PAIRS, "cross_entropy"):
        for nothing in (None, type(saved)(), type(F.cross_entropy(one, np.array([0, 1]))[1])()):
            with pytest.raises(TypeError):
                getattr(F, f"{op}_backward")(1.0, nothing)
    with pytest.raises(ValueError, match="delta should be finite and > 0, but got 0"):
        F.huber_loss(one, one, delta=0.0)


def test_mse_loss_refuses() -> None:
    with pytest.raises(ValueError, match="target"):
        F.mse_loss(np.ones((3, 1)), np.ones(3))
    with pytest.raises(TypeError, match="target"):
        F.mse_loss(np.ones(3), np.ones(3, np.float32))
    with pytest.raises(ValueError, match="pred"):
        F.mse_loss(np.ones((0, 3)), np.ones((0, 3)))
