"""Train on the ranks of an MPI job and print, as JSON, what each step gave: started by tests."""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np

from fastbn import distributed, models, nn, optim
from fastbn.train import Callback, Trainer, metrics

ROWS = 24
SHAPES = {"mlp": (6,), "convnet": (8, 8, 1), "resnet20": (8, 8, 3)}


def network(name: str, dtype: str) -> nn.Module:
    rng = np.random.default_rng(7)
    if name == "mlp":
        layers = [nn.Linear(6, 16, rng=rng), nn.BatchNorm(16), nn.ReLU(), nn.Linear(16, 4, rng=rng)]
        net: nn.Module = nn.Sequential(*layers)
    elif name == "convnet":
        net = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1, rng=rng),
            nn.BatchNorm(8),
            nn.ReLU(),
            nn.GlobalAvgPool2d(),
            nn.Linear(8, 4, rng=rng),
        )
    else:
        net = models.resnet20(SHAPES[name], classes=4, rng=rng)
    return net.astype(dtype)


def samples(name: str, rows: int, dtype: str) -> tuple[Any, Any]:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((rows, *SHAPES[name])).astype(dtype) + 1
    return x, rng.integers(0, 4, rows)


class Seen(Callback):
    """Keeps what every step gave; stops on rank 0, or changes a weight of rank 1."""

    def __init__(self, told: dict[str, Any], rank: int) -> None:
        self.told, self.rank = told, rank
        self.losses: list[float] = []
        self.gradients: dict[str, list[float]] = {}

    def on_step(self, trainer: Trainer) -> None:
        self.losses.append(trainer.last_loss)
        if self.rank == 0 and trainer.steps == self.told.get("stop"):
            trainer.should_stop = True
        if self.rank == 1 and trainer.steps == self.told.get("drift"):
            trainer.net.parameters()[2].data += 1e-3
        if not self.gradients:
            for name, parameter in trainer.net.named_parameters():
                assert parameter.grad is not None
                self.gradients[name] = parameter.grad.ravel().tolist()


def train(told: dict[str, Any], communicator: distributed.Communicator | None) -> dict[str, Any]:
    """Train as told; "nudge" changes the initial weights by one rounding."""
    name, dtype = told["name"], told.get("dtype", "float64")
    net = network(name, dtype)
    if told.get("nudge"):
        rng = np.random.default_rng(told["nudge"])
        for parameter in net.parameters():
            up = rng.random(parameter.shape) < 0.5
            parameter.data = np.where(up, np.nextafter(parameter.data, np.inf), parameter.data)
    optimizer = optim.SGD(net.parameters(), lr=told.get("lr", 0.05), momentum=0.9)
    options = {"bn": told.get("bn", "sync"), "check_every": told.get("check_every", 5)}
    if told.get("explode"):
        optimizer.param_groups[0]["lr"] = lambda step: 1e200 if step == 3 else 0.05
    measured = (metrics.accuracy,)
    trainer = Trainer(net, None, optimizer, measured, communicator=communicator, **options)
    if "lr_find" in told:
        return {"losses": trainer.lr_find(samples(name, ROWS, dtype), 12, steps=5, rng=0).loss}
    if "resume" in told:
        trainer.resume(told["resume"])
    seen = Seen(told, 0 if communicator is None else communicator.rank)
    rows = told.get("rows", ROWS)
    history = trainer.fit(
        samples(name, rows, dtype),
        told.get("epochs", 5),
        told.get("batch_size", ROWS // 2),
        samples(name, rows, dtype),
        callbacks=[seen],
        rng=11,
        accumulate=told.get("accumulate", 1),
    )
    if "save" in told:
        trainer.save(told["save"])
    state = net.state_dict()
    return {
        "losses": seen.losses,
        "gradients": seen.gradients,
        "val_loss": history.val_loss,
        "val_accuracy": history.val_accuracy,
        "metrics": [epoch.metrics for epoch in history.epochs],
        "steps": [epoch.steps for epoch in history.epochs],
        "buffers": {name: state[name].ravel().tolist() for name, _ in net.named_buffers()},
        "weights": [float(np.abs(p.data).sum()) for p in net.parameters()],
        "bits": [p.storage.tobytes().hex()[:64] for p in net.parameters()],
    }


def main() -> None:
    communicator = distributed.MPICommunicator(timeout=50)
    results: list[Any] = []
    for told in json.loads(sys.argv[1]):
        try:
            results.append(train(told, communicator))
        except (distributed.DriftError, FloatingPointError) as error:
            results.append(str(error))
    if communicator.rank == 0:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
