"""``fastbn demo``: the whole way on real data, in under a minute: training, ONNX file, proof.

:func:`run` is short enough to be read as an example: it uses nothing but the library's parts.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from fastbn.cli.errors import DONE
from fastbn.cli.export import PROOF
from fastbn.cli.table import show

EPOCHS = 12
BATCH_SIZE = 32
FILES = ("model.safetensors", "model.onnx", "report.json", "training.png", "web")


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Output folder.")] = Path(
        "fastbn-demo"
    ),
    epochs: Annotated[int, typer.Option(help="Epochs.", min=1)] = EPOCHS,
    seed: Annotated[int, typer.Option(help="Random seed.", min=0)] = 0,
) -> int:
    """Train a convnet on scanned digits, export it, prove the file; under a minute."""
    report = run(output, epochs=epochs, seed=seed)
    names = ("test_accuracy", "steps", "images_per_second", *PROOF)
    files = sorted(path.name for path in output.iterdir() if path.name in FILES)
    show("fastbn demo", {name: report[name] for name in names} | {str(output): files})
    return DONE


def run(output: str | os.PathLike[str], *, epochs: int = EPOCHS, seed: int = 0) -> dict[str, Any]:
    """Train a convolutional network on scanned digits, export it, compare it with onnxruntime.

    Parameters
    ----------
    output : path
        Folder that receives ``model.safetensors``, ``model.onnx``, ``report.json``, ``web``, a page
        to try the network on, and, where matplotlib is installed, ``training.png``.
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
    import numpy as np

    from fastbn import data, models, optim, train
    from fastbn.export import to_onnx
    from fastbn.export.web import write_page
    from fastbn.nn import CrossEntropyLoss
    from fastbn.train import plot
    from fastbn.train.report import write_report

    folder = Path(output)
    digits = data.load("digits")
    folder.mkdir(parents=True, exist_ok=True)

    rng = np.random.default_rng(seed)
    net = models.convnet(digits.input_shape, len(digits.classes), rng=rng)
    optimizer = optim.Adam(net.parameters())
    trainer = train.Trainer(net, CrossEntropyLoss(), optimizer)
    settling = epochs // 3
    trainer.fit(digits, epochs - settling, BATCH_SIZE, rng=rng)
    optimizer.lr /= 10  # smaller steps at the end, so that no single batch decides the result
    history = trainer.fit(digits, settling, BATCH_SIZE, rng=rng)

    train.save(net, folder / "model.safetensors", classes=digits.classes)
    written = partial(to_onnx, net, classes=digits.classes, input_range=(0.0, 1.0))
    exported = written(folder / "model.onnx")
    shape, page = digits.input_shape, folder / "web"
    write_page(page, title="Digits", input_shape=shape, classes=digits.classes)
    written(page / "model.onnx", softmax=True)

    report = {
        "test_accuracy": trainer.evaluate(digits).accuracy,
        "epochs": epochs,
        "steps": history.steps,
        "seconds": history.seconds,
        "images_per_second": history.images_per_second,
        **exported.as_dict(),
        "history": history.as_rows(),
    }
    write_report(folder / "report.json", report)
    if plot.available():
        plot.training_curves(history, folder / "training.png")
    return report
