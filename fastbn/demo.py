"""The whole way on real data, in under a minute: images, training, ONNX file, proof.

Run by ``fastbn demo``, and short enough to be read as an example: it uses nothing but the public
parts of the library.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from fastbn import data, models, optim, plot, train
from fastbn.export import to_onnx
from fastbn.nn import CrossEntropyLoss
from fastbn.runs import CURVES, REPORT, WEIGHTS, write_report

EPOCHS = 12
BATCH_SIZE = 32

MODEL = "model.onnx"
FILES = (WEIGHTS, MODEL, REPORT, CURVES)


def run(output: str | os.PathLike[str], *, epochs: int = EPOCHS, seed: int = 0) -> dict[str, Any]:
    """Train a convolutional network on scanned digits, export it, compare it with onnxruntime.

    Parameters
    ----------
    output : path
        Folder that receives ``model.safetensors``, ``model.onnx``, ``report.json`` and, where
        matplotlib is installed, ``training.png``.
    epochs : int
        Times to go through the training images, the last third at a tenth of the learning rate.
    seed : int
        Of the initial weights and the order of the images: the same seed, the same files.

    Returns
    -------
    dict
        What ``report.json`` contains.

    Raises
    ------
    ImportError
        If scikit-learn, which has the digits, is not installed.
    fastbn.export.MismatchError
        If the exported file does not compute what the network does.
    """
    folder = Path(output)
    digits = data.load("digits")
    folder.mkdir(parents=True, exist_ok=True)

    rng = np.random.default_rng(seed)
    net = models.convnet(digits.input_shape, len(digits.classes), rng=rng)
    optimizer = optim.Adam(net.parameters())
    trainer = train.Trainer(net, CrossEntropyLoss(), optimizer)
    settling = epochs // 3
    trainer.fit(digits, epochs - settling, BATCH_SIZE, validation=digits, rng=rng)
    optimizer.lr /= 10  # smaller steps at the end, so that no single batch decides the result
    history = trainer.fit(digits, settling, BATCH_SIZE, validation=digits, rng=rng)

    train.save(net, folder / WEIGHTS, classes=digits.classes)
    exported = to_onnx(net, folder / MODEL, classes=digits.classes, input_range=(0.0, 1.0))

    report = {
        "test_accuracy": trainer.evaluate(digits).accuracy,
        "epochs": epochs,
        "steps": history.steps,
        "seconds": history.seconds,
        "images_per_second": history.images_per_second,
        **exported.as_dict(),
        "history": history.as_rows(),
    }
    write_report(folder / REPORT, report)
    if plot.available():
        plot.training_curves(history, folder / CURVES)
    return report
