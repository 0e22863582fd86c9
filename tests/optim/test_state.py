"""The state of optimizers: through files and JSON, from PyTorch, copies and pickles."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fastbn import nn, optim
from fastbn.optim import schedules

MAKE: list[Callable[[Any], optim.Optimizer]] = [
    lambda groups: optim.SGD(groups, lr=schedules.cosine(0.1, 9), momentum=0.9, nesterov=True),
    optim.SGD,
    lambda groups: optim.Adam(groups, lr=schedules.warmup(schedules.step(0.1, 2, 0.5), 3)),
    lambda groups: optim.AdamW(groups, weight_decay=schedules.polynomial(0.1, 9)),
]


def groups() -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    weight = nn.Parameter(rng.standard_normal((2, 3, 1, 2)), order=(2, 3, 1, 0), dtype=np.float32)
    bias = nn.Parameter(rng.standard_normal(3), dtype=np.float32)
    return [{"params": [weight], "lr": 0.05}, {"params": [bias]}]


def parameters(optimizer: optim.Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def train(optimizer: optim.Optimizer, first: int, last: int) -> None:
    for step in range(first, last):
        rng = np.random.default_rng(step)
        for parameter in parameters(optimizer):
            parameter.grad = rng.standard_normal(parameter.shape)
        optimizer.step()


def values(optimizer: optim.Optimizer) -> list[bytes]:
    return [parameter.data.tobytes() for parameter in parameters(optimizer)]


def through_json(state: Any) -> Any:
    return json.loads(json.dumps(state, default=lambda array: array.tolist()))


@pytest.mark.parametrize("carry", [lambda state: state, through_json], ids=["kept", "json"])
@pytest.mark.parametrize("make", MAKE)
def test_a_loaded_optimizer_goes_on_bit_by_bit(make: Any, carry: Any) -> None:
    whole = make(groups())
    train(whole, 0, 4)
    other = type(whole)(groups())
    for parameter, copied in zip(parameters(other), parameters(whole), strict=True):
        parameter.data = copied.data
    other.load_state_dict(carry(whole.state_dict()))
    assert repr(other) == repr(whole)
    train(whole, 4, 8)
    train(other, 4, 8)
    assert values(other) == values(whole)


@pytest.mark.parametrize("double", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
@pytest.mark.parametrize("make", MAKE)
def test_a_copy_trains_on_by_itself(make: Any, double: Any) -> None:
    whole = make(groups())
    train(whole, 0, 4)
    other = double(whole)
    assert type(other) is type(whole)
    before = values(whole)
    train(other, 4, 8)
    assert values(whole) == before
    train(whole, 4, 8)
    assert values(other) == values(whole)


@pytest.mark.parametrize("double", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_network_and_optimizer_stay_together(double: Any) -> None:
    net = nn.Sequential(nn.Linear(3, 4, rng=0), nn.BatchNorm(4))
    optimizer = optim.Adam(optim.no_decay(net, 0.1))
    x = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
    net.backward(net(x).copy())
    optimizer.step()
    other, its = double((net, optimizer))
    assert {*map(id, other.parameters())} == {*map(id, parameters(its))}
    for one, stepper in ((net, optimizer), (other, its)):
        one.backward(one(x).copy())
        stepper.step()
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(array, other.state_dict()[name])


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_states_of_pytorch_go_on(name: str, torch: Any) -> None:
    options = {"momentum": 0.9} if name == "SGD" else {}
    mine = groups()
    theirs = [
        {**group, "params": [torch.tensor(np.array(p.data, order="C"), requires_grad=True)
                             for p in group["params"]]}
        for group in mine
    ]  # fmt: skip
    torch_optimizer = getattr(torch.optim, name)(theirs, lr=0.1, **options)
    tensors = [tensor for group in theirs for tensor in group["params"]]

    def torch_step(step: int) -> None:
        rng = np.random.default_rng(step)
        for tensor in tensors:
            tensor.grad = torch.tensor(rng.standard_normal(tensor.shape).astype(np.float32))
        torch_optimizer.step()

    for step in range(3):
        torch_step(step)
    optimizer = getattr(optim, name)(mine)  # without momentum: the state brings it
    optimizer.load_state_dict(torch_optimizer.state_dict())
    assert optimizer.param_groups[1]["lr"] == 0.1
    for parameter, tensor in zip(parameters(optimizer), tensors, strict=True):
        parameter.data = tensor.detach().numpy()
    train(optimizer, 3, 6)
    for step in range(3, 6):
        torch_step(step)
    for parameter, tensor in zip(parameters(optimizer), tensors, strict=True):
        np.testing.assert_allclose(parameter.data, tensor.detach(), rtol=1e-5, atol=1e-6)
    back = optimizer.state_dict()  # and PyTorch takes ours
    fresh = getattr(torch.optim, name)(theirs)
    fresh.load_state_dict(
        {**back, "state": {k: {n: torch.tensor(v) for n, v in s.items()}
                           for k, s in back["state"].items()}}
    )  # fmt: skip
    assert fresh.param_groups[1]["lr"] == 0.1


@pytest.mark.parametrize(
    ("name", "options", "unknown"),
    [
        ("SGD", {"maximize": True}, "maximize=True"),
        ("SGD", {"momentum": 0.9, "dampening": 0.5}, "dampening=0.5"),
        ("Adam", {"amsgrad": True}, "amsgrad=True"),
        ("Adam", {"maximize": True}, "maximize=True"),
        ("AdamW", {"amsgrad": True}, "amsgrad=True"),
    ],
)
def test_options_of_pytorch_are_refused_by_name(
    name: str, options: dict[str, Any], unknown: str, torch: Any
) -> None:
    tensor = torch.zeros(3, requires_grad=True)
    theirs = getattr(torch.optim, name)([tensor], lr=0.1, **options)
    tensor.grad = torch.ones(3)
    theirs.step()
    ours = getattr(optim, name)([nn.Parameter([1.0, 1.0, 1.0])], lr=0.7)
    with pytest.raises(ValueError, match=f"{unknown}, which {name} of fastbn does not know"):
        ours.load_state_dict(theirs.state_dict())
    assert ours.lr == 0.7


def test_decoupled_decay_is_not_taken_for_the_other(torch: Any) -> None:
    tensor = torch.zeros(1, requires_grad=True)
    with pytest.raises(ValueError, match="decoupled_weight_decay=True, which Adam of fastbn"):
        optim.Adam([nn.Parameter([1.0])]).load_state_dict(torch.optim.AdamW([tensor]).state_dict())
    with pytest.raises(ValueError, match="decoupled_weight_decay=False, which AdamW of fastbn"):
        optim.AdamW([nn.Parameter([1.0])]).load_state_dict(torch.optim.Adam([tensor]).state_dict())


def test_a_function_is_kept_by_name_and_has_to_be_there() -> None:
    def halving(step: int) -> float:
        return 0.5**step

    optimizer = optim.SGD([nn.Parameter([1.0])], lr=schedules.warmup(halving, 2))
    state = json.loads(json.dumps(optimizer.state_dict()))
    with pytest.raises(ValueError, match="loaded lr was the function warmup, which a state cannot"):
        optim.SGD([nn.Parameter([1.0])]).load_state_dict(state)
    optimizer.load_state_dict(state)
    assert optimizer.lr == schedules.warmup(halving, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("state"), "has no 'state'"),
        (lambda s: s.pop("param_groups"), "has no 'param_groups'"),
        (lambda s: s["param_groups"].pop(), r"has \[1\] parameters .* has \[1, 1\]"),
        (lambda s: s["param_groups"][1].pop("lr"), "has no lr"),
        (lambda s: s["param_groups"][1].update(lr=-1.0), "Invalid learning rate: -1.0"),
        (lambda s: s["param_groups"][1].update(lr={"name": "x"}), "unknown schedule 'x'"),
        (lambda s: s["state"].update({7: {}}), "a parameter 7, which is in none"),
        (lambda s: s["state"][1].pop("exp_avg"), r"exp_avg of parameter 1 has shape None"),
        (lambda s: s["state"][1].update(max_exp_avg_sq=[0.0]), "parameter 1 has max_exp_avg_sq"),
    ],
)
def test_what_does_not_fit_changes_nothing(change: Any, message: str) -> None:
    optimizer = optim.Adam(groups(), lr=0.3)
    train(optimizer, 0, 2)
    state = optimizer.state_dict()
    before = through_json(state)
    state["param_groups"][0]["lr"] = 0.9
    change(state)
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(state)
    assert through_json(optimizer.state_dict()) == before
