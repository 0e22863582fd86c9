"""Initial values: PyTorch's distributions, seeded, the same for every dtype."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastbn import nn
from fastbn.nn import init

LAYERS = [
    (lambda rng, **o: nn.Linear(100, 200, rng=rng, **o), 100),
    (lambda rng, **o: nn.Conv2d(12, 64, (3, 5), groups=4, rng=rng, **o), 45),
]


@pytest.mark.parametrize(("make", "fan_in"), LAYERS)
def test_bounds_and_spread(make: Any, fan_in: int) -> None:
    layer = make(0)
    bound = 1 / np.sqrt(fan_in)
    for parameter in layer.parameters():
        assert np.abs(parameter.data).max() <= bound
    weight = layer.weight.data
    assert np.abs(weight).max() > 0.98 * bound
    assert abs(weight.std() - bound / np.sqrt(3)) < 0.03 * bound
    assert abs(weight.mean()) < 0.05 * bound


@pytest.mark.parametrize(("make", "fan_in"), LAYERS)
def test_seeds(make: Any, fan_in: int) -> None:
    state = make(3).state_dict()
    for name, value in make(np.random.default_rng(3)).state_dict().items():
        np.testing.assert_array_equal(value, state[name])
    for name, value in make(3, dtype=np.float64).state_dict().items():
        np.testing.assert_array_equal(value.astype(np.float32), state[name])
    assert (make(4).weight.data != state["weight"]).any()
    assert (make(None).weight.data != make(None).weight.data).any()


def test_he_normalisation() -> None:
    values = init.kaiming_uniform((50, 200), a=0.0, rng=0)
    assert np.abs(values).max() <= np.sqrt(6 / 200)
    assert abs(values.std() - np.sqrt(2 / 200)) < 0.002


def test_against_pytorch(torch: Any) -> None:
    torch.manual_seed(0)
    theirs = torch.nn.Conv2d(12, 64, (3, 5), groups=4)
    ours = nn.Conv2d(12, 64, (3, 5), groups=4, rng=0)
    for name, tensor in theirs.named_parameters():
        data = ours.state_dict()[name]
        values = tensor.detach().numpy()
        assert values.shape == data.shape
        assert abs(values.std() - data.std()) < 0.01
        assert abs(np.abs(values).max() - np.abs(data).max()) < 0.005


def test_dirac_filters_hand_the_channels_on(rng: np.random.Generator) -> None:
    conv = nn.Conv2d(3, 5, 3, padding=1, bias=False, rng=0)
    before = conv.weight.data.copy()
    conv.weight.data = init.dirac(before)
    x = rng.standard_normal((2, 6, 5, 3), np.float32)
    np.testing.assert_array_equal(conv(x)[..., :3], x)
    np.testing.assert_array_equal(conv.weight.data[3:], before[3:])


def test_whitened_patches_are_white(rng: np.random.Generator) -> None:
    mixed = rng.standard_normal((64, 9, 9, 3)) @ rng.standard_normal((3, 3)) + [1.0, -2.0, 0.5]
    weight = init.whitening(mixed, 2, eps=0.0)
    conv = nn.Conv2d(3, 24, 2, bias=False, dtype=np.float64)
    conv.weight.data = weight
    seen = conv(mixed).reshape(-1, 24)
    np.testing.assert_allclose(seen[:, :12].T @ seen[:, :12] / len(seen), np.eye(12), atol=1e-9)
    np.testing.assert_array_equal(seen[:, 12:], -seen[:, :12])
    with pytest.raises(ValueError, match="whitening: expected images of 3×3 or more"):
        init.whitening(mixed[:, :2], 3)
