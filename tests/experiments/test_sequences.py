from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fastbn import nn
from fastbn.experiments.sequences import NORMS, Classifier, effect_of_padding, sequences


def test_directions(quick: Callable[[str], dict[str, Any]]) -> None:
    numbers = quick("sequences")["numbers"]
    of = {name: {key: v["mean"] for key, v in row.items()} for name, row in numbers.items()}
    assert of["BN, batch 32"]["test_accuracy"] > of["no BN, batch 32"]["test_accuracy"] + 0.1
    assert of["BN, batch 32"]["effect_of_padding"] > 0.1
    assert of["BN with a mask, batch 32"]["effect_of_padding"] < 1e-3
    assert of["LN, batch 32"]["effect_of_padding"] < 0.1


def test_sequences(rng: np.random.Generator) -> None:
    images = rng.uniform(0.1, 1, (20, 3, 2, 1)).astype(np.float32)
    x, times = sequences(images, 0)
    assert x.shape == (20, 12, 3)
    assert set(times) <= {1, 2, 4}
    np.testing.assert_array_equal(x[..., 2].sum(1), 3 * times)
    for row, image, often in zip(x, images[..., 0], times, strict=True):
        np.testing.assert_array_equal(row[: 3 * often : often, :2], image)
        assert not row[3 * often :].any()


@pytest.mark.parametrize("kind", NORMS)
def test_gradients(kind: str, rng: np.random.Generator) -> None:
    net = Classifier(2, 4, 3, kind, 0).astype(np.float64)
    x, _ = sequences(rng.normal(size=(6, 3, 2, 1)), 0)
    x = x.astype(np.float64)
    y = net(x)
    dy = rng.normal(size=y.shape)
    net.backward(dy)
    parameter = net.parameters()[0]
    direction = rng.normal(size=parameter.data.shape)
    analytic = float((parameter.grad * direction).sum())
    values = []
    for step in (1e-6, -1e-6):
        parameter.data[...] += step * direction
        values.append(float((net(x) * dy).sum()))
        net.discard()
        parameter.data[...] -= step * direction
    assert analytic == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-5, abs=1e-7)


def test_padding_is_nothing_to_a_mask(rng: np.random.Generator) -> None:
    x, _ = sequences(rng.normal(size=(16, 3, 2, 1)), 0)
    effect = {kind: effect_of_padding(Classifier(2, 4, 3, kind, 0), x) for kind in NORMS}
    assert effect["BN with a mask"] < 1e-4 < effect["BN"]
    assert isinstance(Classifier(2, 4, 3, "LN", 0), nn.Module)
