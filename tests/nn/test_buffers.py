"""Buffers: results that callers keep never change, steps in their steady state allocate nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastbn import models, nn, optim
from fastbn.nn.arena import aligned_empty
from fastbn.nn.buffers import SETS, SPARE, Pool

F32 = np.dtype(np.float32)


def mlp() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(20, 16, rng=0), nn.BatchNorm(16), nn.ReLU(), nn.Linear(16, 4, rng=1)
    )


def batches(count: int, rows: int = 8) -> list[Any]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal((rows, 20)).astype(np.float32) for _ in range(count)]


@pytest.mark.parametrize("shape", [(1,), (7, 5, 3), ()])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_memory_is_aligned(shape: tuple[int, ...], dtype: type) -> None:
    for _ in range(8):
        array = aligned_empty(shape, dtype)
        assert array.shape == shape
        assert array.dtype == dtype
        assert array.ctypes.data % 64 == 0
        assert array.flags.c_contiguous
    assert aligned_empty((0, *shape), dtype).shape == (0, *shape)


def test_what_nobody_holds_is_handed_out_again() -> None:
    pool = Pool()
    first = pool.take((4, 3), F32)
    address = first.ctypes.data
    second = pool.take((4, 3), F32)
    assert not np.shares_memory(first, second)
    del first
    assert pool.take((4, 3), F32).ctypes.data == address
    assert pool.take((4, 3), np.dtype(np.float64)).dtype == np.float64
    assert pool.allocations == 3


@pytest.mark.parametrize(
    "hold",
    [
        lambda a: a,
        lambda a: a[1:],
        lambda a: a.T,
        lambda a: a.reshape(-1)[2:3],
        memoryview,
        lambda a: a.view(np.uint8),
        lambda a: {"deep": [a[0]]},
    ],
)
def test_any_way_of_holding_keeps_a_buffer(hold: Any) -> None:
    pool = Pool()
    first = pool.take((4, 3), F32)
    address = first.ctypes.data
    held = hold(first)
    del first
    again = pool.take((4, 3), F32)
    assert again.ctypes.data != address
    del held, again
    taken = {pool.take((4, 3), F32).ctypes.data for _ in range(3)}
    assert address in taken


def test_large_buffers_of_different_shapes_take_turns() -> None:
    pool, large, other = Pool(), (512, 256), (2, 131, 300)
    first, second = pool.take(large, F32), pool.take(large, F32)
    address = second.ctypes.data
    del second
    lying_over = pool.take(other, F32)
    assert lying_over.ctypes.data == address
    third = pool.take(large, F32)
    arrays = first, lying_over, third
    assert not any(np.shares_memory(a, b) for a in arrays for b in arrays if a is not b)
    held = lying_over[1:]
    elsewhere = third.ctypes.data
    del third, lying_over, arrays
    assert pool.take(large, F32).ctypes.data == elsewhere
    del held
    taken = pool.take(large, F32)
    assert taken.ctypes.data == address
    assert not np.shares_memory(pool.take(other, F32), taken)
    assert pool.allocations == 5


def test_small_buffers_and_what_callers_collect_have_memory_of_their_own() -> None:
    pool = Pool()
    pool.take((16,), F32)
    assert not pool._arena._slabs
    for _ in range(2):
        pool.start(pool._key)
        pool.take((1 << 20,), F32)
        pool.take((1 << 21,), F32)
    results = [pool.take((1 << 20,), F32) for _ in range(4)]
    pool.start(pool._key)
    results += [pool.take((1 << 20,), F32) for _ in range(40)]
    assert len({result.ctypes.data for result in results}) == len(results)
    assert sum(slab.nbytes for slab in pool._arena._slabs) < 10 * 4 << 20


class Fresh(Pool):
    """Every buffer is a new array."""

    def take(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        return np.full(shape, np.nan, dtype)


def test_training_in_shared_memory_gives_what_memory_of_its_own_gives() -> None:
    nets = [models.inception((16, 16, 3), 4, stages=2, rng=0) for _ in range(2)]
    nets[1].use_pool(Fresh())
    rng, loss = np.random.default_rng(0), nn.CrossEntropyLoss()
    for _ in range(3):
        x = rng.standard_normal((32, 16, 16, 3)).astype(np.float32)
        for net in nets:
            _, dlogits = loss(net(x), np.arange(32) % 4)
            net.backward(dlogits)
        for ours, other in zip(*(net.parameters() for net in nets), strict=True):
            np.testing.assert_array_equal(ours.grad, other.grad)
    pool = nets[0]._pool
    shapes = sum(entry[1].nbytes for found in pool._buffers.values() for entry, _ in found)
    reached = sum(max(end for _, end, _ in slab.placed) for slab in pool._arena._slabs)
    assert reached < 0.75 * shapes


def test_collected_results_are_different_and_never_change() -> None:
    for mode in (False, True):
        net = mlp().train(mode)
        copies, results = [], []
        for x in batches(50):
            results.append(net(x))
            copies.append(results[-1].copy())
            if mode:
                net.backward(np.ones_like(results[-1]))
        for result, copied in zip(results, copies, strict=True):
            np.testing.assert_array_equal(result, copied)
        assert len({result.ctypes.data for result in results}) == 50


def test_views_of_results_never_change() -> None:
    net = mlp().eval()
    firsts = [net(x)[0] for x in batches(20)]
    again = [net(x)[0].copy() for x in batches(20)]
    np.testing.assert_array_equal(firsts, again)


def test_gradients_that_callers_keep_never_change() -> None:
    net = mlp()
    loss = nn.CrossEntropyLoss()
    kept = []
    for x in batches(10):
        _, dlogits = loss(net(x), np.arange(8) % 4)
        dx = net.backward(dlogits, need_dx=True)
        assert dx is not None
        kept.append((dlogits, dlogits.copy(), dx, dx.copy()))
    for dlogits, dlogits_then, dx, dx_then in kept:
        np.testing.assert_array_equal(dlogits, dlogits_then)
        np.testing.assert_array_equal(dx, dx_then)


def test_steady_state_allocates_nothing() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, rng=0),
        nn.BatchNorm(4),
        nn.ReLU(),
        nn.Residual(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, rng=1), nn.BatchNorm(4))),
        nn.Residual(nn.Conv2d(4, 4, 1, rng=2), nn.Sequential(nn.Sigmoid(), nn.Tanh())),
        nn.MaxPool2d(2),
        nn.AvgPool2d(2, 1),
        nn.LeakyReLU(),
        nn.GlobalAvgPool2d(),
        nn.Flatten(),
        nn.Dropout(0.1),
        nn.Linear(4, 4, rng=3),
    )
    loss = nn.CrossEntropyLoss()
    optimizer = optim.Adam(net.parameters())
    x = np.random.default_rng(0).standard_normal((8, 6, 6, 3)).astype(np.float32)
    counts = []
    for step in range(8):
        _, dlogits = loss(net(x), np.arange(8) % 4)
        net.backward(dlogits)
        optimizer.step()
        if step % 2:
            net.predict(x[:5])
        counts.append(net._pool.allocations + loss._pool.allocations)
    assert counts[-1] == counts[3]


def test_callers_results_do_not_stay_in_the_pool() -> None:
    net = mlp().eval()
    results = [net(x) for x in batches(300)]
    held = sum(len(entries) for entries in net._pool._buffers.values())
    assert held < 8 + 3 * SPARE
    assert len(results) == 300


def test_ever_new_batch_sizes_keep_a_few_sets_only() -> None:
    net = mlp().eval()
    for rows in range(1, 40):
        net(np.zeros((rows, 20), dtype=np.float32))
    assert len(net._pool._sets) == SETS


def test_one_pool_for_the_whole_network() -> None:
    inner = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm(3))
    net = nn.Sequential(nn.ReLU(), nn.Residual(inner))
    assert len({id(module._pool) for module in net.modules()}) == 1
