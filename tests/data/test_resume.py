"""Batches are keyed by seed, epoch and step, so that a run can be taken up anywhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fastbn.data import Batches, Rows, Stream, augment

X = np.random.default_rng(0).random((23, 8, 8, 3), dtype=np.float32)
Y = np.arange(23)
MIX = augment.compose(augment.flip(), augment.crop(1), augment.cutout(2), augment.brightness())


def make(rng: int = 3, **options: Any) -> Batches:
    return Batches(X, Y, 4, rng=rng, augment=MIX, **options)


def equal(first: list[tuple[NDArray[Any], ...]], second: list[tuple[NDArray[Any], ...]]) -> bool:
    return len(first) == len(second) and all(
        np.array_equal(a, b)
        for one, other in zip(first, second, strict=True)
        for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("start", range(7))
def test_every_step_of_every_epoch_can_be_taken_up(start: int) -> None:
    whole = list(make().epoch(2))
    other = make(rng=99)  # another run, before it gets the state of the first
    other.seed = make().seed
    assert equal(whole[start:], list(other.epoch(2, start=start)))


def test_epochs_differ_in_order_and_in_augmentation() -> None:
    batches = make(shuffle=False)
    first, second = list(batches.epoch(0)), list(batches.epoch(1))
    assert [y.tolist() for _, y in first] == [y.tolist() for _, y in second]
    assert not np.array_equal(first[0][0], second[0][0])
    assert not np.array_equal(first[0][0], first[1][0])
    shuffled = make()
    assert [y.tolist() for _, y in shuffled.epoch(0)] != [y.tolist() for _, y in shuffled.epoch(1)]


def test_augmentation_does_not_change_the_order() -> None:
    plain = Batches(X, Y, 4, rng=3)
    assert [y.tolist() for _, y in plain.epoch(1)] == [y.tolist() for _, y in make().epoch(1)]


@pytest.mark.parametrize("shuffle", [True, False])
def test_augmentation_leaves_the_samples_alone(shuffle: bool) -> None:
    before = X.copy()
    assert len(list(make(shuffle=shuffle).epoch(0))) == 6
    np.testing.assert_array_equal(X, before)


def test_prefetched_batches_are_the_same() -> None:
    assert equal(list(make(prefetch=True).epoch(1)), list(make().epoch(1)))
    assert equal(list(make(prefetch=True).epoch(1, start=3)), list(make().epoch(1, start=3)))


def test_walks_are_the_epochs_in_turn() -> None:
    batches = make()
    assert equal(list(batches), list(make().epoch(0)))
    assert equal(list(batches), list(make().epoch(1)))


def test_weights_go_with_their_samples() -> None:
    for _, y, weight in Batches(X, Y, 5, rng=1, weight=Y / 2.0):
        np.testing.assert_array_equal(weight, y / 2.0)
    with pytest.raises(ValueError, match="as many weights as samples, got 23 samples and 3"):
        Batches(X, Y, 5, weight=np.ones(3))


def test_bytes_are_scaled_batch_by_batch() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (23, 4, 4, 1), np.uint8)
    scaled = pixels.astype(np.float32) / 255
    assert equal(list(Batches(Rows(pixels), Y, 4, rng=7)), list(Batches(scaled, Y, 4, rng=7)))
    assert equal(
        list(Batches(Rows(pixels), Y, 4, shuffle=False)), list(Batches(scaled, Y, 4, shuffle=False))
    )


def test_a_stream_is_augmented_by_step_too() -> None:
    source = [(X[i : i + 5], Y[i : i + 5]) for i in range(0, 23, 5)]
    whole = list(Stream(source, rng=4, augment=MIX).epoch(1))
    assert len(whole) == 5
    assert not np.array_equal(whole[0][0], X[:5])
    assert equal(whole[2:], list(Stream(source, rng=4, augment=MIX).epoch(1, start=2)))
    np.testing.assert_array_equal(X[:5], source[0][0])
