from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastbn.data import Dataset, Normalization, Rows
from fastbn.data.split import split_rows


def images(count: int, classes: int = 3, **more: Any) -> Dataset:
    rng = np.random.default_rng(0)
    x = rng.random((count, 4, 4, 2), dtype=np.float32)
    y = np.arange(count) % classes
    names = tuple("abcdefgh"[:classes])
    return Dataset(x, y, x[:5], y[:5], names, "toy", **more)


def table(count: int) -> Dataset:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(count, 3)).astype(np.float32)
    y = rng.normal(size=(count, 1)).astype(np.float32)
    return Dataset(x, y, x[:5], y[:5], (), "numbers")


def test_split_keeps_the_shares_of_classes() -> None:
    data = images(90)
    parts = data.split(0.2, rng=1)
    assert parts.x_val is not None
    assert parts.y_val is not None
    assert np.bincount(parts.y_val).tolist() == [6, 6, 6]
    assert np.bincount(parts.y_train).tolist() == [24, 24, 24]
    together = np.concatenate([parts.x_train, parts.x_val])
    assert {x.tobytes() for x in together} == {x.tobytes() for x in np.asarray(data.x_train)}
    np.testing.assert_array_equal(parts.x_test, data.x_test)
    assert repr(parts) == (
        "Dataset(toy: 72 training, 18 validation and 5 test images of 4×4×2, 3 classes)"
    )
    assert data.x_val is None


def test_split_is_by_seed() -> None:
    first, same, other = (images(90).split(0.2, rng=seed).x_val for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)


def test_split_of_numbers() -> None:
    parts = table(50).split(0.1, np.random.default_rng(0))
    assert parts.y_val is not None
    assert parts.y_val.shape == (5, 1)
    assert parts.outputs == 1
    assert repr(parts) == (
        "Dataset(numbers: 45 training, 5 validation and 5 test rows of 3, 1 target)"
    )


@pytest.mark.parametrize(
    ("sizes", "fraction", "expected"),
    [
        ([10, 10], 0.25, [2, 3]),  # 5 of 20, the odd one to either
        ([1, 9], 0.2, [0, 2]),  # a single sample is kept
        ([100, 3], 0.01, [1, 0]),
        ([2, 2, 2], 0.5, [1, 1, 1]),
    ],
)
def test_shares(sizes: list[int], fraction: float, expected: list[int]) -> None:
    y = np.repeat(np.arange(len(sizes)), sizes)
    kept, held_out = split_rows(y, fraction, 0, stratify=True)
    assert sorted(np.bincount(y[held_out], minlength=len(sizes))) == sorted(expected)
    assert sorted([*kept, *held_out]) == list(range(len(y)))


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 1.5])
def test_fractions_out_of_range(fraction: float) -> None:
    with pytest.raises(ValueError, match=f"between 0 and 1, but got {fraction}"):
        images(90).split(fraction)


def test_nothing_left_or_nothing_held_out() -> None:
    with pytest.raises(ValueError, match="leaves one part empty"):
        images(4).split(0.05)
    with pytest.raises(ValueError, match="single sample"):
        split_rows(np.arange(5), 0.5, 0, stratify=True)
    with pytest.raises(ValueError, match="has a validation part already"):
        images(90).split(0.1).split(0.1)


def test_parts_must_agree() -> None:
    with pytest.raises(ValueError, match="x_val and y_val belong together"):
        images(9, x_val=np.zeros((1, 4, 4, 2), np.float32))
    with pytest.raises(ValueError, match=r"validation images of shape \(4, 4, 2\)"):
        images(9, x_val=np.zeros((1, 4, 4, 3), np.float32), y_val=np.zeros(1, np.int64))
    with pytest.raises(ValueError, match=r"validation labels should be in \[0, 2\], got \[3, 3\]"):
        images(9, x_val=np.zeros((1, 4, 4, 2), np.float32), y_val=np.full(1, 3))


def test_normalisation_is_fitted_on_the_training_part() -> None:
    data = images(90).split(0.2, rng=0)
    assert data.x_val is not None
    normalized = data.normalized()
    assert normalized.normalization is not None
    x = np.asarray(data.x_train, np.float64)
    np.testing.assert_allclose(normalized.normalization.mean, x.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(normalized.normalization.std, x.std((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(
        normalized.x_val,
        (data.x_val - x.mean((0, 1, 2))) / x.std((0, 1, 2)),
        atol=1e-6,
    )
    assert normalized.x_test.dtype == np.float32
    again = Normalization.from_dict(normalized.normalization.as_dict())
    np.testing.assert_array_equal(again.apply(data.x_test), normalized.x_test)
    with pytest.raises(ValueError, match="normalised already"):
        normalized.normalized()


def test_normalisation_of_what_lies_on_the_disk(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 4, 4, 2), np.uint8)
    np.save(tmp_path / "x.npy", pixels)
    rows = Rows(np.load(tmp_path / "x.npy", mmap_mode="r"))
    y = np.arange(20) % 2
    scaled = pixels.astype(np.float32) / 255
    lazy = Dataset(rows, y, rows, y, ("a", "b")).split(0.5, rng=0).normalized()
    plain = Dataset(scaled, y, scaled, y, ("a", "b")).split(0.5, rng=0).normalized()
    for part in ("train", "val", "test"):
        lazy_x, lazy_y = lazy.part(part)
        x, labels = plain.part(part)
        assert isinstance(lazy_x, Rows)
        assert lazy_x.on_disk
        np.testing.assert_array_equal(lazy_x, x)
        np.testing.assert_array_equal(lazy_y, labels)
        assert lazy_x.shape == x.shape


def test_normalisation_far_from_zero(rng: np.random.Generator) -> None:
    x = rng.normal([1e6, 0.0], 1.0, (1000, 2)).astype(np.float32)
    fitted = Normalization.fit(x)
    exact = x.astype(np.float64)
    np.testing.assert_allclose(fitted.std, exact.std(axis=0), rtol=1e-9)
    expected = (exact - exact.mean(axis=0)) / exact.std(axis=0)
    np.testing.assert_allclose(fitted.apply(x), expected, atol=1e-6)


def test_constant_columns_are_not_blown_up() -> None:
    x = np.full((7, 2), 0.1, np.float32)
    fitted = Normalization.fit(x)
    assert fitted.std.tolist() == [1.0, 1.0]
    np.testing.assert_allclose(fitted.apply(x), 0.0, atol=1e-7)


def test_blocks_are_merged(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    x = rng.normal(3.0, 2.0, (101, 3))
    whole = Normalization.fit(x)
    monkeypatch.setattr("fastbn.data.normalization.BLOCK", 12)
    blocks = Normalization.fit(x)
    np.testing.assert_allclose(blocks.mean, whole.mean, rtol=1e-13)
    np.testing.assert_allclose(blocks.std, whole.std, rtol=1e-13)
    np.testing.assert_array_equal(blocks.apply(x), (x - blocks.mean) / blocks.std)


def test_wrong_normalisation() -> None:
    with pytest.raises(ValueError, match="not finite in channel 1"):
        Normalization.fit(np.array([[0.0, np.nan]]))
    with pytest.raises(ValueError, match="0 samples"):
        Normalization.fit(np.zeros((0, 2)))
    with pytest.raises(ValueError, match=r"2 channels, got shape \(3, 5\)"):
        Normalization.fit(np.zeros((4, 2))).apply(np.zeros((3, 5)))
    for values in ({"mean": [0.0]}, {"mean": [0.0], "std": [0.0]}, {"mean": [0.0], "std": [1, 2]}):
        with pytest.raises(ValueError, match="Expected"):
            Normalization.from_dict(values)
