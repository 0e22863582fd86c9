"""Fine-tuning: a network with weights gets a new head; what is frozen is computed once.

A `Source` opens the network. `Tuning` gives it its head and freezes what is to stay; of a network
whose first layers are all frozen, the rest is trained on their outputs.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbn import models
from fastbn.data import Dataset, Normalization
from fastbn.data.rows import Samples
from fastbn.models.torch_weights import shapes_of
from fastbn.nn import BatchNorm, Conv2d, Conv3d, Linear, Module
from fastbn.nn.conv1d import Conv1d
from fastbn.nn.conv_transpose import ConvTranspose2d
from fastbn.nn.parts import cut, head_of, with_new_head
from fastbn.train import recipe, weights
from fastbn.train.callbacks import Callback
from fastbn.train.config import Config
from fastbn.train.factory import factory
from fastbn.train.progress import Lines
from fastbn.train.trainer import Trainer

Array = NDArray[Any]
Shape = tuple[int, ...]

AT_A_TIME = 256  # samples whose features are computed
MOST_BYTES = 1 << 31  # of features that are kept; beyond, they are computed at every step
WEIGHTED = (Conv1d, Conv2d, Conv3d, ConvTranspose2d, Linear)  # what `freeze` counts


@dataclass(frozen=True)
class Source:
    """A network that has been trained on something else.

    Attributes
    ----------
    open : callable
        Takes the shape of a sample, returns the network for it, with its weights and its old head.
    input_shape : tuple of int or None
        What it was made for.
    pixels : Normalization or None
        What it expects of samples.
    described : dict
        What a file of weights is to say of the model, where the network does not know it itself.
    """

    open: Callable[[Shape], Module]
    input_shape: Shape | None = None
    pixels: Normalization | None = None
    described: dict[str, Any] | None = None


def source(config: Config) -> Source:
    """Return what a config names: a file of weights of its own, or a model and its weights.

    Raises
    ------
    ValueError, OSError
        If there is no such file, or the model of it is not known.
    """
    metadata: weights.Metadata | None
    if config.model.endswith(".safetensors"):
        metadata = weights.read(config.model)[1]
        name = metadata.model or ""
        if name not in models.names():
            raise ValueError(
                f"{config.model}: the network was made by {name or 'an unnamed factory'}, which is "
                "not in fastbn.models: name package.module:factory and this file as --weights"
            )
        if config.weights is not None:
            raise ValueError(f"{config.model} has weights already; leave --weights out")
        file = config.model
    else:
        if config.weights is None:
            raise ValueError(f"name the weights of {config.model} with --weights FILE")
        name, file = config.model, config.weights
        metadata = _own_metadata(file)
    build = factory(name)
    arguments = {**({} if metadata is None else metadata.arguments), **config.set}
    arguments["classes"] = _outputs(build, {**arguments, "classes": 1}, file)

    def opened(input_shape: Shape) -> Module:
        net = build(**{**arguments, "input_shape": input_shape})
        net.build(input_shape)
        models.load_torch(net, file)
        return net

    shape = None if metadata is None else metadata.input_shape
    if shape is None and name in models.names():
        shape = inspect.signature(getattr(models, name)).parameters["input_shape"].default
    pixels = None
    if metadata is not None:
        if metadata.input_normalization:
            pixels = Normalization.from_dict(metadata.input_normalization)
    elif (known := models.pixels_of(name)) is not None:
        pixels = Normalization(*(np.array(values) for values in known))
    described = None if name in models.names() else {"model": name, "arguments": arguments}
    return Source(opened, None if shape is None else tuple(shape), pixels, described)


def _own_metadata(path: str) -> weights.Metadata | None:
    """Return what a file of this library says of its network; None of another one's."""
    if Path(path).suffix == ".safetensors":
        try:
            return weights.read(path)[1]
        except ValueError:
            return None
    return None


def _outputs(build: Callable[..., Module], arguments: dict[str, Any], path: str) -> int:
    """Return how many outputs the head has whose weights are in a file."""
    net = build(**{"input_shape": (224, 224, 3), **arguments})
    name = f"{head_of(net).path}.weight"
    shapes = shapes_of(path)
    if name not in shapes:
        raise ValueError(f"{os.fspath(path)}: has no {name}, the weights of the network's head")
    return shapes[name][0]


class Tuning:
    """A network with a new head, and what of it is trained.

    Parameters
    ----------
    net : Module
        With its old head.
    outputs : int
    config : Config
        `freeze`, `norms` and `seed` of it.

    Attributes
    ----------
    net, head : Module
        The network, and its new last layer.
    frozen : set of Module
        Layers that stay as they are.
    """

    def __init__(self, net: Module, outputs: int, config: Config) -> None:
        self.net = net
        self.head = with_new_head(net, outputs, np.random.default_rng(config.seed))
        if net.factory is not None:
            name, arguments = net.factory
            net.factory = name, {**arguments, "classes": outputs}
        assert config.freeze is not None
        self.frozen = set(self._layers_to_freeze(config.freeze))
        for layer in self.frozen:
            layer.requires_grad_(False)
        for layer in net.modules():
            if (
                isinstance(layer, BatchNorm)
                and (layer in self.frozen or config.norms == "frozen")
                and layer.running_mean is not None
            ):
                layer.freeze()

    def _layers_to_freeze(self, freeze: str) -> Iterator[Module]:
        """Yield all layers but the head; or the first so many, with their norms."""
        left = {"none": 0, "backbone": None}.get(freeze, -1)
        left = int(freeze) if left == -1 else left
        if left == 0:
            return
        for layer in self.net.modules():
            if next(layer.own_parameters(), None) or next(layer.own_buffers(), None):
                if isinstance(layer, WEIGHTED) and left is not None:
                    left -= 1
                if layer is self.head or (left is not None and left < 0):
                    return
                yield layer

    def groups(self) -> list[dict[str, Any]]:
        """Return the parameters that are trained: those of the head, and the others if any."""
        head = self.head.parameters()
        own = {id(parameter) for parameter in head}
        others = [p for p in self.net.parameters() if p.requires_grad and id(p) not in own]
        return [{"params": head}, *([{"params": others}] if others else [])]

    def trained(self, data: Dataset, *, head_only: bool = False) -> tuple[Module, Dataset]:
        """Return what of the network is trained, and the data for it: features, or as they are.

        Parameters
        ----------
        data : Dataset
        head_only : bool
            Whether all else is taken as frozen.
        """
        fixed = self.frozen
        if head_only:
            fixed = {module for module in self.net.modules() if module is not self.head}
        parts = cut(self.net, fixed)
        if parts is None:
            return self.net, data
        front, rest = parts
        shape = front.output_shape(data.input_shape)
        rows = len(data.x_train) + (0 if data.x_val is None else len(data.x_val))
        if rows * int(np.prod(shape)) * 4 > MOST_BYTES:
            return self.net, data
        rest.build(shape)
        return rest, replace(
            data,
            x_train=features(front, data.x_train),
            x_val=None if data.x_val is None else features(front, data.x_val),
            x_test=np.zeros((0, *shape), np.float32),
            y_test=data.y_test[:0],
            normalization=None,
            columns=None,
        )


def features(front: Module, x: Samples) -> Array:
    """Return what the first layers make of samples, which may lie on the disk."""
    blocks = range(0, len(x), AT_A_TIME)
    return np.concatenate([front.predict(np.asarray(x[i : i + AT_A_TIME])) for i in blocks])


def fit_head(
    tuning: Tuning,
    samples: Dataset,
    main: Trainer,
    config: Config,
    callbacks: Iterable[Any],
    progress: bool | None,
) -> None:
    """Train the new head alone, at a constant learning rate, before `main` trains all else."""
    part, data = tuning.trained(samples, head_only=True)
    optimizer = recipe.optimizer([{"params": tuning.head.parameters()}], config)
    optimizer.lr = recipe.base_rate(config)
    Trainer(part, main.loss, optimizer, main.metrics).fit(
        data,
        config.head_epochs,
        config.batch_size,
        None if data.x_val is None else data,
        callbacks=[*(c for c in callbacks if isinstance(c, Lines)), StopWith(main)],
        rng=config.seed,
        class_weight=config.class_weight,
        progress=progress,
    )


class StopWith(Callback):
    """Stops a training when another trainer is to stop."""

    def __init__(self, other: Trainer) -> None:
        self.other = other

    def on_step(self, trainer: Trainer) -> None:
        """Stop if the other one is to."""
        trainer.should_stop = self.other.should_stop
