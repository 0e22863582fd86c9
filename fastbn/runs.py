"""From names to files and back: what ``fastbn train``, ``export`` and ``validate`` do."""

from __future__ import annotations

import importlib
import inspect
import json
import math
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastbn import data as datasets
from fastbn import models, optim, plot
from fastbn.files import atomic
from fastbn.nn import CrossEntropyLoss, Module
from fastbn.train import Metadata, Trainer, load, read, save

if TYPE_CHECKING:
    from fastbn.export import PredictionReport

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


def network(weights: str | os.PathLike[str], model: str | None = None) -> tuple[Module, Metadata]:
    """Build the network of a file and give it its weights, in inference mode.

    Parameters
    ----------
    weights : path
        A file that `fastbn.train.save` wrote.
    model : str, optional
        ``package.module:factory`` of a network that is not in `fastbn.models`. A file's own word
        is not enough to import somebody's code.

    Returns
    -------
    net : Module
    metadata : Metadata
        What else the file says.

    Raises
    ------
    ValueError
        If the file is damaged, is not of this network, or tells of a network that is not in
        `fastbn.models`.
    """
    _, metadata = read(weights)
    name = metadata.model if model is None else model
    if model is None and name not in models.names():
        raise ValueError(
            f"{os.fspath(weights)}: the network was made by {name or 'an unnamed factory'}, which "
            "is not in fastbn.models: name it with --model package.module:factory"
        )
    assert name is not None
    if name in models.names():
        return load(weights, inference=True), metadata
    try:
        net = factory(name)(**_with_tuples(metadata))
    except ValueError as error:
        raise ValueError(f"{os.fspath(weights)}: {error}") from error
    return load(weights, net, inference=True), metadata


def compare(
    weights: str | os.PathLike[str],
    onnx_file: str | os.PathLike[str],
    data: str,
    model: str | None = None,
) -> PredictionReport:
    """Compare what the weights predict with what an ONNX file gives, on the test images of a set.

    Parameters
    ----------
    weights : path
        A file that `fastbn.train.save` wrote.
    onnx_file : path
        What `fastbn.export.to_onnx` made of it.
    data : str
        What `fastbn.data.load` takes.
    model : str, optional
        As of `network`.

    Returns
    -------
    fastbn.export.PredictionReport

    Raises
    ------
    ValueError, OSError
        If a file is missing, damaged or of another network.
    """
    from fastbn.export import compare_predictions
    from fastbn.export.io import read_model

    net, metadata = network(weights, model)
    proto = read_model(onnx_file)
    said = {item.key: item.value for item in proto.metadata_props}
    x = np.asarray(datasets.load(data).x_test, np.float32)
    inside = json.loads(said.get("normalization", "{}"))
    if metadata.input_normalization and not inside:
        # The file takes what the network takes, and the network was trained on this.
        mean, std = (
            np.asarray(metadata.input_normalization[name], np.float32) for name in ("mean", "std")
        )
        x = (x - mean) / std
    return compare_predictions(
        net,
        proto,
        x,
        input_layout=said.get("input_layout", "NCHW"),
        normalization=(inside["mean"], inside["std"]) if inside else None,
        softmax=said.get("output") == "probabilities",
    )


def factory(model: str) -> Callable[..., Module]:
    """Return what builds a network.

    Parameters
    ----------
    model : str
        A name in `fastbn.models`, or ``package.module:factory``, looked up in the current
        directory, too. A factory takes keywords ``input_shape`` (a tuple, channels-last) and
        ``classes`` (an integer), and ``rng`` (a `numpy.random.Generator`) if it likes.

    Returns
    -------
    callable
        Takes the three keywords.

    Raises
    ------
    ValueError
        If there is no such model, module or factory.
    """
    if model in models.names():
        return lambda **arguments: models.build(model, **arguments)
    module_name, colon, name = model.partition(":")
    if not colon:
        raise ValueError(
            f"There is no model {model!r}: expected {', '.join(models.names())}, or "
            "package.module:factory of a network of your own"
        )
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # last: nothing there hides an installed package
    try:
        own = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"Cannot import the model {model!r}: {error}") from error

    def build(**arguments: Any) -> Module:
        signature = inspect.signature(own)
        if "rng" not in signature.parameters:
            arguments.pop("rng", None)
        try:
            signature.bind(**arguments)
        except TypeError as error:
            raise ValueError(
                f"The model {model!r} cannot be called with {', '.join(arguments)}: {error}"
            ) from error
        net = own(**arguments)
        if not isinstance(net, Module):
            raise ValueError(
                f"{model} should return a fastbn.nn.Module, but returned {type(net).__name__}"
            )
        return net

    return build


def write_report(path: str | os.PathLike[str], report: Mapping[str, Any]) -> None:
    """Write a report as JSON, in one step; what is not finite becomes null.

    Parameters
    ----------
    path : path
        The file.
    report : mapping
        Values of JSON's types.
    """
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(_finite(report), indent=2) + "\n", encoding="utf-8")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _with_tuples(metadata: Metadata) -> dict[str, Any]:
    """Arguments of a factory; JSON has no tuples, Python's shapes are tuples."""
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in metadata.arguments.items()
    }


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
