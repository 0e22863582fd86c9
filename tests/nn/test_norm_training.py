"""An MLP-mixer with LayerNorm and a convnet with GroupNorm, beside the same in PyTorch.

Rounding grows from step to step, so that long runs are held against runs of our own whose initial
weights are changed by one rounding.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastbn import nn, optim

LR, SIDE, PATCH, WIDTH, CLASSES = 0.02, 12, 4, 16, 5
PLACES = (SIDE // PATCH) ** 2


def mixer() -> nn.Sequential:
    """Tolstikhin et al., "MLP-Mixer" (2021): two blocks that mix places, then channels."""

    def mlp(size: int, hidden: int) -> list[nn.Module]:
        return [nn.Linear(size, hidden), nn.GELU(), nn.Linear(hidden, size)]

    def block() -> list[nn.Module]:
        turn = [nn.Permute(0, 2, 1), *mlp(PLACES, 12), nn.Permute(0, 2, 1)]
        return [
            nn.Residual(nn.Sequential(nn.LayerNorm(WIDTH), *turn), activation=None),
            nn.Residual(nn.Sequential(nn.LayerNorm(WIDTH), *mlp(WIDTH, 24)), activation=None),
        ]

    return nn.Sequential(
        nn.Conv2d(3, WIDTH, PATCH, stride=PATCH),
        nn.Reshape(PLACES, WIDTH),
        *block(),
        *block(),
        nn.LayerNorm(WIDTH),
        nn.Reshape(SIDE // PATCH, SIDE // PATCH, WIDTH),
        nn.GlobalAvgPool2d(),
        nn.Linear(WIDTH, CLASSES),
    )


def their_mixer(torch: Any) -> Any:
    t = torch.nn

    def mlp(size: int, hidden: int) -> list[Any]:
        return [t.Linear(size, hidden), t.GELU(), t.Linear(hidden, size)]

    class Turned(t.Module):  # type: ignore[misc]
        def forward(self, x: Any) -> Any:
            return x.transpose(1, 2)

    class Adds(t.Module):  # type: ignore[misc]
        def __init__(self, *body: Any) -> None:
            super().__init__()
            self.body = t.Sequential(*body)

        def forward(self, x: Any) -> Any:
            return x + self.body(x)

    class Mixer(t.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            blocks = []
            for _ in range(2):
                turn = [Turned(), *mlp(PLACES, 12), Turned()]
                blocks += [
                    Adds(t.LayerNorm(WIDTH), *turn),
                    Adds(t.LayerNorm(WIDTH), *mlp(WIDTH, 24)),
                ]
            self.patches = t.Conv2d(3, WIDTH, PATCH, PATCH)
            self.rest = t.Sequential(*blocks, t.LayerNorm(WIDTH))
            self.head = t.Linear(WIDTH, CLASSES)

        def forward(self, x: Any) -> Any:
            return self.head(self.rest(self.patches(x).flatten(2).transpose(1, 2)).mean(1))

    return Mixer()


def convnet() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(4, 8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.ReLU(), nn.GlobalAvgPool2d(),
        nn.Linear(16, CLASSES),
    )  # fmt: skip


def their_convnet(torch: Any) -> Any:
    t = torch.nn
    return t.Sequential(
        t.Conv2d(3, 8, 3, padding=1), t.GroupNorm(4, 8), t.ReLU(), t.MaxPool2d(2),
        t.Conv2d(8, 16, 3, padding=1), t.GroupNorm(4, 16), t.ReLU(), t.MaxPool2d(2),
        t.Conv2d(16, 16, 3, padding=1), t.GroupNorm(4, 16), t.ReLU(), t.AdaptiveAvgPool2d(1),
        t.Flatten(), t.Linear(16, CLASSES),
    )  # fmt: skip


PAIRS = {"mixer": (mixer, their_mixer, 16), "convnet": (convnet, their_convnet, 2)}


class Pair:
    """One network twice, with PyTorch's initial weights: parameters stand in the same order."""

    def __init__(self, torch: Any, name: str, dtype: str) -> None:
        torch.manual_seed(0)
        self.make, theirs, rows = PAIRS[name]
        self.torch, self.dtype = torch, np.dtype(dtype)
        self.theirs = theirs(torch).to(getattr(torch, dtype))
        self.start = [p.detach().numpy().copy() for p in self.theirs.parameters()]
        rng = np.random.default_rng(1)
        self.x = rng.standard_normal((rows, SIDE, SIDE, 3)).astype(dtype)
        self.labels = rng.integers(0, CLASSES, rows)

    def ours(self, changed: int | None = None) -> nn.Sequential:
        """Our network; with weights one rounding away if there is a seed for the choice."""
        net = self.make().astype(self.dtype).build(self.x.shape[1:])
        parameters = net.state_dict(layout="NCHW")
        values = list(self.start)
        if changed is not None:
            sign = np.random.default_rng(changed)
            values = [
                np.nextafter(v, sign.choice([-9, 9], v.shape).astype(v.dtype)) for v in values
            ]
        net.load_state_dict(dict(zip(parameters, values, strict=True)), layout="NCHW")
        return net

    def losses(self, steps: int, changed: int | None = None) -> list[float]:
        net, loss = self.ours(changed), nn.CrossEntropyLoss()
        optimizer = optim.SGD(net.parameters(), lr=LR, momentum=0.9)
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
        return self.torch.nn.functional.cross_entropy(self.theirs(x), labels)

    def their_losses(self, steps: int) -> list[float]:
        optimizer = self.torch.optim.SGD(self.theirs.parameters(), lr=LR, momentum=0.9)
        found = []
        for _ in range(steps):
            optimizer.zero_grad()
            loss = self.their_loss()
            loss.backward()
            optimizer.step()
            found.append(float(loss.detach()))
        return found


@pytest.mark.parametrize(("dtype", "bound"), [("float64", 1e-12), ("float32", 1e-5)])
@pytest.mark.parametrize("name", PAIRS)
def test_gradients_of_the_first_step(torch: Any, name: str, dtype: str, bound: float) -> None:
    pair = Pair(torch, name, dtype)
    net = pair.ours()
    _, dlogits = nn.CrossEntropyLoss()(net(pair.x), pair.labels)
    net.backward(dlogits)
    pair.their_loss().backward()
    names = [key for key, _ in net.named_parameters()]
    theirs = dict(zip(names, (p.grad.numpy() for p in pair.theirs.parameters()), strict=True))
    for key, ours in net.named_parameters():
        # What the LayerNorm behind undoes, a bias that is the same for all channels, has a gradient
        # of nothing but rounding: it is held to that of its layer's other parameter.
        layer = key.rpartition(".")[0] + "."
        size = max(np.abs(d).max() for other, d in theirs.items() if other.startswith(layer))
        assert np.abs(ours.grad - theirs[key]).max() <= bound * size, key


@pytest.mark.parametrize("name", PAIRS)
def test_losses_in_float64(torch: Any, name: str) -> None:
    pair = Pair(torch, name, "float64")
    np.testing.assert_allclose(pair.losses(10), pair.their_losses(10), rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", PAIRS)
def test_losses_in_float32(torch: Any, name: str) -> None:
    pair = Pair(torch, name, "float32")
    ours = np.array(pair.losses(100))
    near = np.abs([np.subtract(pair.losses(100, seed), ours) for seed in range(5)]).max()
    assert np.abs(ours - pair.their_losses(100)).max() <= 3 * near
    assert ours[-1] < 0.5 * ours[0]
