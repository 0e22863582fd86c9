"""Monitor: what goes on inside a network while it trains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastbn import nn
from fastbn.nn.layerwise import outputs
from fastbn.train.callbacks import Callback

if TYPE_CHECKING:
    from fastbn.train.trainer import Trainer

Array = NDArray[Any]

PERCENTILES = (15, 50, 85)  # those of Ioffe & Szegedy (2015), Figure 1
SAMPLES = 64
FLAT = 0.01  # a sigmoid's or tanh's slope, of its largest, under which a value is saturated


class Monitor(Callback):
    """Look at the layers after every epoch: outputs, running statistics, dead and saturated units.

    The first samples of the training set go through the network layer by layer in inference mode;
    weights and statistics are not touched.

    Parameters
    ----------
    every : int, default 1
        Epochs from one look to the next.

    Attributes
    ----------
    records : list of dict
        For every look: "epoch"; "layers", by the path of a layer "percentiles" (the 15th, 50th and
        85th of all values of its output), and where it applies "dead" (share of the units, the
        last axis, that are 0 for all samples) or "saturated" (share of values on a sigmoid's or
        tanh's flat ends); "statistics", by the path of a BatchNorm the same percentiles of
        "running_mean" and "running_var" over the channels.

    Examples
    --------
    >>> from fastbn import data, models, train
    >>> digits = data.load("digits")
    >>> monitor = Monitor()
    >>> trainer = train.Trainer(models.mlp(digits.input_shape, rng=0))
    >>> _ = trainer.fit(digits, 2, callbacks=[monitor], rng=0)
    >>> [record["epoch"] for record in monitor.records], sorted(monitor.records[0]["statistics"])
    ([1, 2], ['2', '5'])
    """

    def __init__(self, every: int = 1) -> None:
        if every < 1:
            raise ValueError(f"every should be a positive integer, got {every}")
        self.every = every
        self.records: list[dict[str, Any]] = []
        self._x: Array | None = None

    def on_fit_begin(self, trainer: Trainer) -> None:
        """Take the samples to look at; ValueError where training has only batches."""
        assert trainer.plan is not None
        x = getattr(trainer.plan.batches, "x", None)
        if x is None:
            raise ValueError("Monitor looks at samples of the training set, but fit got batches")
        self._x = np.ascontiguousarray(x[:SAMPLES])
        self.records = []

    def on_epoch_end(self, trainer: Trainer) -> None:
        """Look."""
        epoch = trainer.history.last.epoch
        if epoch % self.every == 0 and self._x is not None:
            self.records.append({"epoch": epoch, **look(trainer.net, self._x)})

    def on_fit_end(self, trainer: Trainer) -> None:
        """Forget the samples."""
        self._x = None

    def state_dict(self) -> dict[str, Any]:
        """Return the records."""
        return {"records": self.records}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the records."""
        self.records = list(state["records"])


def look(net: nn.Module, x: Array) -> dict[str, Any]:
    """Return "layers" and "statistics" of a record of `Monitor`."""
    layers: dict[str, Any] = {}
    with net.evaluating():
        for path, layer, y in outputs(net, x):
            told: dict[str, Any] = {"class": type(layer).__name__, "percentiles": percentiles(y)}
            if isinstance(layer, nn.ReLU):
                told["dead"] = float((y.reshape(-1, y.shape[-1]) == 0).all(axis=0).mean())
            elif isinstance(layer, nn.Sigmoid):
                told["saturated"] = float((4.0 * y * (1.0 - y) < FLAT).mean())
            elif isinstance(layer, nn.Tanh):
                told["saturated"] = float((1.0 - y * y < FLAT).mean())
            layers[path] = told
    statistics = {
        path: {
            "running_mean": percentiles(layer.running_mean),
            "running_var": percentiles(layer.running_var),
        }
        for path, layer in net.named_modules()
        if isinstance(layer, nn.BatchNorm) and layer.running_mean is not None
    }
    return {"layers": layers, "statistics": statistics}


def percentiles(values: Any) -> list[float]:
    """Return the 15th, 50th and 85th percentile.

    Examples
    --------
    >>> percentiles(np.arange(101.0))
    [15.0, 50.0, 85.0]
    """
    return [float(value) for value in np.percentile(values, PERCENTILES)]
