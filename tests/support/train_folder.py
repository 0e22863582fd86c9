"""Train on a folder of images by the ranks of an MPI job and print, as JSON, what came of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from fastbn import data, distributed, nn, optim
from fastbn.data import folder as folders
from fastbn.data import normalization
from fastbn.train import Callback, Trainer

CLASSES = {"a": 14, "b": 11, "c": 20}
SIZE = 8
BLOCK = 3 * SIZE * SIZE * 3  # numbers of three images, so that ranks have several blocks to merge


def write(root: Path) -> Path:
    """Write noise around a colour of each class, in two sizes."""
    from PIL import Image

    rng = np.random.default_rng(5)
    for label, (name, count) in enumerate(CLASSES.items()):
        (root / name).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 120, (9 + number % 2, 10, 3), np.uint8)
            pixels[..., label] += 60
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


class Seen(Callback):
    """Keeps the loss of every step, and how many files this rank has decoded by every epoch."""

    def __init__(self, files: Any) -> None:
        self.files = files
        self.losses: list[float] = []
        self.decoded: list[int] = []

    def on_step(self, trainer: Trainer) -> None:
        self.losses.append(trainer.last_loss)

    def on_epoch_end(self, trainer: Trainer) -> None:
        self.decoded.append(getattr(self.files, "decoded", 0))


def train(told: dict[str, Any], communicator: distributed.Communicator | None) -> dict[str, Any]:
    """Train as told; "nudge" changes the initial weights by one rounding."""
    if told.get("forgets"):
        folders.SHARE_OF_MEMORY = 0.0
    images = data.load(told["folder"], size=SIZE, communicator=communicator)
    files = getattr(images.x_train, "base", None)
    with patch.object(normalization, "BLOCK", BLOCK):
        images = images.split(0.25, rng=0).normalized(communicator=communicator)
    assert images.normalization is not None
    fitting = getattr(files, "decoded", 0)
    rng = np.random.default_rng(7)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, rng=rng),
        nn.BatchNorm(8),
        nn.ReLU(),
        nn.GlobalAvgPool2d(),
        nn.Linear(8, len(CLASSES), rng=rng),
    )
    if told.get("nudge"):
        noise = np.random.default_rng(told["nudge"])
        for p in net.parameters():
            up = noise.random(p.shape) < 0.5
            p.data = np.where(up, np.nextafter(p.data, np.float32(np.inf)), p.data)
    optimizer = optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    trainer = Trainer(net, None, optimizer, communicator=communicator)
    seen = Seen(files)
    history = trainer.fit(images, told["epochs"], 8, images, callbacks=[seen], rng=11)
    return {
        "repr": repr(images),
        "mean": images.normalization.mean.tolist(),
        "std": images.normalization.std.tolist(),
        "losses": seen.losses,
        "val_loss": history.val_loss,
        "val_accuracy": history.val_accuracy,
        "fitting": fitting,
        "decoded": np.diff(seen.decoded, prepend=fitting).tolist(),
    }


def counts(results: list[Any], communicator: distributed.MPICommunicator) -> Iterator[Any]:
    """Give the results of rank 0, with what all ranks have decoded."""
    for result in results:
        if isinstance(result, dict):
            for name in ("fitting", "decoded"):
                told = communicator.allgather(np.atleast_1d(result[name]))
                result[name] = np.array(told).tolist()
        yield result


def main() -> None:
    communicator = distributed.MPICommunicator(timeout=50)
    results: list[Any] = []
    for told in json.loads(sys.argv[1]):
        if "folders" in told:  # one for each rank, as on machines of their own
            told["folder"] = told["folders"][communicator.rank]
        try:
            results.append(train(told, communicator))
        except ValueError as error:
            results.append(str(error))
    results = list(counts(results, communicator))
    if communicator.rank == 0:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
