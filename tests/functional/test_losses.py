"""cross_entropy and mse_loss: accuracy, huge logits, labels, what they refuse."""

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


def test_mse_loss_refuses() -> None:
    with pytest.raises(ValueError, match="target"):
        F.mse_loss(np.ones((3, 1)), np.ones(3))
    with pytest.raises(TypeError, match="target"):
        F.mse_loss(np.ones(3), np.ones(3, np.float32))
    with pytest.raises(ValueError, match="pred"):
        F.mse_loss(np.ones((0, 3)), np.ones((0, 3)))
