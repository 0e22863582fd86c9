"""Callbacks: when they are called, what they stop, keep, change and write."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastbn import models, optim, train
from fastbn.train import Trainer


def blobs(rows: int = 300, seed: int = 0) -> tuple[Any, Any]:
    """Four overlapping clouds of points in six dimensions."""
    centres = np.random.default_rng(0).standard_normal((4, 6))
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, rows)
    return (centres[labels] + rng.standard_normal((rows, 6))).astype(np.float32), labels


def trainer(**settings: Any) -> Trainer:
    net = models.mlp((6,), 4, hidden=(16,), rng=0)
    return Trainer(net, optimizer=optim.Adam(net.parameters(), **settings))


class Recorder(train.Callback):
    def __init__(self) -> None:
        self.calls: list[str] = []

    def on_fit_begin(self, trainer: Trainer) -> None:
        assert trainer.plan is not None
        assert trainer.plan.steps == 10
        self.calls.append("begin")

    def on_step(self, trainer: Trainer) -> None:
        assert np.isfinite(trainer.last_loss)
        self.calls.append(f"step {trainer.steps}")

    def on_epoch_end(self, trainer: Trainer) -> None:
        assert trainer.history.last.val_loss is not None
        self.calls.append(f"epoch {trainer.history.last.epoch}")

    def on_fit_end(self, trainer: Trainer) -> None:
        self.calls.append("end")


def test_order_of_calls() -> None:
    recorder = Recorder()
    trainer().fit(blobs(), 2, 32, blobs(50, 1), callbacks=[recorder], rng=0)
    first = [f"step {step}" for step in range(1, 11)]
    second = [f"step {step}" for step in range(11, 21)]
    assert recorder.calls == ["begin", *first, "epoch 1", *second, "epoch 2", "end"]


def test_an_object_with_one_of_the_methods_will_do() -> None:
    class Counts:
        epochs = 0

        def on_epoch_end(self, trainer: Trainer) -> None:
            self.epochs += 1

    counts = Counts()
    trainer().fit(blobs(), 3, 32, callbacks=[counts], rng=0)
    assert counts.epochs == 3


def test_a_callback_stops_training_behind_the_step() -> None:
    class Stops(train.Callback):
        def on_step(self, trainer: Trainer) -> None:
            trainer.should_stop = trainer.steps == 14

    stopped = trainer()
    history = stopped.fit(blobs(), 5, 32, callbacks=[Stops()], rng=0)
    assert stopped.steps == 14
    assert len(history.epochs) == 1  # that of the whole epoch


def test_early_stopping_gives_the_best_weights_back() -> None:
    class Keeps(train.Callback):
        def __init__(self) -> None:
            self.states: list[Any] = []

        def on_epoch_end(self, trainer: Trainer) -> None:
            self.states.append(trainer.net.state_dict())

    stopping, keeps = train.EarlyStopping(patience=2), Keeps()
    stopped = trainer(lr=0.1)  # too large: it soon gets worse
    history = stopped.fit(blobs(), 50, 32, blobs(200, 1), callbacks=[stopping, keeps], rng=0)
    losses = history.val_loss
    best = int(np.argmin(np.array(losses, float)))
    assert stopping.best == losses[best]
    assert stopping.best_epoch == best + 1
    assert len(losses) == best + 3 < 50
    for name, value in stopped.net.state_dict().items():
        np.testing.assert_array_equal(value, keeps.states[best][name])
    stopping = train.EarlyStopping(patience=1, monitor="val_accuracy", restore_best=False)
    stopped.fit(blobs(), 50, 32, blobs(200, 1), callbacks=[stopping], rng=0)
    assert stopping.best == max(stopped.history.val_accuracy[len(losses) :])  # type: ignore[type-var]


def test_what_is_watched_has_to_be_there() -> None:
    with pytest.raises(ValueError, match=r"watches val_loss, but nothing is validated.*0\.1"):
        trainer().fit(blobs(), 1, 32, callbacks=[train.EarlyStopping()])
    with pytest.raises(ValueError, match="there is no 'val_f2' to watch; there are epoch, steps"):
        trainer().fit(blobs(), 1, 32, 0.1, callbacks=[train.EarlyStopping(monitor="val_f2")], rng=0)
    for wrong in ({"patience": 0}, {"mode": "up"}, {"min_delta": -1.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            train.EarlyStopping(**wrong)  # type: ignore[arg-type]


def test_reduce_on_plateau() -> None:
    reduced = trainer(lr=0.1)
    plateau = train.ReduceOnPlateau(factor=0.5, patience=2, min_delta=100.0, min_lr=0.03)
    history = reduced.fit(blobs(), 7, 32, 0.2, callbacks=[plateau], rng=0)
    lrs = [epoch.lr for epoch in history.epochs]
    assert lrs == pytest.approx([0.1, 0.1, 0.1, 0.05, 0.05, 0.03, 0.03])
    scheduled = trainer(lr=optim.schedules.cosine(0.1, 100))
    with pytest.raises(ValueError, match="a schedule"):
        scheduled.fit(blobs(), 1, 32, 0.2, callbacks=[plateau])


def test_csv_log(tmp_path: Path) -> None:
    path = tmp_path / "history.csv"
    history = trainer().fit(blobs(), 3, 32, 0.2, callbacks=[train.CSVLog(path)], rng=0)
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3]
    assert [float(row["val_loss"]) for row in rows] == history.val_loss


def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    trainer().fit(blobs(), 2, 32, 0.2, callbacks=[train.TensorBoard(tmp_path)], rng=0)
    [events] = tmp_path.iterdir()
    assert b"val_accuracy" in events.read_bytes()


def test_tensorboard_is_told_of_when_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ImportError, match="pip install tensorboardX"):
        trainer().fit(blobs(), 1, callbacks=[train.TensorBoard(tmp_path)])


def test_metrics_of_the_validation_set() -> None:
    def worst(pred: Any, target: Any) -> float:
        assert pred.shape == (60, 4)
        assert target.shape == (60,)
        return float(pred[np.arange(60), target].min())

    net = models.mlp((6,), 4, hidden=(16,), rng=0)
    with_metric = Trainer(net, metrics=[worst])
    stopping = train.EarlyStopping(monitor="val_worst", mode="max")
    history = with_metric.fit(blobs(), 2, 32, 0.2, callbacks=[stopping], rng=0)
    assert history.last.as_row()["val_worst"] == history.last.metrics["worst"]
    x, y = blobs(60, 1)
    assert with_metric.evaluate((x, y)).metrics == {"worst": worst(net.predict(x), y)}
    with pytest.raises(ValueError, match="two metrics are called worst"):
        Trainer(net, metrics=[worst, worst])
