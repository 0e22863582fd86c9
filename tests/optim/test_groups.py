"""Groups of parameters, what recipes make of them, and clipping."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import fastbn
from fastbn import nn, optim


def pair(torch: Any, shape: tuple[int, ...], seed: int) -> tuple[nn.Parameter, Any]:
    values = np.random.default_rng(seed).standard_normal(shape)
    return nn.Parameter(values), torch.tensor(values, requires_grad=True)


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("SGD", [{"lr": 0.5}, {"momentum": 0.9, "nesterov": True}, {"weight_decay": 0.3}]),
        ("Adam", [{"lr": 0.5}, {"betas": (0.5, 0.6)}, {"weight_decay": 0.3, "eps": 1e-3}]),
        ("AdamW", [{"lr": 0.5}, {"betas": (0.5, 0.6)}, {"weight_decay": 0.3}]),
    ],
)
def test_groups_step_as_pytorchs(name: str, own: list[dict[str, Any]], torch: Any) -> None:
    pairs = [pair(torch, shape, seed) for seed, shape in enumerate([(3, 4), (5,), (2, 2)])]
    ours = [{"params": [p], **options} for (p, _), options in zip(pairs, own, strict=True)]
    theirs = [{"params": [t], **options} for (_, t), options in zip(pairs, own, strict=True)]
    optimizer = getattr(optim, name)(ours, lr=0.01)
    torch_optimizer = getattr(torch.optim, name)(theirs, lr=0.01)
    for step in range(5):
        rng = np.random.default_rng(10 + step)
        for parameter, tensor in pairs:
            gradient = rng.standard_normal(parameter.shape)
            parameter.grad, tensor.grad = gradient, torch.tensor(gradient)
        optimizer.step()
        torch_optimizer.step()
    for parameter, tensor in pairs:
        np.testing.assert_allclose(parameter.data, tensor.detach().numpy(), rtol=1e-11)
    for group, other in zip(optimizer.param_groups, torch_optimizer.param_groups, strict=True):
        for setting in optimizer.settings:
            assert group[setting] == other[setting]


def test_a_setting_of_all_groups_is_an_attribute() -> None:
    one, two = nn.Parameter([1.0]), nn.Parameter([1.0])
    optimizer = optim.SGD([{"params": [one]}, {"params": two, "momentum": 0.5}], lr=0.1)
    assert optimizer.lr == 0.1
    with pytest.raises(ValueError, match=r"the groups have different momentum: \[0.0, 0.5\]"):
        _ = optimizer.momentum
    optimizer.lr = 0.2
    assert [group["lr"] for group in optimizer.param_groups] == [0.2, 0.2]
    with pytest.raises(ValueError, match=r"Invalid learning rate: -1.0"):
        optimizer.lr = -1.0
    optimizer.nesterov = False
    with pytest.raises(ValueError, match="Nesterov momentum requires a momentum"):
        optimizer.nesterov = True
    assert [group["nesterov"] for group in optimizer.param_groups] == [False, False]


def test_momentum_may_be_set_later(torch: Any) -> None:
    parameter, tensor = pair(torch, (4,), 0)
    ours = optim.SGD([parameter], lr=0.1)
    theirs = torch.optim.SGD([tensor], lr=0.1)
    for step in range(6):
        if step == 2:
            ours.momentum = 0.9
            theirs.param_groups[0]["momentum"] = 0.9
        if step == 4:
            ours.param_groups[0]["nesterov"] = theirs.param_groups[0]["nesterov"] = True
        gradient = np.arange(4.0) + step
        parameter.grad, tensor.grad = gradient, torch.tensor(gradient)
        ours.step()
        theirs.step()
    np.testing.assert_allclose(parameter.data, tensor.detach().numpy(), rtol=1e-12)


def test_a_group_may_be_added() -> None:
    one, two = nn.Parameter([1.0]), nn.Parameter([1.0])
    optimizer = optim.SGD([one], lr=0.5)
    with pytest.raises(ValueError, match="appear more than once"):
        optimizer.add_param_group({"params": [one]})
    with pytest.raises(ValueError, match="SGD has no maximize; a group can have lr, momentum"):
        optimizer.add_param_group({"params": [two], "maximize": True})
    with pytest.raises(TypeError, match="expected a group"):
        optimizer.add_param_group([two])  # type: ignore[arg-type]
    optimizer.add_param_group({"params": [two], "lr": 0.25})
    one.grad = two.grad = [1.0]
    optimizer.step()
    assert (one.data[0], two.data[0]) == (0.5, 0.75)
    optimizer.param_groups[0]["params"] = (two,)
    with pytest.raises(RuntimeError, match="use add_param_group"):
        optimizer.step()


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([{"params": []}], "got an empty parameter list"),
        ([{"lr": 0.1}], "expected a group, a dictionary with 'params'"),
        ([{"params": [1.0]}], "can only optimize Parameters, got float"),
        ({"params": []}, "got one dict"),
        ([{"params": [nn.Parameter([1.0])], "lr": -1.0}], "Invalid learning rate: -1.0"),
        ([{"params": [nn.Parameter([1.0])], "lr": "1"}], "lr: expected a number, got '1'"),
        ([{"params": [nn.Parameter([1.0])], "nesterov": True}], "requires a momentum"),
    ],
)
def test_groups_are_checked(groups: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        optim.SGD(groups)


def test_no_decay_is_of_what_has_one_axis() -> None:
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, rng=0), nn.BatchNorm(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2, rng=0)
    )
    decayed, others = optim.no_decay(net, 0.1)
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    assert [names[id(p)] for p in decayed["params"]] == ["0.weight", "4.weight"]
    assert [names[id(p)] for p in others["params"]] == ["0.bias", "1.weight", "1.bias", "4.bias"]
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    assert len(optim.SGD(optim.no_decay(nn.Linear(2, 2, bias=False, rng=0), 0.1)).param_groups) == 2


@pytest.mark.parametrize("max_norm", [0.0, 0.5, 3.0, 1e6])
def test_clipping_is_pytorchs(max_norm: float, torch: Any) -> None:
    rng = np.random.default_rng(0)
    net = nn.Sequential(nn.Linear(5, 3, rng=0), nn.BatchNorm(3))
    tensors = []
    for parameter in net.parameters():
        gradient = rng.standard_normal(parameter.shape).astype(np.float32)
        parameter.grad = gradient
        tensors.append(torch.zeros(parameter.shape, requires_grad=True))
        tensors[-1].grad = torch.tensor(gradient)
    norm = optim.clip_grad_norm(net.parameters(), max_norm)
    expected = torch.nn.utils.clip_grad_norm_(tensors, max_norm)
    assert norm == pytest.approx(float(expected), rel=1e-6)
    for parameter, tensor in zip(net.parameters(), tensors, strict=True):
        np.testing.assert_allclose(parameter.grad, tensor.grad.numpy(), rtol=1e-5, atol=1e-7)


def test_clipping_at_the_ends_of_the_type() -> None:
    weight, other = nn.Parameter(np.zeros(2)), nn.Parameter(np.zeros(2))
    assert optim.clip_grad_norm([weight], 1.0) == 0.0  # nothing has a gradient
    weight.grad = [3e200, 4e200]
    assert optim.clip_grad_norm([weight, other], 1.0) == pytest.approx(5e200)
    np.testing.assert_allclose(weight.grad, [0.6, 0.8])
    assert other.grad is None
    for bad in (math.inf, math.nan):
        weight.grad = [1.0, bad]
        assert not math.isfinite(optim.clip_grad_norm([weight], 1.0))
        np.testing.assert_array_equal(weight.grad, [1.0, bad])
    with pytest.raises(ValueError, match="max_norm should be a number >= 0, but got -1"):
        optim.clip_grad_norm([weight], -1.0)


def test_clipping_has_the_same_bits_with_any_number_of_threads() -> None:
    gradient = np.random.default_rng(0).standard_normal(300_001).astype(np.float32)
    weight = nn.Parameter(np.zeros_like(gradient))
    before = fastbn.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3, 4):
            fastbn.set_num_threads(threads)
            weight.grad = gradient
            norm = optim.clip_grad_norm([weight], 1.0)
            assert weight.grad is not None
            found.append((norm, weight.grad.tobytes()))
    finally:
        fastbn.set_num_threads(before)
    assert len(set(found)) == 1
    assert found[0][0] == pytest.approx(np.linalg.norm(gradient.astype(np.float64)), rel=1e-14)
