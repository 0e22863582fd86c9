"""Gradients that are added up, parameters that are not trained, slices that share layers."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from fastbn import nn, optim


def layers(seed: int = 0) -> list[nn.Module]:
    body = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, rng=seed + 1), nn.BatchNorm(4))
    return [
        nn.Conv2d(3, 4, 3, padding=1, rng=seed), nn.BatchNorm(4), nn.ReLU(),
        nn.Residual(body, nn.Conv2d(4, 4, 1, rng=seed + 2)),
        nn.Concat(nn.Conv2d(4, 2, 1, rng=seed + 3), nn.Sequential()),
        nn.ConvTranspose2d(6, 3, 2, rng=seed + 4), nn.GlobalAvgPool2d(), nn.Linear(3, 2, rng=5),
    ]  # fmt: skip


def net() -> nn.Sequential:
    return nn.Sequential(*layers())


def batch(seed: int = 0) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((4, 5, 5, 3)).astype(np.float32)
    return x, rng.standard_normal((4, 2)).astype(np.float32)


def gradients(network: nn.Module) -> dict[str, Any]:
    return {
        name: None if parameter.grad is None else parameter.grad.copy()
        for name, parameter in network.named_parameters()
    }


def one_step(network: nn.Module, seed: int = 0, **options: Any) -> Any:
    x, dy = batch(seed)
    network(x)
    return network.backward(dy, **options)


# --- accumulate -------------------------------------------------------------------------------


def test_accumulate_adds_to_what_is_there() -> None:
    network = net()
    one_step(network, 0)
    first = gradients(network)
    one_step(network, 1)
    second = gradients(network)
    places = [parameter.grad for parameter in network.parameters()]
    one_step(network, 0)
    one_step(network, 1, accumulate=True)
    for name, value in gradients(network).items():
        np.testing.assert_array_equal(value, first[name] + second[name], err_msg=name)
    assert all(p.grad is place for p, place in zip(network.parameters(), places, strict=True))
    one_step(network, 1)
    for name, value in gradients(network).items():
        np.testing.assert_array_equal(value, second[name], err_msg=name)


def test_accumulate_without_a_gradient_writes_it() -> None:
    network, other = net(), net()
    one_step(network, accumulate=True)
    one_step(other)
    for name, value in gradients(network).items():
        np.testing.assert_array_equal(value, gradients(other)[name], err_msg=name)


def test_a_failing_backward_leaves_the_sum_as_it_was() -> None:
    class Fails(nn.ReLU):
        def backward(self, dy: Any, saved: Any, need_dx: bool = True) -> Any:
            raise MemoryError("on purpose")

    network = net()
    one_step(network)
    before = gradients(network)
    network[2] = Fails()
    with pytest.raises(MemoryError):
        one_step(network, 1, accumulate=True)
    last = network[-1]
    for name, value in gradients(network[:-1]).items():
        if not name.startswith(("3", "4", "5")):  # those were reached
            np.testing.assert_array_equal(value, before[name], err_msg=name)
    assert all(p.grad is not None for p in last.parameters())
    network[2] = nn.ReLU()
    one_step(network)


# --- requires_grad ----------------------------------------------------------------------------


@pytest.mark.parametrize("frozen", [[0], [0, 1], [3], [4], [5], [7], [0, 1, 3, 4], [1, 5]])
def test_what_is_frozen_gets_no_gradient_and_changes_no_other(frozen: list[int]) -> None:
    network, other = net(), net()
    one_step(network)
    for index in frozen:
        network[index].requires_grad_(False)
    for need_dx in (False, True):
        dx = one_step(network, need_dx=need_dx)
        expected = one_step(other, need_dx=need_dx)
        assert (dx is None) == (not need_dx)
        if need_dx:
            np.testing.assert_array_equal(dx, expected)
        for (name, value), full in zip(
            gradients(network).items(), gradients(other).values(), strict=True
        ):
            if int(name[0]) in frozen:
                assert value is None
            else:
                np.testing.assert_array_equal(value, full, err_msg=name)


def test_the_backward_stops_at_the_first_layer_that_is_trained() -> None:
    class Counts(nn.Tanh):
        count = 0

        def backward(self, dy: Any, saved: Any, need_dx: bool = True) -> Any:
            Counts.count += 1
            return super().backward(dy, saved)

    network = nn.Sequential(nn.Linear(3, 3), Counts(), nn.Linear(3, 3), Counts(), nn.Linear(3, 2))
    x = np.ones((4, 3), dtype=np.float32)
    expected = {0: 2, 2: 1, 4: 0, 5: 0}
    for first, count in expected.items():
        network.requires_grad_(False)
        for layer in network.layers[first:]:
            layer.requires_grad_()
        Counts.count = 0
        network.backward(network(x).copy())
        assert Counts.count == count
    network(x)


def test_one_parameter_can_be_frozen_by_itself() -> None:
    network = net()
    network[0].bias.requires_grad = False  # type: ignore[attr-defined]
    network[1].weight.requires_grad = False  # type: ignore[attr-defined]
    one_step(network)
    assert [name for name, value in gradients(network).items() if value is None] == [
        "0.bias", "1.weight"
    ]  # fmt: skip
    before = network.state_dict()
    optim.SGD(network.parameters(), lr=0.1).step()
    after = network.state_dict()
    moved = [name for name in after if (after[name] != before[name]).any()]
    assert "0.bias" not in moved
    assert "1.weight" not in moved
    assert "0.weight" in moved
    again = copy.deepcopy(network)
    assert not again[0].bias.requires_grad  # type: ignore[attr-defined]
    one_step(again)
    assert gradients(again)["1.weight"] is None


def test_layers_of_ones_own_may_write_gradients_that_nobody_wants() -> None:
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.factor = nn.Parameter([2.0], dtype=np.float32)

        def forward(self, x: Any) -> Any:
            return x * self.factor.data, x

        def backward(self, dy: Any, saved: Any, need_dx: bool = True) -> Any:
            self.factor.grad = [(dy * saved).sum()]
            return dy * self.factor.data

    layer = Scale()
    layer.requires_grad_(False)
    network = nn.Sequential(nn.Linear(2, 2), layer)
    network.backward(network(np.ones((3, 2), dtype=np.float32)))
    assert layer.factor.grad is None


# --- slices -----------------------------------------------------------------------------------


def test_a_slice_is_a_sequential_that_shares_the_layers() -> None:
    network = net().eval()
    backbone = network[:-1]
    assert isinstance(backbone, nn.Sequential)
    assert list(backbone) == list(network)[:-1]
    assert network[-1].where == "Linear '7'"
    x, _ = batch()
    features = backbone.predict(x)
    np.testing.assert_array_equal(network[-1].predict(features), network.predict(x))
    assert [layer.where for layer in network[::2]][1] == "ReLU '2'"
    assert backbone.output_shape((5, 5, 3)) == (3,)
    network(x)
    with pytest.raises(ValueError, match="a slice shares its layers"):
        backbone.append(nn.ReLU())
    with pytest.raises(ValueError, match="a slice shares its layers"):
        backbone[0] = nn.ReLU()


def test_a_slice_can_be_trained_and_be_a_part_of_another_network() -> None:
    network = net()
    x, dy = batch()
    whole = nn.Sequential(network[:-1], nn.Linear(3, 2, rng=5))
    whole(x)
    whole.backward(dy)
    again = net()
    again(x)
    again.backward(dy)
    ours, theirs = whole.parameters(), again.parameters()
    for p, q in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(p.grad, q.grad)
    assert network[0].weight.grad is ours[0].grad  # type: ignore[attr-defined]
    head = network[-1:]
    head.backward(head(np.ones((4, 3), dtype=np.float32)))
    assert network[-1].weight.grad is not None  # type: ignore[attr-defined]
    copied = copy.deepcopy(network[:3])
    assert copied[0].where == "Conv2d '0'"
    assert copied[0] is not network[0]
    copied.append(nn.ReLU())
