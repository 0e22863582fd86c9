from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fastbn.data import Batches, Rows

X = np.arange(10, dtype=np.float32)[:, None] * 10
Y = np.arange(10)


def walk(batches: Batches) -> list[list[int]]:
    return [labels.tolist() for _, labels in batches]


def test_every_row_once_with_its_label() -> None:
    batches = list(Batches(X, Y, 4, rng=3))
    assert [len(x) for x, _ in batches] == [4, 4, 2]
    assert sorted(np.concatenate([y for _, y in batches])) == list(range(10))
    for x, y in batches:
        np.testing.assert_array_equal(x[:, 0], 10 * y)


def test_same_seed_gives_same_walks_and_every_walk_is_new() -> None:
    first, second = Batches(X, Y, 3, rng=5), Batches(X, Y, 3, rng=np.random.default_rng(5))
    epochs = [walk(first), walk(first)]
    assert epochs == [walk(second), walk(second)]
    assert epochs[0] != epochs[1]
    assert walk(Batches(X, Y, 3, rng=6)) != epochs[0]


@pytest.mark.parametrize("size", [1, 3, 5, 10, 11])
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("drop_last", [True, False])
def test_length_is_the_number_of_batches(size: int, shuffle: bool, drop_last: bool) -> None:
    batches = Batches(X, Y, size, rng=0, shuffle=shuffle, drop_last=drop_last)
    found = walk(batches)
    assert len(found) == len(batches)
    assert all(len(labels) == size for labels in found[: None if drop_last else -1])
    assert sum(map(len, found)) == (10 // size * size if drop_last else 10)


def test_no_shuffle_is_storage_order_without_a_copy() -> None:
    x, y = next(iter(Batches(X, Y, 4, shuffle=False)))
    assert y.tolist() == [0, 1, 2, 3]
    assert np.shares_memory(x, X)


def test_a_batch_does_not_change_later() -> None:
    batches = list(Batches(X, Y, 4, rng=1))
    for x, y in batches:
        np.testing.assert_array_equal(x[:, 0], 10 * y)
    assert not any(np.shares_memory(x, X) for x, _ in batches)


def test_wrong_use() -> None:
    with pytest.raises(ValueError, match="10 samples and 9 labels"):
        Batches(X, Y[:-1], 2)
    with pytest.raises(ValueError, match="batch_size should be a positive integer, but got 0"):
        Batches(X, Y, 0)


def test_no_rows_no_batches() -> None:
    assert walk(Batches(X[:0], Y[:0], 4, rng=0)) == []


def test_a_part_of_an_epoch_reads_no_more() -> None:
    class Counting(Rows):
        def __getitem__(self, index: Any) -> NDArray[Any]:
            asked.append(np.asarray(index).tolist())
            return super().__getitem__(index)

    asked: list[list[int]] = []
    batches = Batches(Counting(X), Y, 4, rng=3, prefetch=True)
    whole = [y.tolist() for _, y in batches.epoch(2)]
    asked.clear()
    assert [y.tolist() for _, y in batches.epoch(2, 1, 2)] == whole[1:2]
    assert len(asked) == 1
