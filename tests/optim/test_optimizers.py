"""Optimizers against their formulas in float64, against PyTorch, and their state."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fastbn import nn, optim

# optimizer, its arguments, what PyTorch calls it
CASES = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    ("SGD", {"lr": 0.05, "weight_decay": 0.2}),
    ("Adam", {}),
    ("Adam", {"lr": 0.01, "betas": (0.8, 0.99), "eps": 1e-4, "weight_decay": 0.1}),
    ("AdamW", {}),
    ("AdamW", {"lr": 0.01, "betas": (0.7, 0.9), "weight_decay": 0.3}),
]
SHAPES = [(5, 7), (3,), (2, 3, 3, 3), (1, 4), (1000, 3)]
ORDERS: list[tuple[int, ...] | None] = [(1, 0), None, (2, 3, 1, 0), (1, 0), None]


def parameters(dtype: Any) -> list[nn.Parameter]:
    rng = np.random.default_rng(0)
    return [
        nn.Parameter(rng.standard_normal(shape), order=order, dtype=dtype)
        for shape, order in zip(SHAPES, ORDERS, strict=True)
    ]


def gradients(step: int) -> list[Any]:
    rng = np.random.default_rng(100 + step)
    return [rng.standard_normal(shape) * 10.0**-index for index, shape in enumerate(SHAPES)]


def sgd_formula(options: dict[str, Any]) -> Callable[..., Any]:
    def step(p: Any, g: Any, state: dict[str, Any], t: int) -> Any:
        momentum = options.get("momentum", 0.0)
        g = g + options.get("weight_decay", 0.0) * p
        b = state["b"] = g if t == 1 else momentum * state["b"] + g
        return p - options["lr"] * (g + momentum * b if options.get("nesterov") else b)

    return step


def adam_formula(options: dict[str, Any], decoupled: bool) -> Callable[..., Any]:
    def step(p: Any, g: Any, state: dict[str, Any], t: int) -> Any:
        lr, (b1, b2) = options.get("lr", 1e-3), options.get("betas", (0.9, 0.999))
        decay = options.get("weight_decay", 1e-2 if decoupled else 0.0)
        if decoupled:
            p = p - lr * decay * p
        else:
            g = g + decay * p
        m = state["m"] = b1 * state.get("m", 0.0) + (1 - b1) * g
        v = state["v"] = b2 * state.get("v", 0.0) + (1 - b2) * g * g
        root = np.sqrt(v / (1 - b2**t)) + options.get("eps", 1e-8)
        return p - lr * (m / (1 - b1**t)) / root

    return step


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("name", "options"), CASES)
def test_steps_follow_the_formula(name: str, options: dict[str, Any], dtype: type) -> None:
    ours = parameters(dtype)
    optimizer = getattr(optim, name)(ours, **options)
    formula = sgd_formula(options) if name == "SGD" else adam_formula(options, name == "AdamW")
    expected = [parameter.data.astype(np.float64) for parameter in ours]
    states: list[dict[str, Any]] = [{} for _ in ours]
    arrays = [parameter.data for parameter in ours]
    for t in range(1, 13):
        for index, gradient in enumerate(gradients(t)):
            ours[index].grad = gradient
            rounded = gradient.astype(dtype).astype(np.float64)
            expected[index] = formula(expected[index], rounded, states[index], t)
        optimizer.step()
    tolerance = 2e-6 if dtype is np.float32 else 1e-13
    for parameter, array, values in zip(ours, arrays, expected, strict=True):
        assert parameter.data is array
        np.testing.assert_allclose(array, values, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_steps_equal_pytorchs(name: str, options: dict[str, Any], torch: Any) -> None:
    ours = parameters(np.float32)
    theirs = [torch.tensor(np.array(parameter.data, order="C")) for parameter in ours]
    for tensor in theirs:
        tensor.requires_grad_()
    optimizer = getattr(optim, name)(ours, **options)
    torch_optimizer = getattr(torch.optim, name)(theirs, **options)
    for t in range(1, 31):
        for parameter, tensor, gradient in zip(ours, theirs, gradients(t), strict=True):
            parameter.grad = gradient
            tensor.grad = torch.tensor(gradient.astype(np.float32))
        optimizer.step()
        torch_optimizer.step()
    for parameter, tensor in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(parameter.data, tensor.detach().numpy(), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_defaults_are_pytorchs(name: str, torch: Any) -> None:
    ours = getattr(optim, name)(parameters(np.float32))
    theirs = getattr(torch.optim, name)([torch.zeros(3)])
    for setting in ours.settings:
        assert getattr(ours, setting) == theirs.defaults[setting], setting


def test_a_parameter_without_gradient_is_passed_over() -> None:
    with_gradient, without = nn.Parameter([1.0]), nn.Parameter([1.0])
    for make in (
        lambda p: optim.SGD(p, momentum=0.9, weight_decay=0.1),
        lambda p: optim.Adam(p, weight_decay=0.1),
        optim.AdamW,
    ):
        with_gradient.data, without.data = [1.0], [1.0]
        optimizer = make([with_gradient, without])
        with_gradient.grad, without.grad = [1.0], None
        optimizer.step()
        assert with_gradient.data[0] < 1.0
        assert without.data[0] == 1.0
        without.grad = [1.0]
        with_gradient.grad = None
        before = with_gradient.data.copy()
        optimizer.step()  # this one's first step: bias correction starts here
        np.testing.assert_array_equal(with_gradient.data, before)
        if isinstance(optimizer, optim.Adam):
            assert math.isclose(float(without.data[0]), 1.0, abs_tol=1.2e-3)
            assert optimizer.state_dict()["state"][1]["step"] == 1


@pytest.mark.parametrize(("name", "options"), CASES)
def test_state_round_trip_goes_on_bit_by_bit(name: str, options: dict[str, Any]) -> None:
    first, second = parameters(np.float32), parameters(np.float32)
    one = getattr(optim, name)(first, **options)
    for t in range(3):
        for parameter, gradient in zip(first, gradients(t), strict=True):
            parameter.grad = gradient
        one.step()
    two = getattr(optim, name)(second, **{**options, "lr": 0.5})
    two.load_state_dict(one.state_dict())
    assert repr(two) == repr(one)
    for parameter, other in zip(second, first, strict=True):
        parameter.data = other.data
    for group in (first, second):
        for parameter, gradient in zip(group, gradients(9), strict=True):
            parameter.grad = gradient
    one.step()
    two.step()
    for parameter, other in zip(second, first, strict=True):
        np.testing.assert_array_equal(parameter.data, other.data)


def test_state_of_pytorch_can_be_loaded(torch: Any) -> None:
    tensor = torch.tensor(np.arange(6.0).reshape(2, 3), requires_grad=True)
    theirs = torch.optim.Adam([tensor])
    tensor.grad = torch.ones(2, 3, dtype=torch.float64)
    theirs.step()
    parameter = nn.Parameter(tensor.detach().numpy(), order=(1, 0))
    ours = optim.Adam([parameter])
    ours.load_state_dict(theirs.state_dict())
    gradient = np.arange(6.0).reshape(2, 3)
    tensor.grad, parameter.grad = torch.tensor(gradient), gradient
    theirs.step()
    ours.step()
    np.testing.assert_allclose(parameter.data, tensor.detach().numpy(), rtol=1e-12)


def test_a_state_that_does_not_fit_changes_nothing() -> None:
    ours = parameters(np.float32)
    optimizer = optim.Adam(ours, lr=0.3)
    state = optimizer.state_dict()
    foreign = optim.Adam(parameters(np.float32)[1:]).state_dict()
    with pytest.raises(ValueError, match=r"has \[4\] parameters .* has \[5\]"):
        optimizer.load_state_dict(foreign)
    with pytest.raises(ValueError, match="loaded state dict has no betas, eps"):
        optimizer.load_state_dict(optim.SGD(ours).state_dict())
    state["param_groups"][0]["lr"] = 0.7
    state["state"][1]["exp_avg_sq"] = np.zeros(4)
    with pytest.raises(ValueError, match=r"exp_avg_sq of parameter 1 has shape \(4,\)"):
        optimizer.load_state_dict(state)
    assert optimizer.lr == 0.3


def test_casting_the_network_keeps_the_state() -> None:
    net = nn.Sequential(nn.Linear(3, 2, rng=0))
    optimizer = optim.Adam(net.parameters(), lr=0.1)
    x = np.ones((4, 3), dtype=np.float32)
    net.backward(net(x).copy())
    optimizer.step()
    net.astype(np.float64)
    before = net.state_dict()
    net.backward(net(x.astype(np.float64)).copy())
    optimizer.step()
    state = optimizer.state_dict()["state"][0]
    assert state["step"] == 2
    assert state["exp_avg"].dtype == np.float64
    assert (net.state_dict()["0.weight"] != before["0.weight"]).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: optim.SGD(p, lr=-1.0), "Invalid learning rate: -1.0"),
        (lambda p: optim.SGD(p, momentum=-0.5), "Invalid momentum value: -0.5"),
        (lambda p: optim.SGD(p, weight_decay=-0.5), "Invalid weight_decay value: -0.5"),
        (lambda p: optim.SGD(p, nesterov=True), "Nesterov momentum requires a momentum"),
        (lambda p: optim.Adam(p, eps=-1.0), "Invalid epsilon value: -1.0"),
        (lambda p: optim.Adam(p, betas=(1.0, 0.9)), "Invalid beta parameter at index 0: 1.0"),
        (lambda p: optim.AdamW(p, betas=(0.9, -1.0)), "Invalid beta parameter at index 1: -1.0"),
        (lambda p: optim.Adam([]), "optimizer got an empty parameter list"),
        (lambda p: optim.Adam([*p, p[0]]), "appear more than once"),
        (lambda p: optim.Adam(p[0]), "should be an iterable of Parameters or of groups"),
        (lambda p: optim.Adam([np.zeros(3)]), "can only optimize Parameters, got ndarray"),
    ],
)
def test_arguments_are_checked(make: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        make(parameters(np.float32))


def test_gradients_scaled_by_the_user_count() -> None:
    parameter = nn.Parameter([1.0, 1.0])
    optimizer = optim.SGD([parameter], lr=1.0)
    parameter.grad = [4.0, 8.0]
    parameter.grad *= 0.25
    optimizer.step()
    np.testing.assert_array_equal(parameter.data, [0.0, -1.0])
