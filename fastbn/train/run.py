"""One run of training, from a `Config` to a folder of files: what ``fastbn train`` does.

The folder appears, whole, with the first checkpoint: until then a run that is to be replaced stays
as it is, and no folder ever holds files of two runs.
"""

from __future__ import annotations

import inspect
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from fastbn import data as datasets
from fastbn import models, optim
from fastbn.data import Dataset, Normalization
from fastbn.data.folder import is_image_folder
from fastbn.distributed import Communicator
from fastbn.files import new_folder
from fastbn.nn import BatchNorm, CrossEntropyLoss, Module, MSELoss
from fastbn.train import config as configs
from fastbn.train import finetune, inputs, metrics, page, picture, plot, recipe, targets, weights
from fastbn.train.callbacks import Checkpoint, CSVLog, EarlyStopping
from fastbn.train.config import Config
from fastbn.train.factory import factory
from fastbn.train.guard import NotFiniteError
from fastbn.train.history import History
from fastbn.train.monitor import Monitor
from fastbn.train.ranks import RankTimes
from fastbn.train.report import describe, examples, write_report
from fastbn.train.trainer import Trainer

CONFIG = "config.toml"
WEIGHTS = "model.safetensors"
LAST = "last.safetensors"
HISTORY = "history.csv"
REPORT = "report.json"
CURVES = "training.png"
PAGE = "report.html"
ONNX = "model.onnx"  # of fine-tuning
FILES = (CONFIG, WEIGHTS, LAST, HISTORY, REPORT, CURVES, PAGE, ONNX)

VAL_SPLIT = 0.1  # where early stopping needs a validation set and the data have none


class InterruptedRun(Exception):  # noqa: N818 – nothing went wrong
    """A signal ended the run; a checkpoint has been written.

    Attributes
    ----------
    signum : int
        SIGINT or SIGTERM.
    """

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.signum = signum


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
    samples = load_data(config, source)
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


def load_data(config: Config, source: finetune.Source | None = None) -> Dataset:
    """Return the data of a config, split and normalised as it says, else as a source's were."""
    names = ("target", "size", "channels")
    given: dict[str, Any] = {
        name: value for name in names if (value := getattr(config, name)) is not None
    }
    if source is not None and len(source.input_shape or ()) == 3 and is_images(config.data):
        assert source.input_shape is not None
        given = {"size": source.input_shape[:2], "channels": source.input_shape[2], **given}
    data = datasets.load(config.data, **given)
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
    return data.normalized() if wanted else data


def is_images(name: str) -> bool:
    """Tell whether data are a folder of images, which can have any size."""
    return Path(name).is_dir() and is_image_folder(Path(name))


def train(
    config: Config,
    *,
    overwrite: bool = False,
    resume: bool = False,
    callbacks: Iterable[Any] = (),
    progress: bool | None = None,
    environment: Mapping[str, Any] | None = None,
    communicator: Communicator | None = None,
    source: finetune.Source | None = None,
    exporter: Callable[[Run], Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Train as a config says, and write what is known of it into a folder.

    Of several ranks, the first writes the files. A run that they did not bring to its end goes on
    when they are asked for the same again.

    Parameters
    ----------
    config : Config
    overwrite : bool
        Whether a run that is in the folder may be replaced.
    resume : bool
        Whether a run that is in the folder goes on.
    callbacks, progress
        As of `fastbn.train.Trainer.fit`.
    environment : mapping, optional
        What the report says of the machine.
    communicator : Communicator, optional
        The other ranks, who all call this.
    source : Source, optional
        As of `prepare`.
    exporter : callable, optional
        Called with the run when its best weights are in the network; what it returns goes into
        the report.

    Returns
    -------
    dict
        What ``report.json`` contains; of a rank that is not the first, nothing.

    Raises
    ------
    ValueError, OSError
        If an argument is wrong, data are missing or damaged, files cannot be written, or there is
        a run already.
    NotFiniteError
        If a loss or a gradient is not finite. The weights of the epochs before stay.
    InterruptedRun
        If SIGINT or SIGTERM came.
    """
    folder = Path(config.output)
    first = communicator is None or communicator.rank == 0
    if communicator is not None:
        resume = _goes_on(communicator, resume or (not overwrite and first and _is_of(config)))
    if not resume and first:
        _require_no_run(folder, overwrite)
    run = prepare(config, communicator, source)
    trainer = run.trainer
    if resume:
        trainer.resume(folder / LAST)
    keeper = Keeper(run, begun=resume)
    monitor = Monitor()
    with interruptible(trainer) as received, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the run that was resumed has its")
        try:
            run.fit([*callbacks, monitor, keeper], progress)
        except NotFiniteError:
            keeper.save_if_begun(trainer)
            raise
        stopped = communicator is not None and trainer.should_stop
    plan = trainer.plan
    if received and plan is None:
        raise InterruptedRun("interrupted while the head was trained: start anew", received[0])
    assert plan is not None
    if (received or stopped) and not plan.over:
        raise InterruptedRun(
            f"interrupted at step {trainer.steps}: fastbn train --resume {folder} goes on",
            received[0] if received else signal.SIGINT,
        )
    if not first:
        return {}
    times = next((c.records for c in plan.callbacks if isinstance(c, RankTimes)), [])
    trainer.ranks = None  # the others have no part in what follows
    if run.ema is not None:
        run.save_averages()
    return finish(run, keeper.best_epoch, monitor.records, environment, times, exporter)


def report(
    folder: str | os.PathLike[str],
    environment: Mapping[str, Any] | None = None,
    source: finetune.Source | None = None,
    exporter: Callable[[Run], Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Make the report of a run again, from its checkpoint, its weights and its data.

    Raises
    ------
    ValueError, OSError
        If there is no such run, it has no epoch yet, or the data are missing.
    """
    run = prepare(find(folder), source=source)
    keeper, monitor, times = Keeper(run, begun=True), Monitor(), RankTimes()
    interrupted = run.trainer.resume(Path(folder) / LAST)._resumed
    if not run.trainer.history.epochs:
        raise ValueError(f"{os.fspath(folder)}: there is nothing to report before the first epoch")
    for state in [] if interrupted is None else interrupted.callbacks:
        for callback in (keeper, monitor, times):
            if state["class"] == type(callback).__name__:
                callback.load_state_dict(state["state"])
    return finish(run, keeper.best_epoch, monitor.records, environment, times.records, exporter)


def finish(
    run: Run,
    best_epoch: int | None,
    records: list[dict[str, Any]],
    environment: Mapping[str, Any] | None,
    times: list[dict[str, Any]],
    exporter: Callable[[Run], Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Write what is known of a run whose best weights are in its folder; return the report."""
    config, folder = run.config, Path(run.config.output)
    trainer = run.whole_trainer()
    trainer.net.load_state_dict(weights.read(folder / WEIGHTS)[0])
    known = {
        "model": config.model,
        "data": run.samples.name or config.data,
        "epochs": config.epochs,
        "batch_size": config.batch_size,
        "optimizer": config.optimizer,
        "lr": recipe.base_rate(config),
        "final_lr": trainer.history.last.lr,
        "seed": config.seed,
        "best_epoch": best_epoch if run.ema is None else None,  # averages are of no epoch
        "arguments": asdict(config),
        "environment": dict(environment or {}),
        "monitor": records,
        "ranks": times,
    }
    told = describe(trainer, run.samples, known)
    if exporter is not None:
        told |= exporter(run)
    write_report(folder / REPORT, told)
    if plot.available():
        plot.training_curves(trainer.history, folder / CURVES)
    pictures = examples(trainer.net, run.samples)
    page.write(folder / PAGE, told, {**pictures, "network": picture.svg(trainer.net)})
    return told


class Keeper(Checkpoint):
    """Writes the folder of a run: checkpoints, the best weights, and the history.

    Parameters
    ----------
    run : Run
    begun : bool
        Whether the folder holds this run already.
    """

    def __init__(self, run: Run, begun: bool) -> None:
        self.run = run
        self.begun = begun
        self.folder = Path(run.config.output)
        monitor = "loss" if run.validation is None else "val_loss"
        super().__init__(self.folder / LAST, run.config.save_every, monitor=monitor)

    def on_fit_begin(self, trainer: Trainer) -> None:
        """Begin anew."""
        self._reset()
        self._saved_at = None

    def on_epoch_end(self, trainer: Trainer) -> None:
        """Write the weights if they are the best, then the history, then the checkpoint."""
        if self.improved(trainer) or self.run.validation is None:
            self.best_epoch = trainer.history.last.epoch
            self._write(trainer, best=True)
        else:
            self._write(trainer)

    def _save(self, trainer: Trainer) -> None:
        self._write(trainer)

    def save_if_begun(self, trainer: Trainer) -> None:
        """Write a checkpoint, but for a run that has shown nothing yet no folder of its own."""
        if self.begun or not self.folder.exists():
            self._write(trainer)

    def _write(self, trainer: Trainer, best: bool = False) -> None:
        if not trainer.is_first:
            pass
        elif self.begun:
            self._write_into(self.folder, trainer, best)
        else:
            with new_folder(self.folder, replace=FILES) as folder:
                text = configs.text_of(self.run.config)
                (folder / CONFIG).write_text(text, encoding="utf-8")
                self._write_into(folder, trainer, best)
            self.begun = True
        self._saved_at = trainer.steps, len(trainer.history.epochs)

    def _write_into(self, folder: Path, trainer: Trainer, best: bool) -> None:
        if best:
            weights.save(self.run.net, folder / WEIGHTS, **self.run.described)
        if trainer.history.epochs:
            CSVLog(folder / HISTORY).on_epoch_end(trainer)
        described = self.run.described
        if trainer.net is not self.run.net:  # a part, which no model makes
            described = {}
        trainer.save(folder / LAST, **described)


@contextmanager
def interruptible(trainer: Trainer) -> Iterator[list[int]]:
    """Stop the trainer behind its step when SIGINT or SIGTERM comes; give what has come.

    A second signal ends the process as it would have without.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received  # signals are the main thread's
        return
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}

    def stop(signum: int, frame: FrameType | None) -> None:
        received.append(signum)
        trainer.should_stop = True
        for each, handler in before.items():
            signal.signal(each, handler)

    for signum in before:
        signal.signal(signum, stop)
    try:
        yield received
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _is_of(config: Config) -> bool:
    """Tell whether the folder holds a run of this very config that has not come to its end."""
    folder = Path(config.output)
    if not (folder / LAST).is_file() or (folder / REPORT).exists():
        return False
    try:
        return find(folder) == config
    except (OSError, ValueError):
        return False


def _goes_on(communicator: Communicator, wanted: bool) -> bool:
    """Return what the first rank has seen, for the folder may be on its machine alone."""
    told = np.array([wanted])
    communicator.broadcast(told)
    return bool(told[0])


def _require_no_run(folder: Path, overwrite: bool) -> None:
    """Raise FileExistsError if a folder holds what this run must not replace."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; name a folder")
    names = {entry.name for entry in folder.iterdir() if not entry.name.startswith(".")}
    if names & set(FILES) and not overwrite:
        raise FileExistsError(
            f"{folder} holds a run: --resume {folder} goes on with it, --overwrite replaces it, "
            "or name another --output"
        )
    if others := sorted(names - set(FILES)):
        raise FileExistsError(
            f"{folder} holds {', '.join(others[:3])}, which is no part of a run: name another "
            "--output"
        )


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


def find(folder: str | os.PathLike[str]) -> Config:
    """Return the config of a run's folder, with that folder as its output.

    Raises
    ------
    FileNotFoundError
        If there is no run.
    """
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{os.fspath(folder)}: no run of fastbn train, it has no {CONFIG}")
    return configs.from_values({**configs.read(path), "output": os.fspath(folder)}, str(path))
