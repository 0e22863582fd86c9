"""The same MLP in PyTorch and in Keras, from the same weights, and the plots that compare them."""

from __future__ import annotations

import importlib.util
import os
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import fastbn
from fastbn import nn
from fastbn.experiments.experiment import Drawn, Results

Rows = dict[str, list[Any]]


def installed() -> list[str]:
    """Return the peers that can run here."""

    def there(*modules: str) -> bool:
        return all(importlib.util.find_spec(module) is not None for module in modules)

    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    found = {"PyTorch": there("torch"), "Keras": there("keras", backend)}
    return [name for name, is_there in found.items() if is_there]


def pytorch(net: nn.Sequential, batches: Any, validation: Any, epochs: int, first: int) -> Rows:
    """Train PyTorch's network of the same layers, weights and batches."""
    import torch

    torch.set_num_threads(fastbn.get_num_threads())
    kinds: dict[type[nn.Module], Callable[[Any], Any]] = {
        nn.Flatten: lambda layer: torch.nn.Flatten(),
        nn.Linear: lambda layer: torch.nn.Linear(layer.in_features, layer.out_features),
        nn.BatchNorm: lambda layer: torch.nn.BatchNorm1d(
            layer.num_features, layer.eps, layer.momentum
        ),
        nn.ReLU: lambda layer: torch.nn.ReLU(),
    }
    model = torch.nn.Sequential(*(kinds[type(layer)](layer) for layer in net))
    model.load_state_dict({k: torch.from_numpy(v.copy()) for k, v in net.state_dict().items()})
    adam = torch.optim.Adam(model.parameters(), lr=1e-3)
    loss_of = torch.nn.CrossEntropyLoss()

    def step(x: Any, y: Any) -> float:
        adam.zero_grad()
        loss = loss_of(model(torch.from_numpy(x)), torch.from_numpy(y))
        loss.backward()
        adam.step()
        return float(loss.detach())

    def predict(x: Any) -> Any:
        model.eval()
        with torch.no_grad():
            logits = model(torch.from_numpy(x)).numpy()
        model.train()
        return logits

    return _run(step, predict, batches, validation, epochs, first)


def keras(net: nn.Sequential, batches: Any, validation: Any, epochs: int, first: int) -> Rows:
    """Train Keras' network of the same layers, weights and batches."""
    import keras

    layers: list[Any] = [keras.Input(batches.x.shape[1:])]
    weights: list[list[Any]] = []
    for layer in net:
        if isinstance(layer, nn.Flatten):
            layers.append(keras.layers.Flatten())
        elif isinstance(layer, nn.Linear):
            layers.append(keras.layers.Dense(layer.out_features))
        elif isinstance(layer, nn.BatchNorm):
            momentum = 1.0 - layer.momentum  # type: ignore[operator]
            layers.append(keras.layers.BatchNormalization(momentum=momentum, epsilon=layer.eps))
        else:
            layers.append(keras.layers.Activation("relu"))
        state = [value for name, value in layer.state_dict().items() if "num" not in name]
        weights.append([state[0].T, *state[1:]] if isinstance(layer, nn.Linear) else state)
    model = keras.Sequential(layers)
    for made, state in zip(model.layers, weights, strict=True):
        made.set_weights(state)
    model.compile(
        optimizer=keras.optimizers.Adam(1e-3),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Keras' own, of NumPy
        return _run(
            lambda x, y: float(model.train_on_batch(x, y)),
            lambda x: keras.ops.convert_to_numpy(model(x, training=False)),
            batches,
            validation,
            epochs,
            first,
            model.reset_metrics,
        )


PEERS: dict[str, Callable[..., Rows]] = {"PyTorch": pytorch, "Keras": keras}


def _run(
    step: Callable[..., float],
    predict: Callable[[Any], Any],
    batches: Any,
    validation: Any,
    epochs: int,
    first: int,
    before: Callable[[], None] = lambda: None,
) -> Rows:
    """Walk through the Trainer's batches and validation set with somebody else's step."""
    rows: Rows = {"first": [], "loss": [], "val_loss": [], "val_accuracy": [], "seconds": []}
    for epoch in range(epochs):
        begin = time.perf_counter()
        losses = []
        for x, y in batches.epoch(epoch):
            if len(x) > 1:  # as the Trainer: a single sample has no batch statistics
                before()
                losses.append((step(x, y), len(x)))
        rows["seconds"].append(time.perf_counter() - begin)
        if not epoch:
            rows["first"] = [loss for loss, _ in losses[:first]]
        rows["first"] += [None] * (first - len(rows["first"]))
        values, counts = zip(*losses, strict=True)
        rows["loss"].append(float(np.average(values, weights=counts)))
        logits = predict(validation.x)
        loss, _ = nn.CrossEntropyLoss()(np.ascontiguousarray(logits), validation.y)
        rows["val_loss"].append(float(loss))
        rows["val_accuracy"].append(float((logits.argmax(1) == validation.y).mean()))
    return rows


def draw(results: Results, ours: Sequence[str]) -> Drawn:
    """Yield curves over the epochs of ours and of the peers, and the accuracy of all networks."""
    from fastbn.experiments import plots

    names = [*ours, *(name for name in PEERS if name in results.networks)]
    epochs = range(1, results.settings.epochs + 1)
    drawn, axes = plots.figure("784-128-64-10, the first conventions beside the peers", 1, 3)
    for key, place in zip(("loss", "val_loss", "val_accuracy"), axes.flat, strict=True):
        for name in names:
            look = plots.style(name, names)
            plots.curve(place, epochs, results.series(name, key), name, look)
        place.set(title=key.replace("val_", "validation "), xlabel="epoch")
    axes[0, 0].set(yscale="log")
    axes[0, 1].set(yscale="log")
    axes[0, 0].legend(fontsize=7)
    yield "curves", drawn

    drawn, axes = plots.figure("Validation accuracy at the end", 1, 1, panel=(8, 5))
    values = [results.series(name, "final_accuracy") for name in results.networks]
    looks = [plots.style(name.partition(",")[0], names) for name in results.networks]
    plots.bars(axes[0, 0], results.networks, values, looks)
    low = min(float(value.min()) for value in values)
    axes[0, 0].set(xlabel="accuracy", xlim=(max(0.0, low - 0.02), 1))
    yield "accuracy", drawn
