"""Batch normalisation by statistics that several processes share; threads stand for them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fastbn import functional as F
from fastbn import nn
from fastbn.functional import variants
from fastbn.functional.moments import Gather
from fastbn.functional.synced import synced_batch_norm, synced_batch_norm_backward
from fastbn.nn.across import across_ranks, average_statistics

Array = NDArray[Any]
C = 5
CUTS = [[4, 8], [1, 1], [0, 12], [3, 3, 3], [0, 5, 9]]  # one row, none, unequal, equal


def in_ranks(count: int, work: Callable[[int, Gather], Any]) -> list[Any]:
    """Return what `work` returns for every rank."""
    barrier = threading.Barrier(count)
    table: list[Any] = [None] * count
    results: list[Any] = [None] * count

    def run(rank: int) -> None:
        def gather(array: Array) -> list[Array]:
            table[rank] = array.copy()
            barrier.wait(10)
            found = list(table)
            barrier.wait(10)
            return found

        try:
            results[rank] = work(rank, gather)
        except ValueError as error:
            results[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def numbers(rng: np.random.Generator, dtype: Any) -> dict[str, Array]:
    shape = (12, 3, 2, C)
    return {
        "x": (rng.standard_normal(shape) * 2 + 100).astype(dtype),
        "dy": rng.standard_normal(shape).astype(dtype),
        "residual": rng.standard_normal(shape).astype(dtype),
        "weight": (rng.random(C) + 0.5).astype(dtype),
        "bias": rng.standard_normal(C).astype(dtype),
    }


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("cuts", CUTS)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("activation", [None, "relu", "gelu"])
def test_is_that_of_all_rows(
    rng: np.random.Generator, dtype: str, cuts: list[int], masked: bool, activation: str | None
) -> None:
    given = numbers(rng, dtype)
    mask = rng.random((12, 3, 2)) < 0.6 if masked else None
    weight, bias = given["weight"], given["bias"]
    running = [np.zeros(C, dtype), np.ones(C, dtype)]
    y, saved = F.batch_norm(
        given["x"], weight, bias, *running, training=True, activation=activation,
        residual=given["residual"], mask=mask,
    )  # fmt: skip
    expected = F.batch_norm_backward(given["dy"], saved)
    bounds = [0, *cuts, 12]

    def rank_of(rank: int, gather: Gather) -> Any:
        rows = slice(bounds[rank], bounds[rank + 1])
        own = [np.zeros(C, dtype), np.ones(C, dtype)]
        y, saved = synced_batch_norm(
            given["x"][rows], weight, bias, *own, gather=gather, momentum=0.1, eps=1e-5,
            num_batches_tracked=None, activation=activation, residual=given["residual"][rows],
            mask=None if mask is None else mask[rows],
        )  # fmt: skip
        return y, *synced_batch_norm_backward(given["dy"][rows], saved), *own

    found = in_ranks(len(bounds) - 1, rank_of)
    bound = 2e-5 if dtype == "float32" else 1e-12
    for part, whole in ((0, y), (1, expected[0]), (4, expected[3])):
        joined = np.concatenate([result[part] for result in found])
        np.testing.assert_allclose(joined, whole, rtol=bound, atol=bound)
    for part, sum_of_all in ((2, expected[1]), (3, expected[2])):
        total = np.sum([result[part].astype(np.float64) for result in found], axis=0)
        np.testing.assert_allclose(total, sum_of_all, rtol=bound, atol=10 * bound)
    for part, values in ((5, running[0]), (6, running[1])):
        for result in found:
            np.testing.assert_array_equal(result[part], found[0][part])
        np.testing.assert_allclose(found[0][part], values, rtol=bound)


def test_renormalised(rng: np.random.Generator) -> None:
    given = numbers(rng, np.float64)
    limits = {"r_max": 1.5, "d_max": 0.7}
    running = [np.full(C, 99.5), np.full(C, 3.0)]
    y, saved = variants.batch_renorm(
        given["x"], given["weight"], given["bias"], *(r.copy() for r in running), eps=1e-5,
        momentum=0.1, num_batches_tracked=None, out=np.empty_like(given["x"]), **limits,
    )  # fmt: skip
    expected = variants.batch_renorm_backward(given["dy"], saved, np.empty_like(y))

    def rank_of(rank: int, gather: Gather) -> Any:
        rows = slice(0, 5) if rank == 0 else slice(5, 12)
        y, saved = synced_batch_norm(
            given["x"][rows], given["weight"], given["bias"], *(r.copy() for r in running),
            gather=gather, momentum=0.1, eps=1e-5, num_batches_tracked=None, renorm=(1.5, 0.7),
        )  # fmt: skip
        return y, *synced_batch_norm_backward(given["dy"][rows], saved)

    found = in_ranks(2, rank_of)
    for part, whole in ((0, y), (1, expected[0])):
        joined = np.concatenate([result[part] for result in found])
        np.testing.assert_allclose(joined, whole, rtol=1e-11, atol=1e-11)
    for part in (2, 3):
        np.testing.assert_allclose(found[0][part] + found[1][part], expected[part - 1], rtol=1e-10)


def test_population_statistics_are_those_of_whole_batches(rng: np.random.Generator) -> None:
    """Not means of the variances of parts, which lack the variance between the parts."""
    batches = [rng.standard_normal((8, C)) + np.arange(8)[:, None] for _ in range(3)]

    def network() -> nn.Sequential:
        return nn.Sequential(nn.BatchNorm(C, dtype=np.float64)).build((C,))

    whole = network()
    nn.population_statistics(whole, batches)

    def rank_of(rank: int, gather: Gather) -> Any:
        net = network()
        rows = slice(0, 3) if rank == 0 else slice(3, 8)
        with across_ranks(net, gather, "sync"):
            nn.population_statistics(net, [batch[rows] for batch in batches])
        return net.state_dict()

    for found in in_ranks(2, rank_of):
        for name, values in whole.state_dict().items():
            np.testing.assert_allclose(found[name], values, rtol=1e-13)


def test_masks_reach_the_layers_of_a_network(rng: np.random.Generator) -> None:
    """Fused with what stands around them, and one rank without a position that counts."""
    x, dy = rng.standard_normal((2, 6, 4, C))
    mask = np.ones((6, 4), bool)
    mask[2:4], mask[5, 1:] = False, False

    def network() -> nn.Sequential:
        layers = [nn.Linear(C, C, rng=1), nn.BatchNorm(C), nn.ReLU(), nn.BatchNorm(C)]
        return nn.Sequential(*layers).astype(np.float64)

    whole = network()
    y = whole(x, mask=mask)
    dx = whole.backward(dy, need_dx=True)

    def rank_of(rank: int, gather: Gather) -> Any:
        net, rows = network(), slice(2 * rank, 2 * rank + 2)
        with across_ranks(net, gather, "sync"):
            y = net(x[rows], mask=mask[rows])
            return y, net.backward(dy[rows], need_dx=True), net[0].weight.grad

    found = in_ranks(3, rank_of)
    np.testing.assert_allclose(np.concatenate([f[0] for f in found]), y, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(np.concatenate([f[1] for f in found]), dx, rtol=1e-9, atol=1e-12)
    total = np.sum([f[2] for f in found], axis=0)
    np.testing.assert_allclose(total, whole[0].weight.grad, rtol=1e-9, atol=1e-12)


def test_ghost_batches_of_several_ranks_are_those_of_one(rng: np.random.Generator) -> None:
    x, dy = rng.standard_normal((2, 12, C))

    def network() -> nn.BatchNorm:
        return nn.BatchNorm(C, ghost_size=3, dtype=np.float64)

    whole = network()
    y, dx = whole(x), whole.backward(dy)

    def rank_of(rank: int, gather: Gather) -> Any:
        net, rows = network(), slice(6 * rank, 6 * rank + 6)
        with across_ranks(net, gather, "sync"):
            return net(x[rows]), net.backward(dy[rows]), net.running_var

    found = in_ranks(2, rank_of)
    np.testing.assert_allclose(np.concatenate([f[0] for f in found]), y, rtol=1e-12)
    np.testing.assert_allclose(np.concatenate([f[1] for f in found]), dx, rtol=1e-10, atol=1e-12)
    for _, _, var in found:
        np.testing.assert_allclose(var, whole.running_var, rtol=1e-12)


def test_inference_asks_nobody(rng: np.random.Generator) -> None:
    def nobody(array: Array) -> list[Array]:
        raise AssertionError("a message")

    x = rng.standard_normal((4, C))
    for layer in (
        nn.BatchNorm(C, dtype=np.float64),
        nn.BatchNorm(C, track_running_stats=False, dtype=np.float64),
        nn.BatchNorm(C, dtype=np.float64).freeze(),
    ):
        with across_ranks(layer, nobody, "sync"):
            assert layer.predict(x).shape == x.shape
            if layer.frozen:
                layer(x)


def test_local_statistics_are_merged_as_those_of_all_rows(rng: np.random.Generator) -> None:
    x = rng.standard_normal((200, C)) + np.repeat([[0.0], [5.0]], 100, axis=0)

    def rank_of(rank: int, gather: Gather) -> Any:
        net = nn.Sequential(nn.BatchNorm(C, momentum=1.0, dtype=np.float64)).build((C,))
        with across_ranks(net, gather, "local"):
            net(x[100 * rank : 100 * rank + 100])
        average_statistics(net, gather)
        return net[0].running_mean, net[0].running_var

    for mean, var in in_ranks(2, rank_of):
        np.testing.assert_allclose(mean, x.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(var, x.var(axis=0), rtol=5e-3)  # 1 / n, 1 / (n - 1)


def test_too_few_rows_are_refused_by_all(rng: np.random.Generator) -> None:
    def rank_of(rank: int, gather: Gather) -> Any:
        x = rng.standard_normal((rank, C))  # no row, one row
        return synced_batch_norm(
            x, None, None, None, None, gather=gather, momentum=0.1, eps=1e-5,
            num_batches_tracked=None,
        )  # fmt: skip

    for error in in_ranks(2, rank_of):
        assert isinstance(error, ValueError)
        assert "more than 1 value per channel" in str(error)


def test_gradients_are_those_of_the_loss(rng: np.random.Generator) -> None:
    """dx of each rank against finite differences of the sum of all ranks' losses."""
    x, dy = rng.standard_normal((2, 6, C))
    cut = 2

    def loss(x: Array) -> float:
        y = in_ranks(2, lambda r, g: forward(x[:cut] if r == 0 else x[cut:], g)[0])
        return float((np.concatenate(y) * dy).sum())

    def forward(part: Array, gather: Gather) -> Any:
        return synced_batch_norm(
            part, None, None, None, None, gather=gather, momentum=0.1, eps=1e-5,
            num_batches_tracked=None,
        )  # fmt: skip

    def both(rank: int, gather: Gather) -> Any:
        rows = slice(0, cut) if rank == 0 else slice(cut, 6)
        _, saved = forward(x[rows], gather)
        return synced_batch_norm_backward(dy[rows], saved)[0]

    dx = np.concatenate(in_ranks(2, both))
    for place in [(0, 0), (1, 3), (4, 2), (5, 4)]:
        step = np.zeros_like(x)
        step[place] = 1e-6
        slope = (loss(x + step) - loss(x - step)) / 2e-6
        assert abs(slope - dx[place]) < 1e-7
