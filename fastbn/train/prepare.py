"""What a `Config` stands for: its data, its network, and the trainer of both."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastbn import data as datasets
from fastbn import models, optim
from fastbn.data import Dataset, Normalization
from fastbn.data.folder import is_image_folder
from fastbn.distributed import Communicator
from fastbn.nn import BatchNorm, CrossEntropyLoss, Module, MSELoss
from fastbn.train import config as configs
from fastbn.train import finetune, inputs, metrics, recipe, targets, weights
from fastbn.train.callbacks import EarlyStopping
from fastbn.train.config import Config
from fastbn.train.factory import factory
from fastbn.train.folder import WEIGHTS
from fastbn.train.history import History
from fastbn.train.trainer import Trainer

VAL_SPLIT = 0.1  # where early stopping needs a validation set and the data have none


@dataclass
class Run:
    """What a `Config` stands for.

    Attributes
    ----------
    config : Config
    data : Dataset
        Split and normalised.
    trainer : Trainer
    described : dict
        What the files of weights say besides.
    tuning : Tuning or None
        In fine-tuning, the whole network; the trainer may have a part of it, and features as data.
    samples : Dataset
        The data as the whole network takes them.
    ema : EMA or None
        Averages of the weights, where the config asks for them.
    """

    config: Config
    data: Dataset
    trainer: Trainer
    described: dict[str, Any]
    tuning: finetune.Tuning | None
    samples: Dataset
    ema: optim.EMA | None = None

    @property
    def net(self) -> Module:
        """The whole network."""
        return self.trainer.net if self.tuning is None else self.tuning.net

    @property
    def validation(self) -> Dataset | None:
        """The data, where they have a validation part."""
        return None if self.data.x_val is None else self.data

    def whole_trainer(self) -> Trainer:
        """Return a trainer of the whole network that has the history of the one that trained."""
        trainer = self.trainer
        if trainer.net is self.net:
            return trainer
        whole = Trainer(self.net, trainer.loss, trainer.optimizer, trainer.metrics)
        whole.history, whole.steps = trainer.history, trainer.steps
        return whole

    def fit(self, callbacks: Iterable[Any], progress: bool | None) -> History:
        """Train as the config says."""
        config = self.config
        callbacks = [*callbacks]
        if config.head_epochs and not self.trainer.steps:
            assert self.tuning is not None
            finetune.fit_head(self.tuning, self.samples, self.trainer, config, callbacks, progress)
            if self.trainer.should_stop:
                return self.trainer.history
        names = [getattr(datasets.augment, name)() for name in config.augment]
        stopping = [] if config.early_stopping is None else [EarlyStopping(config.early_stopping)]
        averages = [] if self.ema is None else [self.ema]
        return self.trainer.fit(
            self.data,
            config.epochs,
            config.batch_size,
            self.validation,
            callbacks=[*averages, *stopping, *callbacks],
            rng=config.seed,
            augment=datasets.augment.compose(*names) if names else None,
            accumulate=config.accumulate,
            clip_norm=config.clip_norm,
            class_weight=config.class_weight,
            max_seconds=config.max_seconds,
            progress=progress,
        )

    def save_averages(self) -> None:
        """Give the network its averages, and write them in the place of the best weights.

        Batch statistics are those of training samples without augmentation, as in inference.
        """
        assert self.ema is not None
        net, batches = self.trainer.net, self.data.batches(self.config.batch_size, rng=0)
        norms = any(isinstance(module, BatchNorm) for module in net.modules())
        self.ema.apply((x for x, _ in batches if len(x) > 1) if norms else None)
        weights.save(self.net, Path(self.config.output) / WEIGHTS, **self.described)


def prepare(
    config: Config,
    communicator: Communicator | None = None,
    source: finetune.Source | None = None,
) -> Run:
    """Load the data, build the network, and its trainer, which may be one of several ranks.

    Parameters
    ----------
    config : Config
    communicator : Communicator, optional
        The other ranks.
    source : Source, optional
        In fine-tuning, the network with its weights; by default what `finetune.source` finds.

    Raises
    ------
    ValueError, OSError
        If an argument is wrong, or data are missing or damaged.
    """
    if config.freeze is not None and source is None:
        source = finetune.source(config)
    samples = load_data(config, source, communicator)
    loss: Any = MSELoss()
    if samples.classes:
        loss = CrossEntropyLoss(label_smoothing=config.label_smoothing)
    elif config.label_smoothing or config.class_weight:
        raise ValueError("label_smoothing and class_weight are for classes, these data have none")
    described = _described(samples)
    tuning = None
    if source is None:
        arguments: dict[str, Any] = {
            **_arguments(config),
            "input_shape": samples.input_shape,
            "classes": samples.outputs,
        }
        net = factory(config.model)(**arguments, rng=np.random.default_rng(config.seed))
        groups = [{"params": net.parameters()}]
        if config.model not in models.names():
            described |= {"model": config.model, "arguments": arguments}
    else:
        tuning = finetune.Tuning(source.open(samples.input_shape), samples.outputs, config)
        net, groups = tuning.net, tuning.groups()
        if source.described is not None:
            described |= source.described
            described["arguments"] = {
                **described["arguments"],
                "input_shape": samples.input_shape,
                "classes": samples.outputs,
            }
    unit = None
    if not samples.classes and targets.last_linear(net.build(samples.input_shape)) is not None:
        samples, unit = targets.normalized(samples)
        described["target_normalization"] = unit.as_dict()
    error = metrics.mae if unit is None else targets.mae_in_unit(unit)
    kinds = () if samples.classes else (error, metrics.r2)
    data = samples
    if tuning is not None and not config.augment:  # augmented images always have other features
        net, data = tuning.trained(samples)
    optimizer = recipe.optimizer(groups, config)
    trainer = Trainer(net, loss, optimizer, kinds, communicator=communicator, bn=config.bn)
    given = inputs.checked(
        net, loss, data, None, batch_size=config.batch_size, seed=0, drop_last=False, augment=None
    )
    assert given.steps is not None
    recipe.set_rates(trainer.optimizer, config, -(-given.steps // config.accumulate))
    ema = None if config.ema is None else optim.EMA(net, recipe.decay(config.ema))
    return Run(config, data, trainer, described, tuning, samples, ema)


def _described(data: Dataset) -> dict[str, Any]:
    """Return what files of weights say of the data."""
    described: dict[str, Any] = {"classes": data.classes or None}
    if data.normalization is not None:
        described["input_normalization"] = data.normalization.as_dict()
    if data.columns is not None:
        described["columns"] = data.columns.as_dict()
    return described


def load_data(
    config: Config,
    source: finetune.Source | None = None,
    communicator: Communicator | None = None,
) -> Dataset:
    """Return the data of a config, split and normalised as it says, else as a source's were."""
    names = ("target", "size", "channels")
    given: dict[str, Any] = {
        name: value for name in names if (value := getattr(config, name)) is not None
    }
    if source is not None and len(source.input_shape or ()) == 3 and is_images(config.data):
        assert source.input_shape is not None
        given = {"size": source.input_shape[:2], "channels": source.input_shape[2], **given}
    data = datasets.load(config.data, **given, communicator=communicator)
    fraction = config.val_split
    if fraction is None:
        fraction = VAL_SPLIT if config.early_stopping is not None and data.x_val is None else 0.0
    if fraction:
        data = data.split(fraction, rng=config.seed)
    if data.normalization is not None:
        return data
    if config.mean:
        return data.normalized(Normalization(np.array(config.mean), np.array(config.std)))
    if config.normalize is None and source is not None and source.pixels is not None:
        return data.normalized(source.pixels)
    is_table = len(data.input_shape) == 1
    wanted = is_table if config.normalize is None else config.normalize
    return data.normalized(communicator=communicator) if wanted else data


def is_images(name: str) -> bool:
    """Tell whether data are a folder of images, which can have any size."""
    return Path(name).is_dir() and is_image_folder(Path(name))


def _arguments(config: Config) -> dict[str, Any]:
    """Return the arguments of the model, as it knows them."""
    if config.model not in models.names():
        return dict(config.set)
    parameters = inspect.signature(getattr(models, config.model)).parameters
    arguments = {}
    for name, value in config.set.items():
        if name not in parameters:
            raise ValueError(f"set {name}: {configs.no_such(name, parameters)}")
        several = isinstance(parameters[name].default, tuple)
        arguments[name] = tuple(np.atleast_1d(value).tolist()) if several else value
    return arguments
