"""Layers that normalise samples: PyTorch's results and gradients, shapes, state, training."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from checks import error

from fastbn import nn, optim, reference

RNG = np.random.default_rng(0)
LAYERS = {
    "layer": (lambda **k: nn.LayerNorm(6, **k), (5, 6)),
    "layer, image": (lambda **k: nn.LayerNorm((4, 3, 6), **k), (5, 4, 3, 6)),
    "layer, channels": (lambda **k: nn.LayerNorm(6, bias=False, **k), (5, 4, 3, 6)),
    "rms": (lambda **k: nn.RMSNorm(6, **k), (5, 3, 6)),
    "group": (lambda **k: nn.GroupNorm(3, 6, **k), (5, 4, 3, 6)),
    "instance": (lambda **k: nn.InstanceNorm(6, affine=True, **k), (5, 4, 3, 6)),
    "instance, plain": (lambda **k: nn.InstanceNorm(6, **k), (2, 9, 6)),
}


def reference_of(layer: Any, x: Any) -> tuple[Any, Any]:
    weight = None if layer.weight is None else layer.weight.data
    bias = None if layer.bias is None else layer.bias.data
    if isinstance(layer, nn.GroupNorm):
        return reference.group_norm(x, layer.num_groups, weight, bias, eps=layer.eps)
    shape = {"normalized_shape": layer.normalized_shape, "eps": layer.eps}
    if isinstance(layer, nn.RMSNorm):
        return reference.rms_norm(x, weight, **shape)
    return reference.layer_norm(x, weight, bias, **shape)


@pytest.mark.parametrize("name", LAYERS)
def test_layers_compute_what_the_reference_does(name: str) -> None:
    make, shape = LAYERS[name]
    layer = make(dtype=np.float64)
    for parameter in layer.parameters():
        parameter.data = RNG.standard_normal(parameter.shape)
    x, dy = RNG.standard_normal((2, *shape))
    y64, saved = reference_of(layer, x)
    assert error(layer(x), y64) < 1e-12
    dx = layer.backward(dy, need_dx=True)
    operation = {nn.LayerNorm: "layer", nn.RMSNorm: "rms"}.get(type(layer), "group")
    expected = getattr(reference, f"{operation}_norm_backward")(dy, saved)
    assert error(dx, expected[0]) < 1e-12
    for parameter, gradient in zip((layer.weight, layer.bias), expected[1:], strict=False):
        if parameter is not None:
            assert error(parameter.grad, gradient) < 1e-12


@pytest.mark.parametrize("name", LAYERS)
def test_one_sample_is_enough_and_modes_are_alike(name: str) -> None:
    make, shape = LAYERS[name]
    layer, x = make(), RNG.standard_normal((1, *shape[1:])).astype(np.float32)
    trained = layer(x).copy()
    layer.discard()
    np.testing.assert_array_equal(layer.eval()(x), trained)


def test_bad_arguments_name_the_layer() -> None:
    with pytest.raises(ValueError, match="GroupNorm: num_channels must be divisible"):
        nn.GroupNorm(4, 6)
    with pytest.raises(ValueError, match="LayerNorm: normalized_shape"):
        nn.LayerNorm(0)
    with pytest.raises(ValueError, match="track_running_stats"):
        nn.InstanceNorm(3, track_running_stats=True)
    net = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(5))
    with pytest.raises(ValueError, match="LayerNorm '1'"):
        net(np.zeros((2, 4), np.float32))
    with pytest.raises(ValueError, match="more than 1 value per group"):
        nn.InstanceNorm(4)(np.zeros((2, 4), np.float32))


def test_state_has_pytorchs_keys_and_order_behind_flatten() -> None:
    net = nn.Sequential(nn.Flatten(), nn.LayerNorm(12), nn.Linear(12, 2, rng=0)).build((2, 2, 3))
    net[1].weight.data = np.arange(12.0)
    there = net.state_dict("NCHW")
    assert set(there) == {"1.weight", "1.bias", "2.weight", "2.bias"}
    natural = np.arange(12.0).reshape(2, 2, 3)
    np.testing.assert_array_equal(there["1.weight"], np.moveaxis(natural, -1, 0).reshape(-1))
    other = nn.Sequential(nn.Flatten(), nn.LayerNorm(12), nn.Linear(12, 2)).build((2, 2, 3))
    other.load_state_dict(there, layout="NCHW")
    x = RNG.standard_normal((3, 2, 2, 3)).astype(np.float32)
    np.testing.assert_array_equal(net.predict(x), other.predict(x))


@pytest.mark.parametrize("norm", [lambda: nn.GroupNorm(4, 16), lambda: nn.LayerNorm(16)])
def test_a_network_learns_at_batch_two(norm: Any) -> None:
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, rng=0), norm(), nn.ReLU(),
        nn.GlobalAvgPool2d(), nn.Linear(16, 2, rng=1),
    )  # fmt: skip
    loss, adam = nn.CrossEntropyLoss(), optim.Adam(net.parameters(), lr=5e-3)
    rng = np.random.default_rng(3)
    values = []
    for _ in range(150):
        labels = np.array([0, 1])
        x = rng.standard_normal((2, 8, 8, 1)).astype(np.float32)
        x[1, :, ::2] += 2.0
        value, dlogits = loss(net(x), labels)
        net.backward(dlogits)
        adam.step()
        values.append(value)
    assert np.mean(values[-20:]) < 0.3 * np.mean(values[:20])


def test_training_follows_pytorch() -> None:
    torch = pytest.importorskip("torch", reason="the comparison with PyTorch needs torch")
    net = nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1, rng=0), nn.GroupNorm(4, 8), nn.ReLU(),
        nn.GlobalAvgPool2d(), nn.LayerNorm(8), nn.Linear(8, 3, rng=1),
    )  # fmt: skip
    twin = torch.nn.Sequential(
        torch.nn.Conv2d(2, 8, 3, padding=1), torch.nn.GroupNorm(4, 8), torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.LayerNorm(8),
        torch.nn.Linear(8, 3),
    )  # fmt: skip
    names = {"0": "0", "1": "1", "4": "5", "5": "6"}
    state = {f"{names[k[0]]}{k[1:]}": torch.from_numpy(v) for k, v in net.state_dict().items()}
    twin.load_state_dict(state)
    net.astype(np.float64)
    twin.double()
    ours, theirs = optim.SGD(net.parameters(), lr=0.1), torch.optim.SGD(twin.parameters(), lr=0.1)
    rng = np.random.default_rng(0)
    for _ in range(10):
        x, labels = rng.standard_normal((2, 6, 5, 2)), rng.integers(0, 3, 2)
        value, dlogits = nn.CrossEntropyLoss()(net(x), labels)
        net.backward(dlogits)
        ours.step()
        theirs.zero_grad()
        there = torch.nn.functional.cross_entropy(
            twin(torch.from_numpy(np.moveaxis(x, -1, 1).copy())), torch.from_numpy(labels)
        )
        there.backward()
        theirs.step()
        assert abs(value - there.item()) < 1e-11
