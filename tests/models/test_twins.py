"""resnet18 and mobilenet_v2 beside the same networks written in PyTorch: outputs and training.

Rounding grows from step to step, so that long runs are held against runs of our own whose initial
weights are changed by one rounding.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastbn import models, nn, optim

LR, MOMENTUM, ROWS = 1e-3, 0.9, 16


def resnet18(torch: Any, width: int, classes: int) -> Any:
    t = torch.nn

    class Block(t.Module):  # type: ignore[misc]
        def __init__(self, seen: int, count: int, stride: int) -> None:
            super().__init__()
            self.conv1 = t.Conv2d(seen, count, 3, stride, 1, bias=False)
            self.bn1 = t.BatchNorm2d(count)
            self.conv2 = t.Conv2d(count, count, 3, 1, 1, bias=False)
            self.bn2 = t.BatchNorm2d(count)
            self.downsample = None
            if stride > 1 or seen != count:
                self.downsample = t.Sequential(
                    t.Conv2d(seen, count, 1, stride, bias=False), t.BatchNorm2d(count)
                )

        def forward(self, x: Any) -> Any:
            shortcut = x if self.downsample is None else self.downsample(x)
            h = torch.relu(self.bn1(self.conv1(x)))
            return torch.relu(self.bn2(self.conv2(h)) + shortcut)

    class ResNet(t.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = t.Conv2d(3, width, 7, 2, 3, bias=False)
            self.bn1 = t.BatchNorm2d(width)
            seen = width
            for stage in range(4):
                count = width * 2**stage
                first = Block(seen, count, 2 if stage else 1)
                setattr(self, f"layer{stage + 1}", t.Sequential(first, Block(count, count, 1)))
                seen = count
            self.fc = t.Linear(seen, classes)

        def forward(self, x: Any) -> Any:
            h = torch.relu(self.bn1(self.conv1(x)))
            h = t.functional.max_pool2d(h, 3, 2, 1)
            for stage in range(4):
                h = getattr(self, f"layer{stage + 1}")(h)
            return self.fc(h.mean(dim=(2, 3)))

    return ResNet()


def mobilenet_v2(torch: Any, width: float, classes: int) -> Any:
    t = torch.nn

    def round8(count: float) -> int:
        rounded = max(8, int(count + 4) // 8 * 8)
        return rounded + 8 if rounded < 0.9 * count else rounded

    def conv(seen: int, count: int, size: int, stride: int = 1, groups: int = 1) -> Any:
        return t.Sequential(
            t.Conv2d(seen, count, size, stride, size // 2, groups=groups, bias=False),
            t.BatchNorm2d(count),
            t.ReLU6(),
        )

    class Block(t.Module):  # type: ignore[misc]
        def __init__(self, seen: int, count: int, stride: int, expansion: int) -> None:
            super().__init__()
            inside = seen * expansion
            expand = [conv(seen, inside, 1)] if expansion > 1 else []
            self.conv = t.Sequential(
                *expand,
                conv(inside, inside, 3, stride, inside),
                t.Conv2d(inside, count, 1, bias=False),
                t.BatchNorm2d(count),
            )
            self.adds = stride == 1 and seen == count

        def forward(self, x: Any) -> Any:
            return self.conv(x) + x if self.adds else self.conv(x)

    class MobileNet(t.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            seen = round8(32 * width)
            layers = [conv(3, seen, 3, 2)]
            for expansion, channels, blocks, stride in (
                (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2),
                (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
            ):  # fmt: skip
                for block in range(blocks):
                    count = round8(channels * width)
                    layers.append(Block(seen, count, 1 if block else stride, expansion))
                    seen = count
            last = round8(1280 * max(1.0, width))
            self.features = t.Sequential(*layers, conv(seen, last, 1))
            self.classifier = t.Sequential(t.Dropout(0.0), t.Linear(last, classes))

        def forward(self, x: Any) -> Any:
            return self.classifier(self.features(x).mean(dim=(2, 3)))

    return MobileNet()


TWINS: dict[str, tuple[Any, dict[str, Any], Any, Any]] = {  # ours, arguments, small and full width
    "resnet18": (resnet18, {}, 8, 64),
    "mobilenet_v2": (mobilenet_v2, {"dropout": 0.0}, 0.25, 1.0),
}


class Pair:
    """The same network twice, with the weights of PyTorch's initialisation."""

    def __init__(
        self, torch: Any, name: str, shape: tuple[int, ...], dtype: str, full: bool = False
    ) -> None:
        make, arguments, *widths = TWINS[name]
        torch.manual_seed(0)
        self.torch = torch
        self.dtype = np.dtype(dtype)
        self.theirs = make(torch, widths[full], 10).to(getattr(torch, dtype))
        self.state = {key: value.numpy().copy() for key, value in self.theirs.state_dict().items()}

        def build() -> nn.Module:
            return models.build(
                name, input_shape=shape, classes=10, width=widths[full], dtype=dtype, **arguments
            )

        self.build = build
        rng = np.random.default_rng(1)
        self.x = rng.standard_normal((ROWS, *shape)).astype(dtype)
        self.labels = rng.integers(0, 10, ROWS)

    def ours(self, changed: int | None = None) -> nn.Module:
        """Our network; with weights one rounding away if there is a seed for the choice."""
        net = self.build()
        state = self.state
        if changed is not None:
            sign = np.random.default_rng(changed)
            state = {
                key: value
                if value.dtype != self.dtype
                else np.nextafter(value, sign.choice([-np.inf, np.inf], value.shape), dtype=dtype)
                for key, value in state.items()
                for dtype in [self.dtype]
            }
        net.load_state_dict(state, layout="NCHW")
        return net

    def losses(self, steps: int, changed: int | None = None) -> list[float]:
        net, loss = self.ours(changed), nn.CrossEntropyLoss()
        optimizer = optim.SGD(net.parameters(), lr=LR, momentum=MOMENTUM)
        found = []
        for _ in range(steps):
            value, dlogits = loss(net(self.x), self.labels)
            net.backward(dlogits)
            optimizer.step()
            found.append(value)
        return found

    def their_loss(self) -> Any:
        x = self.torch.from_numpy(self.x.transpose(0, 3, 1, 2).copy())
        labels = self.torch.from_numpy(self.labels)
        return self.torch.nn.functional.cross_entropy(self.theirs.train()(x), labels)

    def their_losses(self, steps: int) -> list[float]:
        optimizer = self.torch.optim.SGD(self.theirs.parameters(), lr=LR, momentum=MOMENTUM)
        found = []
        for _ in range(steps):
            optimizer.zero_grad()
            loss = self.their_loss()
            loss.backward()
            optimizer.step()
            found.append(float(loss.detach()))
        return found


@pytest.mark.parametrize("name", TWINS)
def test_logits_of_the_network_as_published(torch: Any, name: str) -> None:
    pair = Pair(torch, name, (64, 48, 3), "float32", full=True)
    with torch.no_grad():
        expected = pair.theirs.eval()(torch.from_numpy(pair.x.transpose(0, 3, 1, 2).copy()))
    np.testing.assert_allclose(pair.ours().predict(pair.x), expected.numpy(), rtol=0, atol=1e-4)


def gradients(net: nn.Module, pair: Pair) -> dict[str, Any]:
    _, dlogits = nn.CrossEntropyLoss()(net(pair.x), pair.labels)
    net.backward(dlogits)
    return {key: np.array(parameter.grad) for key, parameter in net.named_parameters()}


@pytest.mark.parametrize(("dtype", "bound"), [("float64", 1e-12), ("float32", 1e-5)])
@pytest.mark.parametrize("name", TWINS)
def test_gradients_of_the_first_step(torch: Any, name: str, dtype: str, bound: float) -> None:
    pair = Pair(torch, name, (64, 64, 3), dtype)
    ours = gradients(pair.ours(), pair)
    pair.their_loss().backward()
    theirs = {key: value.grad.numpy() for key, value in pair.theirs.named_parameters()}
    near = []
    if (name, dtype) == ("mobilenet_v2", "float32"):  # some ReLU6 change sides at their kinks
        near = [gradients(pair.ours(seed), pair) for seed in range(5)]
    for key, dparameter in ours.items():
        # What the BatchNorm behind undoes, a scale or an offset in front of a convolution, has a
        # gradient of nothing but rounding: it is held to that of its layer's other parameter.
        prefix = key.rpartition(".")[0]
        size = max(np.abs(d).max() for other, d in theirs.items() if other.startswith(prefix + "."))
        kinks = max((np.abs(dparameter - other[key]).max() for other in near), default=0.0)
        assert np.abs(dparameter - theirs[key]).max() <= max(bound * size, 3 * kinks), key


@pytest.mark.parametrize("name", TWINS)
def test_losses_in_float64(torch: Any, name: str) -> None:
    pair = Pair(torch, name, (64, 64, 3), "float64")
    np.testing.assert_allclose(pair.losses(10), pair.their_losses(10), rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", TWINS)
def test_losses_in_float32(torch: Any, name: str) -> None:
    pair = Pair(torch, name, (32, 32, 3), "float32")
    ours = np.array(pair.losses(100))
    near = np.abs([np.subtract(pair.losses(100, seed), ours) for seed in range(5)]).max()
    assert np.abs(ours - pair.their_losses(100)).max() <= 3 * near
    assert ours[-1] < 0.5 * ours[0]
