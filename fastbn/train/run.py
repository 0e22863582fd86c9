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
from fastbn.data import Dataset
from fastbn.distributed import Communicator
from fastbn.files import new_folder
from fastbn.nn import BatchNorm, CrossEntropyLoss, MSELoss
from fastbn.train import config as configs
from fastbn.train import inputs, metrics, page, plot, targets, weights
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
FILES = (CONFIG, WEIGHTS, LAST, HISTORY, REPORT, CURVES, PAGE)

LEARNING_RATES = {"adam": 1e-3, "adamw": 1e-3, "sgd": 0.05}
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
    ema : EMA or None
        Averages of the weights, where the config asks for them.
    """

    config: Config
    data: Dataset
    trainer: Trainer
    described: dict[str, Any]
    ema: optim.EMA | None = None

    @property
    def validation(self) -> Dataset | None:
        """The data, where they have a validation part."""
        return None if self.data.x_val is None else self.data

    def fit(self, callbacks: Iterable[Any], progress: bool | None) -> History:
        """Train as the config says."""
        config = self.config
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
        weights.save(net, Path(self.config.output) / WEIGHTS, **self.described)


def prepare(config: Config, communicator: Communicator | None = None) -> Run:
    """Load the data, build the network, and its trainer, which may be one of several ranks.

    Raises
    ------
    ValueError, OSError
        If an argument is wrong, or data are missing or damaged.
    """
    data = load_data(config)
    arguments: dict[str, Any] = {
        **_arguments(config),
        "input_shape": data.input_shape,
        "classes": data.outputs,
    }
    net = factory(config.model)(**arguments, rng=np.random.default_rng(config.seed))
    loss: Any = MSELoss()
    if data.classes:
        loss = CrossEntropyLoss(label_smoothing=config.label_smoothing)
    elif config.label_smoothing or config.class_weight:
        raise ValueError("label_smoothing and class_weight are for classes, these data have none")
    unit = None
    if not data.classes and targets.last_linear(net.build(data.input_shape)) is not None:
        data, unit = targets.normalized(data)
    error = metrics.mae if unit is None else targets.mae_in_unit(unit)
    kinds = () if data.classes else (error, metrics.r2)
    trainer = Trainer(
        net, loss, _optimizer(net, config), kinds, communicator=communicator, bn=config.bn
    )
    given = inputs.checked(
        net, loss, data, None, batch_size=config.batch_size, seed=0, drop_last=False, augment=None
    )
    assert given.steps is not None
    trainer.optimizer.lr = _learning_rate(config, -(-given.steps // config.accumulate))
    described: dict[str, Any] = {"classes": data.classes or None}
    if data.normalization is not None:
        described["input_normalization"] = data.normalization.as_dict()
    if unit is not None:
        described["target_normalization"] = unit.as_dict()
    if data.columns is not None:
        described["columns"] = data.columns.as_dict()
    if config.model not in models.names():
        described |= {"model": config.model, "arguments": arguments}
    ema = None if config.ema is None else optim.EMA(net, _decay(config.ema))
    return Run(config, data, trainer, described, ema)


def load_data(config: Config) -> Dataset:
    """Return the data of a config, split and normalised as it says."""
    names = ("target", "size", "channels")
    given = {name: value for name in names if (value := getattr(config, name)) is not None}
    data = datasets.load(config.data, **given)
    fraction = config.val_split
    if fraction is None:
        fraction = VAL_SPLIT if config.early_stopping is not None and data.x_val is None else 0.0
    if fraction:
        data = data.split(fraction, rng=config.seed)
    is_table = len(data.input_shape) == 1
    wanted = is_table if config.normalize is None else config.normalize
    return data.normalized() if wanted and data.normalization is None else data


def train(
    config: Config,
    *,
    overwrite: bool = False,
    resume: bool = False,
    callbacks: Iterable[Any] = (),
    progress: bool | None = None,
    environment: Mapping[str, Any] | None = None,
    communicator: Communicator | None = None,
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
    run = prepare(config, communicator)
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
    return finish(run, keeper.best_epoch, monitor.records, environment, times)


def report(
    folder: str | os.PathLike[str], environment: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Make the report of a run again, from its checkpoint, its weights and its data.

    Raises
    ------
    ValueError, OSError
        If there is no such run, it has no epoch yet, or the data are missing.
    """
    run = prepare(find(folder))
    keeper, monitor, times = Keeper(run, begun=True), Monitor(), RankTimes()
    interrupted = run.trainer.resume(Path(folder) / LAST)._resumed
    if not run.trainer.history.epochs:
        raise ValueError(f"{os.fspath(folder)}: there is nothing to report before the first epoch")
    for state in [] if interrupted is None else interrupted.callbacks:
        for callback in (keeper, monitor, times):
            if state["class"] == type(callback).__name__:
                callback.load_state_dict(state["state"])
    return finish(run, keeper.best_epoch, monitor.records, environment, times.records)


def finish(
    run: Run,
    best_epoch: int | None,
    records: list[dict[str, Any]],
    environment: Mapping[str, Any] | None,
    times: list[dict[str, Any]],
) -> dict[str, Any]:
    """Write what is known of a run whose best weights are in its folder; return the report."""
    config, trainer, folder = run.config, run.trainer, Path(run.config.output)
    trainer.net.load_state_dict(weights.read(folder / WEIGHTS)[0])
    rate = LEARNING_RATES[config.optimizer] if config.lr is None else config.lr
    known = {
        "model": config.model,
        "data": run.data.name or config.data,
        "epochs": config.epochs,
        "batch_size": config.batch_size,
        "optimizer": config.optimizer,
        "lr": rate,
        "final_lr": trainer.history.last.lr,
        "seed": config.seed,
        "best_epoch": best_epoch if run.ema is None else None,  # averages are of no epoch
        "arguments": asdict(config),
        "environment": dict(environment or {}),
        "monitor": records,
        "ranks": times,
    }
    told = describe(trainer, run.data, known)
    write_report(folder / REPORT, told)
    if plot.available():
        plot.training_curves(trainer.history, folder / CURVES)
    page.write(folder / PAGE, told, examples(trainer.net, run.data))
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
            weights.save(trainer.net, folder / WEIGHTS, **self.run.described)
        if trainer.history.epochs:
            CSVLog(folder / HISTORY).on_epoch_end(trainer)
        trainer.save(folder / LAST, **self.run.described)


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


def _learning_rate(config: Config, steps: int) -> float | Callable[[int], float]:
    """Return the learning rate or its schedule over epochs of so many steps."""
    rate = LEARNING_RATES[config.optimizer] if config.lr is None else config.lr
    final, kind = config.final_lr, config.schedule
    if kind is None:
        kind = "constant" if final is None else "exponential"
    if final is not None and not (rate > 0.0 and final > 0.0):
        raise ValueError(f"With final_lr, learning rates should be above 0, got {rate} and {final}")
    if final is not None and kind in {"constant", "one_cycle"}:
        raise ValueError(f"final_lr is for the schedules cosine and exponential, not for {kind}")
    total = config.epochs * steps
    schedule: Any
    if kind == "cosine":
        schedule = optim.schedules.cosine(rate, total, final or 0.0)
    elif kind == "one_cycle":
        schedule = optim.schedules.one_cycle(rate, total)
    elif kind == "exponential":
        if final is None:
            raise ValueError("the schedule exponential needs final_lr")
        factor = (final / rate) ** (1.0 / max(config.epochs - 1, 1))
        schedule = optim.schedules.step(rate, steps, factor)
    elif config.warmup:
        schedule = optim.schedules.constant(rate)
    else:
        return rate
    return optim.schedules.warmup(schedule, config.warmup) if config.warmup else schedule


def _decay(decay: float) -> Callable[[int], float]:
    """Return the decay of every update: it rises, as initial weights should not count for long."""
    return lambda updates: min(decay, (1.0 + updates) / (10.0 + updates))


def _optimizer(net: Any, config: Config) -> Any:
    kind = {"sgd": optim.SGD, "adam": optim.Adam, "adamw": optim.AdamW}[config.optimizer]
    settings: dict[str, Any] = {"momentum": 0.9} if config.optimizer == "sgd" else {}
    if config.weight_decay is not None:
        settings["weight_decay"] = config.weight_decay
    return kind(net.parameters(), **settings)


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
