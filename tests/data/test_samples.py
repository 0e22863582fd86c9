"""Whatever holds samples becomes batches, or one clear error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from fastbn import data
from fastbn.data import Expected, Rows, as_batches, as_samples, as_targets

CLASSIFIER = Expected((4,), 3, True)
X = np.arange(24.0).reshape(6, 4)


@pytest.mark.parametrize(
    "dtype", ["i1", "u2", "i4", "i8", "f2", "f4", "f8", ">f4", "?", "bfloat16"]
)
def test_every_real_type_keeps_its_values(dtype: str) -> None:
    if dtype == "bfloat16":
        import ml_dtypes

        array = X.astype(ml_dtypes.bfloat16)
    else:
        array = X.astype(dtype)
    samples = as_samples(array)
    assert samples.dtype == np.float32
    np.testing.assert_array_equal(samples, array.astype(np.float32))
    assert as_samples(array, Expected(dtype=np.float64)).dtype == np.float64


def test_what_fits_is_not_copied() -> None:
    x = X.astype(np.float32)
    assert as_samples(x) is x


def test_lists() -> None:
    np.testing.assert_array_equal(as_samples(X.tolist()), X.astype(np.float32))


def test_bytes_are_pixels() -> None:
    pixels = np.array([[0, 255], [51, 102]], np.uint8)
    rows = as_samples(pixels)
    np.testing.assert_array_equal(rows, np.array([[0, 1], [0.2, 0.4]], np.float32))


def test_tensors(torch: ModuleType) -> None:
    tensor = torch.tensor(X, requires_grad=True)
    np.testing.assert_array_equal(as_samples(tensor), X.astype(np.float32))
    assert as_targets(torch.tensor([0, 2]), CLASSIFIER).tolist() == [0, 2]


def test_memory_mapped_arrays_stay_on_the_disk(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    rows = as_samples(mapped)
    assert isinstance(rows, Rows)
    assert rows.on_disk
    assert np.shares_memory(rows.base, mapped)
    part = as_samples(mapped[2:])  # a part of a file lies on the disk, too
    assert isinstance(part, Rows)
    np.testing.assert_array_equal(part[np.array([1, 0])], X[[3, 2]].astype(np.float32))
    batches = as_batches((mapped, [0, 1, 2, 0, 1, 2]), 4, CLASSIFIER, rng=0)
    assert isinstance(batches, data.Batches)
    assert batches.prefetch
    plain = as_batches((X, [0, 1, 2, 0, 1, 2]), 4, CLASSIFIER, rng=0)
    for one, other in zip(batches.epoch(0), plain.epoch(0), strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])


def test_grey_images_get_their_channel() -> None:
    assert as_samples(np.zeros((2, 28, 28)), Expected((28, 28, 1))).shape == (2, 28, 28, 1)
    assert as_samples(np.zeros((2, 28, 28), np.uint8), Expected((28, 28, 1))).shape == (
        2,
        28,
        28,
        1,
    )


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [((2, 3, 32, 32), None), ((2, 1, 28, 28), (28, 28, 1)), ((2, 5, 7, 9), (7, 9, 5))],
)
def test_channels_first(shape: tuple[int, ...], wanted: tuple[int, ...] | None) -> None:
    with pytest.raises(ValueError, match=r"NCHW.*x.transpose\(0, 2, 3, 1\)"):
        as_samples(np.zeros(shape), Expected(wanted))


def test_channels_last_images_pass() -> None:
    for shape in ((2, 32, 32, 3), (2, 28, 28, 1), (2, 1, 8, 5), (2, 3, 3, 3)):
        assert as_samples(np.zeros(shape)).shape == shape


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        ([1.0, 2.0], ValueError, r"x: expected samples \(N, ...\), got shape \(2,\).*reshape"),
        ([[1.0], [2.0, 3.0]], ValueError, "x: samples differ in shape"),
        ([["a", "b"]], TypeError, "x: expected real numbers, got <U1.*load"),
        (np.zeros((2, 2), complex), TypeError, "x: expected real numbers, got complex128"),
        (np.array([[None, 1]]), TypeError, "x: expected real numbers, got object"),
    ],
)
def test_no_samples(x: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        as_samples(x)


@pytest.mark.parametrize(
    "y",
    [
        [0, 2, 1],
        [0.0, 2.0, 1.0],
        [[0], [2], [1]],
        np.array([0, 2, 1], np.uint8),
        np.eye(3)[[0, 2, 1]],
        np.eye(3, dtype=int)[[0, 2, 1]],
    ],
)
def test_labels(y: Any) -> None:
    labels = as_targets(y, CLASSIFIER)
    assert labels.dtype == np.int64
    assert labels.tolist() == [0, 2, 1]


def test_probabilities_stay() -> None:
    y = np.array([[0.5, 0.25, 0.25], [0.0, 0.0, 1.0]])
    np.testing.assert_array_equal(as_targets(y, CLASSIFIER), y.astype(np.float32))


def test_ignored_labels_pass() -> None:
    assert as_targets([0, -100, 2], CLASSIFIER).tolist() == [0, -100, 2]


@pytest.mark.parametrize(
    ("y", "error", "message"),
    [
        ([1, 2, 3], ValueError, "labels run from 1 to 3, classes count from 0: pass y - 1"),
        ([0, 1, 3], ValueError, r"labels should be in \[0, 2\].*got \[0, 3\]"),
        ([0, -1, 2], ValueError, r"labels should be in \[0, 2\].*got \[-1, 2\]"),
        ([0.5, 1.0], ValueError, "whole numbers, got 0.5 in row 0: for regression.*MSELoss"),
        ([0.0, np.nan], ValueError, "y: 1 targets are not finite, the first in row 1"),
        (["cat", "dog"], TypeError, r"expected real numbers, got <U3.*np.unique"),
        (3, ValueError, "one target for every sample, got a single number"),
        ([[0.5, 0.5, 0.5]], ValueError, "probabilities that sum to 1"),
        ([[1, 1, 0]], ValueError, "one-hot rows"),
    ],
)
def test_no_labels(y: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        as_targets(y, CLASSIFIER)


def test_numbers() -> None:
    one = Expected((4,), 1, False)
    for y in ([1, 2], [1.0, 2.0], [[1.0], [2.0]]):
        target = as_targets(y, one)
        assert target.dtype == np.float32
        assert target.tolist() == [[1.0], [2.0]]
    with pytest.raises(ValueError, match=r"expected 1 numbers for every sample.* got 2"):
        as_targets([[1.0, 2.0]], one)


def test_weights() -> None:
    batches = as_batches((X, [0, 1, 2, 0, 1, 2], [1, 2, 1, 1, 1, 1]), 6, CLASSIFIER, shuffle=False)
    [(_, _, weight)] = batches.epoch(0)
    assert weight.dtype == np.float32
    assert weight.tolist() == [1, 2, 1, 1, 1, 1]
    for wrong, message in (([1, 2], "one number for every sample"), ([-1] * 6, "not negative")):
        with pytest.raises(ValueError, match=message):
            as_batches((X, [0, 1, 2, 0, 1, 2], wrong), 6, CLASSIFIER)


def test_parts_of_a_data_set() -> None:
    x = X.astype(np.float32)
    parts = data.Dataset(x, np.array([0, 1, 0, 1, 0, 1]), x[:2], np.array([0, 1]), ("a", "b"))
    assert as_batches(parts, 4).steps == 2
    assert as_batches(parts, 4, part="test").steps == 1
    with pytest.raises(ValueError, match=r"no validation part.*split\(0.1, rng=0\)"):
        as_batches(parts, 4, part="val")
    assert as_batches(parts.split(0.34, rng=0), 4, part="val").steps == 1
    with pytest.raises(ValueError, match="labels should be in"):
        as_batches(parts, 4, Expected((4,), 1, True))


def pairs() -> Iterator[tuple[Any, Any]]:
    for first in (0, 4):
        yield X[first : first + 4], [0, 1, 2, 0][: len(X) - first]


def numbered(epoch: int) -> Iterator[tuple[Any, Any]]:
    yield X + epoch, [0, 1, 2, 0, 1, 2]


class Again:
    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        return pairs()


@pytest.mark.parametrize("make", [lambda: pairs, lambda: list(pairs()), Again])
def test_streams_serve_every_epoch(make: Callable[[], Any]) -> None:
    stream = as_batches(make(), 99, CLASSIFIER)
    for epoch in (0, 1):
        batches = list(stream.epoch(epoch))
        assert [x.shape for x, _ in batches] == [(4, 4), (2, 4)]
        assert all(x.dtype == np.float32 and y.dtype == np.int64 for x, y in batches)
    assert [x.shape for x, _ in stream.epoch(0, start=1)] == [(2, 4)]


def test_a_list_of_batches_knows_its_steps() -> None:
    assert as_batches(list(pairs()), 99).steps == 2
    assert as_batches(pairs, 99).steps is None


def test_a_function_is_told_the_epoch() -> None:
    [(x, _)] = as_batches(numbered, 99).epoch(3)
    np.testing.assert_array_equal(x, (X + 3).astype(np.float32))


def test_a_generator_serves_one_epoch() -> None:
    stream = as_batches(pairs(), 99)
    assert len(list(stream.epoch(0))) == 2
    with pytest.raises(ValueError, match="one epoch and is used up: pass the function"):
        stream.epoch(1)


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ([X], TypeError, r"Expected batches \(x, y\) or \(x, y, weight\), got ndarray"),
        ([(X,)], TypeError, "got tuple of length 1"),
        ([(X, [0, 1])], ValueError, "got 6 samples and 2 labels"),
        ([(X, [3] * 6)], ValueError, r"labels should be in \[0, 2\]"),
    ],
)
def test_wrong_batches(source: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        list(as_batches(source, 99, CLASSIFIER).epoch(0))


@pytest.mark.parametrize(
    ("source", "message"),
    [((X,), "got a tuple of 1"), (7, "Expected a Dataset.*got int")],
)
def test_no_data(source: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        as_batches(source, 2)
