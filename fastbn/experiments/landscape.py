"""What lies along the gradient, and how far distributions move: looks at a network in training."""

from __future__ import annotations

import numpy as np

from fastbn import nn
from fastbn.experiments.experiment import Array
from fastbn.nn.elementwise import Elementwise
from fastbn.train import Trainer

WAYS = (0.5, 1.0, 2.0, 3.0, 4.0)  # steps along the gradient, in rates


class Noise(Elementwise):
    """Scale and shift every channel and sample at random in training."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.rng = np.random.default_rng(seed)

    def forward(self, x: Array) -> tuple[Array, Array | None]:
        """Return x, disturbed."""
        if not self.training:
            return x, None
        shape, rng = (len(x), 1, 1, x.shape[-1]), self.rng
        scale = rng.normal(rng.uniform(1.0, 1.25, x.shape[-1]), 0.1, shape).astype(x.dtype)
        shift = rng.uniform(-0.5, 0.5, x.shape[-1]) + rng.uniform(-0.1, 0.1, shape)
        return scale * x + shift.astype(x.dtype), scale

    def backward(self, dy: Array, saved: Array | None, need_dx: bool = True) -> Array:
        """Return dy, scaled as x was."""
        return dy if saved is None else dy * saved


class Look:
    """What is looked at between steps, always on the same images; the network stays as it is."""

    def __init__(self, x: Array, labels: Array, rate: float, upto: int) -> None:
        self.x, self.labels, self.rate, self.upto = x, labels, rate, upto

    def at(self, net: nn.Module) -> tuple[float, list[Array]]:
        """Return loss and gradients, with the same noise every time."""
        for layer in net.modules():
            if isinstance(layer, Noise):
                layer.rng = np.random.default_rng(0)
        loss, dlogits = nn.CrossEntropyLoss()(net(self.x), self.labels)
        net.backward(dlogits)
        return loss, [np.array(p.grad) for p in net.parameters()]

    def along(self, trainer: Trainer) -> dict[str, float]:
        """Walk along the gradient and back."""
        net, kept = trainer.net, {k: v.copy() for k, v in trainer.net.state_dict().items()}
        noise = [(m, m.rng) for m in net.modules() if isinstance(m, Noise)]
        first, gradient = self.at(net)
        weights = [p.data.copy() for p in net.parameters()]
        size, losses, moved, betas = norm(gradient), [first], [0.0], [0.0]
        for way in WAYS:
            for parameter, weight, g in zip(net.parameters(), weights, gradient, strict=True):
                parameter.data = weight - way * self.rate * g
            loss, there = self.at(net)
            losses.append(loss)
            moved.append(norm([a - b for a, b in zip(there, gradient, strict=True)]))
            betas.append(moved[-1] / (way * self.rate * size))
        net.load_state_dict(kept)
        for layer, rng in noise:
            layer.rng = rng
        return {
            "loss_range": max(losses) - min(losses),
            "gradient_change": max(moved),
            "beta": max(betas),
        }

    def means(self, trainer: Trainer) -> tuple[Array, Array]:
        """Return mean and deviation of the channels in front of the fourth ReLU, in training."""
        kept = {k: v.copy() for k, v in trainer.net.state_dict().items()}
        y = trainer.net[: self.upto](self.x)  # type: ignore[index]
        trainer.net.discard()
        trainer.net.load_state_dict(kept)
        return y.mean(axis=(0, 1, 2)), y.std(axis=(0, 1, 2))


def norm(arrays: list[Array]) -> float:
    """Return the norm of all of them together."""
    return float(np.sqrt(sum(float((a.astype(np.float64) ** 2).sum()) for a in arrays)))
