"""Gradients of every layer and container against float64 finite differences, with random dy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from checks import error, numeric_gradient

from fastbn import nn

F64 = np.float64


def conv_bn(channels: int, *, rng: int, **options: Any) -> list[nn.Module]:
    return [
        nn.Conv2d(channels, channels, 3, padding=1, rng=rng, dtype=F64, **options),
        nn.BatchNorm(channels, dtype=F64),
    ]


def random_norm(channels: int, **options: Any) -> nn.BatchNorm:
    """A BatchNorm whose weights and statistics are not those of the first day."""
    rng = np.random.default_rng(11)
    norm = nn.BatchNorm(channels, dtype=F64, **options)
    if norm.weight is not None and norm.bias is not None:
        norm.weight.data = rng.uniform(0.5, 1.5, channels)
        norm.bias.data = rng.standard_normal(channels)
    if norm.running_mean is not None and norm.running_var is not None:
        norm.running_mean[...] = rng.standard_normal(channels)
        norm.running_var[...] = rng.uniform(0.5, 2.0, channels)
    return norm


class OwnLayer(nn.Module):
    """A user's layer in the simplest form: no output_shape."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter([1.5, -0.5, 2.0])

    def forward(self, x: Any) -> Any:
        return x * self.scale.data, x

    def backward(self, dy: Any, saved: Any, need_dx: bool = True) -> Any:
        self.scale.grad = (dy * saved).sum(axis=0)
        return dy * self.scale.data


class OwnNet(nn.Module):
    """A user's network with its own wiring: y = head(a(x) * b(x))."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Sequential(nn.Linear(3, 4, rng=1, dtype=F64), random_norm(4), nn.Tanh())
        self.b = nn.Linear(3, 4, rng=2, dtype=F64)
        self.head = nn.Linear(4, 2, rng=3, dtype=F64)

    def forward(self, x: Any) -> Any:
        (a, of_a), (b, of_b) = self.a.forward(x), self.b.forward(x)
        y, of_head = self.head.forward(a * b)
        return y, (a, b, of_a, of_b, of_head)

    def backward(self, dy: Any, saved: Any, need_dx: bool = True) -> Any:
        a, b, of_a, of_b, of_head = saved
        dproduct = self.head.backward(dy, of_head)
        da, db = self.a.backward(dproduct * b, of_a), self.b.backward(dproduct * a, of_b)
        return da + db


class CallingNet(OwnNet):
    """The same network, whose parts keep what they save themselves."""

    def forward(self, x: Any) -> Any:
        a, b = self.a(x), self.b(x)
        return self.head(a * b), (a, b)

    def backward(self, dy: Any, saved: Any, need_dx: bool = True) -> Any:
        a, b = saved
        dproduct = self.head.backward(dy)
        return self.a.backward(dproduct * b) + self.b.backward(dproduct * a)


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "Linear": (lambda: nn.Linear(5, 3, rng=0, dtype=F64), (4, 5)),
    "Linear, no bias, three axes": (lambda: nn.Linear(5, 3, False, rng=0, dtype=F64), (2, 3, 5)),
    "Conv2d": (lambda: nn.Conv2d(2, 3, 3, padding=1, rng=0, dtype=F64), (2, 4, 5, 2)),
    "Conv2d, stride, dilation": (
        lambda: nn.Conv2d(2, 3, (3, 2), (2, 1), (1, 0), (2, 1), rng=0, dtype=F64),
        (2, 7, 5, 2),
    ),
    "Conv2d, groups, same": (
        lambda: nn.Conv2d(4, 6, 2, padding="same", groups=2, bias=False, rng=0, dtype=F64),
        (2, 4, 3, 4),
    ),
    "Conv2d, depthwise": (
        lambda: nn.Conv2d(3, 3, 3, padding=1, groups=3, rng=0, dtype=F64),
        (2, 4, 3, 3),
    ),
    "ConvTranspose2d": (
        lambda: nn.ConvTranspose2d(3, 2, 3, 2, 1, 1, rng=0, dtype=F64),
        (2, 3, 2, 3),
    ),
    "ConvTranspose2d, groups, dilation, no bias": (
        lambda: nn.ConvTranspose2d(
            4, 6, (2, 3), groups=2, bias=False, dilation=2, rng=0, dtype=F64
        ),
        (2, 2, 3, 4),
    ),
    "Concat": (
        lambda: nn.Concat(
            nn.Conv2d(2, 3, 1, rng=0, dtype=F64),
            nn.Sequential(*conv_bn(2, rng=1), nn.ReLU(), *conv_bn(2, rng=2)),
            nn.AvgPool2d(3, 1, 1),
            nn.Sequential(),
        ),
        (2, 3, 3, 2),
    ),
    "Concat behind a layer, in a layer": (
        lambda: nn.Sequential(
            nn.Linear(3, 4, rng=0, dtype=F64),
            random_norm(4),
            nn.Residual(
                nn.Concat(nn.Linear(4, 1, rng=1, dtype=F64), nn.Linear(4, 3, rng=2, dtype=F64))
            ),
            random_norm(4),
        ),
        (6, 3),
    ),
    "Concat, no parameters": (lambda: nn.Concat(nn.Tanh(), nn.Sigmoid()), (4, 3)),
    "BatchNorm": (lambda: random_norm(3), (6, 3)),
    "BatchNorm, images, plain": (lambda: random_norm(3, affine=False), (2, 3, 2, 3)),
    "BatchNorm, no statistics": (lambda: random_norm(3, track_running_stats=False), (6, 3)),
    "BatchNorm, frozen": (lambda: random_norm(3).freeze(), (6, 3)),
    "ReLU": (nn.ReLU, (4, 5)),
    "LeakyReLU": (lambda: nn.LeakyReLU(0.2), (4, 5)),
    "Sigmoid": (nn.Sigmoid, (4, 5)),
    "Tanh": (nn.Tanh, (4, 5)),
    "ELU": (lambda: nn.ELU(0.7), (4, 5)),
    "SELU": (nn.SELU, (4, 5)),
    "SiLU": (nn.SiLU, (4, 5)),
    "GELU": (nn.GELU, (4, 5)),
    "GELU, tanh": (lambda: nn.GELU("tanh"), (4, 5)),
    "Hardsigmoid": (nn.Hardsigmoid, (4, 5)),
    "Hardswish": (nn.Hardswish, (4, 5)),
    "ReLU6": (nn.ReLU6, (4, 5)),
    "Softplus": (lambda: nn.Softplus(2.0), (4, 5)),
    "Mish": (nn.Mish, (4, 5)),
    "Scale": (lambda: nn.Scale(-0.3), (4, 5)),
    "LocalResponseNorm": (lambda: nn.LocalResponseNorm(3, 0.8), (2, 3, 2, 5)),
    "PReLU": (lambda: nn.PReLU(dtype=F64), (4, 5)),
    "PReLU, channels": (lambda: nn.PReLU(3, [0.1, 0.5, -0.2], dtype=F64), (4, 2, 2, 3)),
    "MaxPool2d": (lambda: nn.MaxPool2d(2), (2, 4, 6, 2)),
    "MaxPool2d, overlapping": (lambda: nn.MaxPool2d(3, 2, 1), (2, 5, 6, 2)),
    "AvgPool2d": (lambda: nn.AvgPool2d(2), (2, 4, 6, 2)),
    "AvgPool2d, padded": (
        lambda: nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False),
        (2, 5, 6, 2),
    ),
    "GlobalAvgPool2d": (nn.GlobalAvgPool2d, (2, 3, 4, 2)),
    "Flatten": (nn.Flatten, (2, 3, 2, 2)),
    "Dropout, inference inside training": (
        lambda: nn.Sequential(nn.Linear(3, 3, rng=0, dtype=F64), nn.Dropout(0.5).eval()),
        (4, 3),
    ),
    "Sequential, Linear-BatchNorm-ReLU": (
        lambda: nn.Sequential(
            nn.Linear(5, 4, rng=0, dtype=F64),
            random_norm(4),
            nn.ReLU(),
            nn.Linear(4, 2, rng=1, dtype=F64),
        ),
        (6, 5),
    ),
    "Sequential, Conv2d-BatchNorm-LeakyReLU-pools": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 3, 3, padding=1, rng=0, dtype=F64),
            random_norm(3),
            nn.LeakyReLU(0.1),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(12, 2, rng=1, dtype=F64),
        ),
        (3, 4, 4, 2),
    ),
    "Sequential, frozen and eval BatchNorm": (
        lambda: nn.Sequential(
            nn.Linear(5, 4, rng=0, dtype=F64),
            random_norm(4).freeze(),
            nn.ReLU(),
            nn.Linear(4, 4, rng=1, dtype=F64),
            random_norm(4).eval(),
        ),
        (6, 5),
    ),
    "Sequential in Sequential": (
        lambda: nn.Sequential(
            nn.Sequential(nn.Linear(5, 4, rng=0, dtype=F64)),
            nn.Sequential(random_norm(4)),
            nn.ReLU(),
        ),
        (6, 5),
    ),
    "Sequential, empty": (nn.Sequential, (3, 2)),
    "Residual, fused, identity": (
        lambda: nn.Residual(nn.Sequential(*conv_bn(2, rng=0), nn.ReLU(), *conv_bn(2, rng=1))),
        (2, 3, 3, 2),
    ),
    "Residual, fused, shortcut": (
        lambda: nn.Residual(
            nn.Sequential(*conv_bn(2, rng=0)),
            nn.Sequential(nn.Conv2d(2, 2, 1, rng=1, dtype=F64), random_norm(2)),
            "leaky_relu",
            0.2,
        ),
        (2, 3, 3, 2),
    ),
    "Residual, fused, no activation": (
        lambda: nn.Residual(random_norm(3), nn.Linear(3, 3, rng=0, dtype=F64), None),
        (5, 3),
    ),
    "Residual, sum of its own": (
        lambda: nn.Residual(nn.Linear(3, 3, rng=0, dtype=F64), None, "relu"),
        (5, 3),
    ),
    "Residual, sum of its own, leaky, shortcut": (
        lambda: nn.Residual(
            nn.Sequential(nn.Linear(3, 2, rng=0, dtype=F64), random_norm(2), nn.ReLU()),
            nn.Linear(3, 2, rng=1, dtype=F64),
            "leaky_relu",
        ),
        (5, 3),
    ),
    "Residual, sum of its own, no activation": (
        lambda: nn.Residual(nn.Tanh(), nn.Linear(3, 3, rng=1, dtype=F64), None),
        (5, 3),
    ),
    "Residual in Residual": (
        lambda: nn.Residual(nn.Residual(nn.Sequential(*conv_bn(2, rng=0)))),
        (2, 3, 2, 2),
    ),
    "Conv1d": (lambda: nn.Conv1d(3, 4, 3, 2, 1, rng=0, dtype=F64), (2, 7, 3)),
    "Conv1d, groups, dilation, no bias, BatchNorm": (
        lambda: nn.Sequential(
            nn.Conv1d(4, 6, 3, dilation=2, groups=2, bias=False, rng=0, dtype=F64),
            random_norm(6),
            nn.ReLU(),
        ),
        (2, 9, 4),
    ),
    "Upsample, nearest": (lambda: nn.Upsample((2, 3)), (2, 3, 2, 2)),
    "Upsample, bilinear": (lambda: nn.Upsample((2, 3), "bilinear"), (2, 3, 4, 2)),
    "Upsample, bilinear, one pixel": (lambda: nn.Upsample(4, "bilinear"), (2, 1, 1, 2)),
    "ZeroPad2d": (lambda: nn.ZeroPad2d((1, 0, 2, 3)), (2, 3, 2, 2)),
    "AdaptiveAvgPool2d": (lambda: nn.AdaptiveAvgPool2d((2, 1)), (2, 4, 3, 2)),
    "AdaptiveAvgPool2d, overlapping": (lambda: nn.AdaptiveAvgPool2d(3), (2, 4, 7, 2)),
    "AdaptiveAvgPool2d, more than pixels": (lambda: nn.AdaptiveAvgPool2d(3), (2, 2, 1, 2)),
    "Reshape": (lambda: nn.Reshape(4, -1), (2, 2, 3, 2)),
    "Permute": (lambda: nn.Permute(0, 3, 1, 2), (2, 2, 3, 4)),
    "PixelShuffle": (lambda: nn.PixelShuffle(2), (2, 2, 3, 8)),
    "ChannelShuffle": (lambda: nn.ChannelShuffle(3), (2, 2, 1, 6)),
    "Slice": (lambda: nn.Slice(1, 4), (2, 2, 1, 6)),
    "Softmax": (nn.Softmax, (4, 5)),
    "LogSoftmax": (nn.LogSoftmax, (4, 5)),
    "Affine": (lambda: nn.Affine([2.0, -1.0], [0.5, 0.0], dtype=F64), (3, 4, 2)),
    "Affine, places": (
        lambda: nn.Affine(np.linspace(-1, 1, 6).reshape(3, 1, 2), np.ones((2, 1)), dtype=F64),
        (2, 3, 2, 2),
    ),
    "Affine, a sum alone": (lambda: nn.Affine(bias=1.0, dtype=F64), (3, 4)),
    "Clamp": (lambda: nn.Clamp([-0.5, 0.0, 0.1], 0.7), (5, 3)),
    "ConstantPad2d": (lambda: nn.ConstantPad2d((1, 0, 2, 1), -3.0), (2, 3, 2, 2)),
    "Mean": (lambda: nn.Mean(1, 3), (2, 3, 2, 4)),
    "Take": (lambda: nn.Take([2, 0, 0], 2), (2, 2, 3, 4)),
    "Broadcast": (lambda: nn.Broadcast(2, 3, 4), (2, 1, 3, 1)),
    "Power": (lambda: nn.Power(3.0), (4, 5)),
    **{
        name: (lambda name=name: nn.Pointwise(name), (4, 5))  # type: ignore[misc]
        for name in ("abs", "cos", "erf", "exp", "neg", "sin", "softsign")
    },
    **{
        f"{name} of what is positive": (
            lambda name=name: nn.Sequential(nn.Pointwise("exp"), nn.Pointwise(name)),  # type: ignore[misc]
            (4, 5),
        )
        for name in ("log", "reciprocal", "sqrt")
    },
    "Conv3d": (
        lambda: nn.Conv3d(2, 4, (3, 2, 3), (2, 1, 1), (1, 0, 1), rng=0, dtype=F64),
        (2, 5, 4, 5, 2),
    ),
    "Conv3d, groups": (
        lambda: nn.Conv3d(4, 4, 2, dilation=2, groups=2, rng=0, dtype=F64),
        (2, 4, 4, 3, 4),
    ),
    "a layer of one's own": (lambda: nn.Sequential(OwnLayer(), nn.Tanh()), (4, 3)),
    "a network of one's own": (OwnNet, (5, 3)),
    "a network of one's own that calls its parts": (CallingNet, (5, 3)),
}


@pytest.mark.parametrize("name", CASES)
def test_gradients_equal_finite_differences(name: str) -> None:
    make, shape = CASES[name]
    net = make()
    before = net.state_dict()
    assert nn.check_gradients(net, shape[1:], rows=shape[0], rng=7, tolerance=1e-7) > 0
    for key, value in net.state_dict().items():
        np.testing.assert_array_equal(value, before[key])


def test_what_check_gradients_uses_agrees_with_another_way(rng: np.random.Generator) -> None:
    net, x = OwnNet(), rng.standard_normal((5, 3))
    dy = rng.standard_normal(net(x).shape)
    dx = net.backward(dy, need_dx=True)
    assert dx is not None
    assert error(dx, numeric_gradient(lambda v: net.forward(v)[0], x, dy)) < 1e-7


class WrongBias(nn.Linear):
    def backward(self, dy: Any, saved: Any, need_dx: bool = True) -> Any:
        dx = super().backward(dy, saved, need_dx)
        assert self.bias is not None
        self.bias.grad[1] += 0.5  # type: ignore[index]
        return dx


class NoGradient(nn.Linear):
    def backward(self, dy: Any, saved: Any, need_dx: bool = True) -> Any:
        return dy @ self.weight.data


class WritesIntoDy(nn.Tanh):
    def backward(self, dy: Any, saved: Any, need_dx: bool = True) -> Any:
        dy *= 2
        return super().backward(dy, saved)


class ForgetsDx(nn.Tanh):
    def backward(self, dy: Any, saved: Any, need_dx: bool = True) -> Any:
        return None


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (WrongBias(2, 3, rng=0), r"WrongBias: bias.grad\[1\] should be .*, got"),
        (nn.Sequential(nn.ReLU(), WrongBias(2, 3, rng=0)), r"1.bias.grad\[1\] should be"),
        (NoGradient(2, 3, rng=0), r"NoGradient: backward gives no weight.grad"),
        (WritesIntoDy(), r"WritesIntoDy: backward has changed dy"),
        (ForgetsDx(), r"ForgetsDx: backward gives no dx"),
    ],
)
def test_check_gradients_names_what_is_wrong(layer: nn.Module, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        nn.check_gradients(layer, (2,))


def test_check_gradients_of_dropout_and_of_many_elements() -> None:
    net = nn.Sequential(nn.Linear(30, 20, rng=0), nn.Dropout(0.5, rng=1), nn.ReLU())
    assert nn.check_gradients(net, (30,)) < 1e-7


@pytest.mark.parametrize("name", CASES)
def test_without_dx_the_parameters_get_the_same_gradients(name: str) -> None:
    make, shape = CASES[name]
    rng = np.random.default_rng(7)
    x = rng.standard_normal(shape)
    gradients = []
    for need_dx in (True, False):
        net = nn.Sequential(make())
        dy = np.random.default_rng(8).standard_normal(net(x).shape)
        dx = net.backward(dy, need_dx=need_dx)
        if len(list(net.modules())) > 2:
            assert (dx is not None) == need_dx
        gradients.append([p.grad for p in net.parameters()])
        net(x)  # nothing is left pending
    for with_dx, without_dx in zip(*gradients, strict=True):
        np.testing.assert_array_equal(with_dx, without_dx)


def test_dropout_gradient_is_the_mask(rng: np.random.Generator) -> None:
    layer = nn.Dropout(0.3, rng=5)
    x = rng.standard_normal((20, 30)) + 10.0
    y = layer(x)
    scale = y / x
    share = np.count_nonzero(scale) / scale.size
    assert abs(share - 0.7) < 0.06
    dy = rng.standard_normal(x.shape)
    np.testing.assert_allclose(layer.backward(dy), dy * scale, rtol=1e-12)


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(), nn.MSELoss()])
def test_loss_gradients(loss: Any, rng: np.random.Generator) -> None:
    pred = rng.standard_normal((5, 4))
    target: Any = np.array([0, 3, 1, 1, 2])
    if isinstance(loss, nn.MSELoss):
        target = rng.standard_normal((5, 4))
    value, dpred = loss(pred, target)
    assert value == loss.value(pred, target)
    numeric = numeric_gradient(lambda v: np.array(loss.value(v, target)), pred, 1.0)
    assert error(dpred, numeric) < 1e-8
