"""One run of training, from names to a folder of files: what ``fastbn train`` does."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from fastbn import data as datasets
from fastbn import models, optim
from fastbn.nn import CrossEntropyLoss, Module
from fastbn.train import plot
from fastbn.train.factory import factory
from fastbn.train.report import write_report
from fastbn.train.trainer import Trainer
from fastbn.train.weights import save

WEIGHTS = "model.safetensors"
REPORT = "report.json"
CURVES = "training.png"

LEARNING_RATES = {"adam": 1e-3, "adamw": 1e-3, "sgd": 0.05}


def train(
    model: str,
    data: str,
    output: str | os.PathLike[str],
    *,
    epochs: int = 3,
    batch_size: int = 64,
    optimizer: str = "adam",
    lr: float | None = None,
    final_lr: float | None = None,
    weight_decay: float | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Train a network on a data set and write what is known of it.

    Parameters
    ----------
    model : str
        A name in `fastbn.models`, or ``package.module:factory``; see `factory`.
    data : str
        What `fastbn.data.load` takes.
    output : path
        Folder that receives ``model.safetensors``, ``report.json`` and, where matplotlib is
        installed, ``training.png``.
    epochs, batch_size : int
        As of `fastbn.train.Trainer.fit`.
    optimizer : {"adam", "adamw", "sgd"}
        SGD has a momentum of 0.9.
    lr : float, optional
        Learning rate; by default 0.001, of SGD 0.05.
    final_lr : float, optional
        Learning rate of the last epoch; it falls by the same factor from epoch to epoch. By
        default it stays the same.
    weight_decay : float, optional
        By default the optimizer's own.
    seed : int
        Of the initial weights and the order of the images.

    Returns
    -------
    dict
        What ``report.json`` contains: the arguments, ``test_loss``, ``test_accuracy``, ``steps``,
        ``seconds``, ``images_per_second`` and, for every epoch, ``history``.

    Raises
    ------
    ValueError, OSError
        If an argument is wrong, data are missing or damaged, or files cannot be written.
    """
    images = datasets.load(data)
    rng = np.random.default_rng(seed)
    arguments: dict[str, Any] = {
        "input_shape": images.input_shape,
        "classes": len(images.classes),
    }
    net = factory(model)(**arguments, rng=rng)
    rate = LEARNING_RATES[optimizer] if lr is None else lr
    if final_lr is not None and not (rate > 0.0 and final_lr > 0.0):
        raise ValueError(
            f"With final_lr, learning rates should be above 0, got {rate} and {final_lr}"
        )
    stepper = _optimizer(net, optimizer, rate, weight_decay)
    trainer = Trainer(net, CrossEntropyLoss(), stepper)
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)

    if final_lr is None:
        trainer.fit(images, epochs, batch_size, validation=images, rng=rng)
    else:
        for epoch_rate in np.geomspace(rate, final_lr, epochs):
            stepper.lr = float(epoch_rate)
            trainer.fit(images, 1, batch_size, validation=images, rng=rng)
    history = trainer.history

    path = folder / WEIGHTS
    if model in models.names():
        save(net, path, classes=images.classes)  # the network knows how it was made
    else:
        save(net, path, model=model, arguments=arguments, classes=images.classes)
    evaluation = trainer.evaluate(images)
    report = {
        "model": model,
        "data": images.name,
        "epochs": epochs,
        "batch_size": batch_size,
        "optimizer": optimizer,
        "lr": rate,
        "final_lr": rate if final_lr is None else final_lr,
        "seed": seed,
        "test_loss": evaluation.loss,
        "test_accuracy": evaluation.accuracy,
        "steps": history.steps,
        "seconds": history.seconds,
        "images_per_second": history.images_per_second,
        "history": history.as_rows(),
    }
    write_report(folder / REPORT, report)
    if plot.available():
        plot.training_curves(history, folder / CURVES)
    return report


def _optimizer(
    net: Module, name: str, lr: float, weight_decay: float | None
) -> optim.Adam | optim.AdamW | optim.SGD:
    if name == "sgd":
        return optim.SGD(net.parameters(), lr=lr, momentum=0.9, weight_decay=weight_decay or 0.0)
    if name == "adam":
        return optim.Adam(net.parameters(), lr=lr, weight_decay=weight_decay or 0.0)
    if weight_decay is None:
        return optim.AdamW(net.parameters(), lr=lr)
    return optim.AdamW(net.parameters(), lr=lr, weight_decay=weight_decay)
