"""What is known of a run when it is over, and reports as JSON files."""

from __future__ import annotations

import copy
import json
import math
import os
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastbn.data import Dataset
from fastbn.data.rows import Samples
from fastbn.files import atomic
from fastbn.nn import Module
from fastbn.nn.layerwise import calls
from fastbn.train.png import png

if TYPE_CHECKING:
    from fastbn.train.trainer import Trainer

Array = NDArray[Any]

AT_A_TIME = 1024  # samples
ROUNDS = 5
ROWS = 32  # of the batch that times layers
EXAMPLES, PAIRS, OF_A_PAIR = 24, 3, 8  # images that are shown


def describe(trainer: Trainer, data: Dataset, told: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a report says of a trained network.

    Parameters
    ----------
    trainer : Trainer
        Its network has the weights to describe.
    data : Dataset
        The test part is looked at, if it has samples.
    told : mapping
        What is known besides, to stand first.

    Returns
    -------
    dict
        Of JSON's types.
    """
    report = dict(told)
    if len(data.x_test):
        test = trainer.evaluate(data)
        report |= {"test_loss": test.loss, "test_accuracy": test.accuracy}
        report |= {f"test_{name}": value for name, value in test.metrics.items()}
        if data.classes:
            guesses = predicted(trainer.net, data.x_test).argmax(axis=1)
            report |= classification(data.y_test, guesses, data.classes)
    history = trainer.history
    net = trainer.net
    return report | {
        "steps": history.steps,
        "seconds": history.seconds,
        "images_per_second": history.images_per_second,
        "parameters": sum(parameter.size for parameter in net.parameters()),
        "history": history.as_rows(),
        "layer_times": layer_times(net, np.asarray(data.x_train[:ROWS])),
    }


def predicted(net: Module, x: Samples) -> Array:
    """Return the outputs for samples that may lie on the disk."""
    blocks = range(0, len(x), AT_A_TIME)
    return np.concatenate([net.predict(np.asarray(x[i : i + AT_A_TIME])) for i in blocks])


def classification(truth: Array, guesses: Array, classes: Iterable[str]) -> dict[str, Any]:
    """Return the confusion matrix, true classes in rows, and the numbers of every class.

    Examples
    --------
    >>> found = classification(np.array([0, 0, 1]), np.array([0, 1, 1]), ["a", "b"])
    >>> found["confusion"], found["per_class"][1]["precision"]
    ([[1, 1], [0, 1]], 0.5)
    """
    names = list(classes)
    matrix = np.zeros((len(names), len(names)), np.int64)
    np.add.at(matrix, (truth, guesses), 1)
    right, true, guessed = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    rows = [
        {
            "class": name,
            "count": int(true[index]),
            "precision": float(right[index] / guessed[index]) if guessed[index] else None,
            "recall": float(right[index] / true[index]) if true[index] else None,
            "f1": float(2 * right[index] / total)
            if (total := true[index] + guessed[index])
            else None,
        }
        for index, name in enumerate(names)
    ]
    return {"classes": names, "confusion": matrix.tolist(), "per_class": rows}


def layer_times(net: Module, x: Array) -> list[dict[str, Any]]:
    """Return the time of every layer's forward and backward, each by itself, in microseconds."""
    net = copy.deepcopy(net).train()
    times = []
    for path, layer, given, y in calls(net, x):
        forward, backward = [], []
        dy = np.ones_like(y)
        for _ in range(ROUNDS):
            begin = time.perf_counter()
            layer(*given)
            middle = time.perf_counter()
            layer.backward(dy)
            end = time.perf_counter()
            forward.append(middle - begin)
            backward.append(end - middle)
        name = f"{path} {type(layer).__name__}({layer.extra_repr()})"
        rounds = {"forward_us": forward, "backward_us": backward}
        times.append({"layer": name} | {k: 1e6 * float(np.median(v)) for k, v in rounds.items()})
    return times


def examples(net: Module, data: Dataset) -> dict[str, Any]:
    """Return the most wrong test images, and some of the most confused pairs of classes.

    Returns
    -------
    dict
        "wrong": images that got the least probability for their class; "confused": "pair",
        "count" and "images". Empty where the data are no images of classes.
    """
    channels = data.input_shape[-1]
    if not (
        data.classes and len(data.input_shape) == 3 and channels in {1, 3} and len(data.x_test)
    ):
        return {}
    logits = predicted(net, data.x_test).astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    shares = np.exp(logits)
    shares /= shares.sum(axis=1, keepdims=True)
    guesses, truth = shares.argmax(axis=1), data.y_test
    right = shares[np.arange(len(truth)), truth]
    wrong = np.flatnonzero(guesses != truth)
    wrong = wrong[np.argsort(right[wrong], kind="stable")]

    def image(row: Any) -> dict[str, Any]:
        pixels = np.asarray(data.x_test[row : row + 1], np.float64)[0]
        if data.normalization is not None:
            told = data.normalization.as_dict()
            pixels = pixels * told["std"] + told["mean"]
        return {
            "png": png(pixels),
            "row": int(row),
            "truth": data.classes[truth[row]],
            "guess": data.classes[guesses[row]],
            "confidence": float(shares[row, guesses[row]]),
        }

    pairs, counts = np.unique(
        np.stack([truth[wrong], guesses[wrong]], axis=1), axis=0, return_counts=True
    )
    confused = []
    for index in np.argsort(-counts, kind="stable")[:PAIRS]:
        first, second = pairs[index]
        rows = [row for row in wrong if truth[row] == first and guesses[row] == second]
        confused.append(
            {
                "pair": f"{data.classes[first]} taken for {data.classes[second]}",
                "count": int(counts[index]),
                "images": [image(row) for row in rows[:OF_A_PAIR]],
            }
        )
    return {"wrong": [image(row) for row in wrong[:EXAMPLES]], "confused": confused}


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
        temporary.write_text(json.dumps(finite(report), indent=2) + "\n", encoding="utf-8")


def finite(value: Any) -> Any:
    """Return a value of JSON's types; numbers that are not finite become None."""
    if isinstance(value, Mapping):
        return {name: finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
