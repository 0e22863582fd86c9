"""FLOP and sizes: what every layer states, and the table that adds it up."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fastbn import models, nn

IMAGE = (6, 8, 4)  # height, width, channels
PIXELS = 6 * 8


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        (nn.Linear(5, 3), (5,), 2 * 5 * 3),
        (nn.Linear(5, 3, bias=False), (7, 5), 7 * 2 * 5 * 3),
        (nn.Conv2d(4, 10, 3), IMAGE, 2 * (4 * 6) * 10 * (4 * 9)),
        (nn.Conv2d(4, 10, 3, padding=1, stride=2), IMAGE, 2 * (3 * 4) * 10 * (4 * 9)),
        (nn.Conv2d(4, 8, (3, 1), groups=4, padding="same"), IMAGE, 2 * PIXELS * 8 * 3),
        (nn.Conv2d(4, 2, 3, dilation=2), IMAGE, 2 * (2 * 4) * 2 * (4 * 9)),
        (nn.Conv1d(4, 6, 3), (10, 4), 2 * 8 * 6 * (4 * 3)),
        (nn.ConvTranspose2d(4, 3, 2, stride=2), IMAGE, 2 * PIXELS * 4 * 3 * (2 * 2)),
        (nn.BatchNorm(4), IMAGE, 2 * PIXELS * 4),
        (nn.LayerNorm(4), IMAGE, (6 + 2) * PIXELS * 4),
        (nn.LayerNorm(4, elementwise_affine=False), IMAGE, 6 * PIXELS * 4),
        (nn.GroupNorm(2, 4), IMAGE, (6 + 2) * PIXELS * 4),
        (nn.InstanceNorm(4), IMAGE, 6 * PIXELS * 4),
        (nn.RMSNorm(4), IMAGE, (3 + 1) * PIXELS * 4),
        (nn.LocalResponseNorm(5), IMAGE, (5 + 4) * PIXELS * 4),
        (nn.ReLU(), IMAGE, PIXELS * 4),
        (nn.GELU(), (5,), 5),
        (nn.PReLU(), (5,), 5),
        (nn.Softmax(), (5,), 5 * 5),
        (nn.Dropout(), IMAGE, 0),
        (nn.Flatten(), IMAGE, 0),
        (nn.Reshape(2, -1), IMAGE, 0),
        (nn.Permute(0, 3, 1, 2), IMAGE, 0),
        (nn.PixelShuffle(2), IMAGE, 0),
        (nn.ChannelShuffle(2), IMAGE, 0),
        (nn.ZeroPad2d(1), IMAGE, 0),
        (nn.MaxPool2d(2), IMAGE, PIXELS * 4),
        (nn.AvgPool2d(3, stride=1), IMAGE, 9 * (4 * 6) * 4),
        (nn.GlobalAvgPool2d(), IMAGE, PIXELS * 4),
        (nn.AdaptiveAvgPool2d((4, 2)), IMAGE, (2 + 2 + 2 + 2) * 8 * 4),
        (nn.Upsample(2), IMAGE, 0),
        (nn.Affine(np.ones(4), np.ones(4)), IMAGE, 2 * PIXELS * 4),
        (nn.Clamp(0.0), (5,), 5),
        (nn.Mean(1, 2), IMAGE, PIXELS * 4),
        (nn.Take([0, 0, 1]), IMAGE, 0),
        (nn.Broadcast(6, 8, 4), (1, 1, 4), 0),
        (nn.Pointwise("exp"), (5,), 5),
        (nn.LogSoftmax(), (5,), 5 * 5),
        (nn.MatMul(), ((2, 3), (3, 4)), 2 * 2 * 3 * 4),
        (nn.Conv3d(2, 3, (3, 1, 1)), (4, 5, 6, 2), 2 * (2 * 5 * 6) * 3 * (2 * 3)),
        (nn.Upsample(2, "bilinear"), IMAGE, 3 * (12 * 8 * 4 + 12 * 16 * 4)),
        (nn.Add(), ((5,), (5,), (5,)), 2 * 5),
        (nn.Multiply(), (IMAGE, (4,)), PIXELS * 4),
        (nn.Concatenate(), (IMAGE, IMAGE), 0),
        (nn.Residual(nn.Linear(5, 5)), (5,), 50 + 5 + 5),
        (nn.Residual(nn.Linear(5, 5), activation=None), (5,), 50 + 5),
        (nn.Concat(nn.Linear(5, 5), nn.Linear(5, 2)), (5,), 50 + 20),
        (nn.Sequential(nn.Linear(5, 4), nn.Sequential(nn.ReLU(), nn.Linear(4, 2))), (5,), 60),
    ],
    ids=lambda value: repr(value).split("\n")[0] if isinstance(value, nn.Module) else "",
)
def test_by_hand(layer: nn.Module, shape: Any, expected: int) -> None:
    assert layer.flops(shape) == expected
    assert f"{layer.build(shape).flops()}" == f"{expected}"  # an int, not one of NumPy's


def test_every_layer_states_its_own() -> None:
    inherited = {
        name
        for name, kind in vars(nn).items()
        if isinstance(kind, type)
        and issubclass(kind, nn.Module)
        and kind.own_flops is nn.Module.own_flops
        and kind.flops_per_value is None
    }
    assert inherited == {"Module", "Sequential", "Graph"}


def test_the_windows_that_were_run(torch: Any) -> None:
    """PyTorch counts the products of its own operations while they run."""
    counter = pytest.importorskip("torch.utils.flop_counter")
    pairs: list[tuple[nn.Module, Any]] = [
        (nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=2), torch.nn.Conv2d(4, 8, 3, 2, 1, 1, 2)),
        (nn.Conv2d(4, 6, (3, 2), dilation=2), torch.nn.Conv2d(4, 6, (3, 2), dilation=2)),
        (nn.ConvTranspose2d(4, 6, 3, stride=2), torch.nn.ConvTranspose2d(4, 6, 3, 2)),
    ]
    x = torch.ones(1, IMAGE[2], *IMAGE[:2])
    for ours, theirs in pairs:
        with counter.FlopCounterMode(display=False) as counted, torch.no_grad():
            theirs(x)
        assert ours.flops(IMAGE) == counted.get_total_flops(), ours


@pytest.mark.parametrize("make", [models.resnet20, models.inception])
def test_a_network_is_the_sum_of_its_layers(make: Callable[..., nn.Module]) -> None:
    shape = (32, 32, 3)
    net = make(shape, rng=0)
    products = sum(
        2 * math.prod(made[:-1]) * layer.weight.size
        for layer, _, made in net.trace(shape)
        if isinstance(layer, nn.Linear | nn.Conv2d)
    )
    assert products < net.flops(shape) < 1.1 * products


def test_of_a_graph() -> None:
    image, row = nn.Input(IMAGE), nn.Input((4,))
    net = nn.Graph([image, row], nn.GlobalAvgPool2d()(nn.multiply(image, nn.Linear(4, 4)(row))))
    assert net.flops() == 2 * 4 * 4 + PIXELS * 4 + PIXELS * 4
    assert "A sample: 416 FLOP, outputs of 800 B." in net.summary()


class Own(nn.Module):
    def forward(self, x: Any) -> tuple[Any, Any]:
        return x, None

    def backward(self, dy: Any, saved: Any, need_dx: bool = True) -> Any:
        return dy

    def output_shape(self, input_shape: Any) -> Any:
        return input_shape


def test_what_is_not_known_is_said() -> None:
    net = nn.Sequential(nn.Linear(5, 4), Own())
    with pytest.raises(ValueError, match="Sequential: the shape of a sample is not known yet"):
        net.flops()
    assert net.flops((5,)) == 40
    *_, own, _, _, last = net.summary((5,)).splitlines()
    assert own.split()[-3:] == ["0", "?", "16", "B"][-3:]
    assert last == "A sample: at least 40 FLOP, outputs of 32 B."


def test_sizes_follow_the_dtype() -> None:
    net = nn.Sequential(nn.Linear(5, 400, dtype=np.float64), nn.Tanh())
    lines = net.summary((5,)).splitlines()
    assert [line.split()[-2:] for line in lines[2:4]] == [["3.2", "kB"], ["3.2", "kB"]]
    assert lines[-2].endswith("Parameters: 2,400, 19.2 kB. Buffers: 0.")
    assert lines[-1] == "A sample: 4.4 kFLOP, outputs of 6.4 kB."
    assert len(net.summary().splitlines()) == len(lines) - 1  # no shape, no sample
