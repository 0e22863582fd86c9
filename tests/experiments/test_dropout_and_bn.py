from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastbn import nn
from fastbn.experiments.dropout_and_bn import dropped_out


def test_directions(quick: Callable[[str], dict[str, Any]]) -> None:
    numbers = quick("dropout-and-bn")["numbers"]
    of = {name: {k: v["mean"] for k, v in each.items()} for name, each in numbers.items()}
    for images in (100, 300):
        dropout = of[f"dropout, {images} images"]
        assert dropout["mean_of_masks"] > dropout["one_mask"] + 0.03
        assert abs(dropout["mean_of_masks"] - dropout["test_accuracy"]) < 0.04
        with_bn, without = of[f"BN, {images} images"], of[f"neither, {images} images"]
        assert with_bn["steps_to_fit"] < without["steps_to_fit"]
        assert with_bn["test_accuracy"] > without["test_accuracy"]


def test_every_mask_is_another(rng: np.random.Generator) -> None:
    net = nn.Sequential(nn.Linear(4, 50, rng=0), nn.Dropout(0.5, rng=0), nn.Linear(50, 3, rng=1))
    found = dropped_out(net, rng.standard_normal((2, 4)).astype(np.float32), 3)
    assert found.shape == (3, 2, 3)
    assert (found[0] != found[1]).all()
    np.testing.assert_allclose(found.sum(axis=2), 1.0, rtol=1e-6)
    assert not any(layer.training for layer in net)
