"""Checkpoints: a run that was interrupted ends as one that was not, bit for bit."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors

from fastbn import nn, optim, train
from fastbn.train import Trainer

EPOCHS, STEPS = 4, 5  # a step is two batches


def data(rows: int = 150) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((rows, 6)).astype(np.float32), rng.integers(0, 4, rows)


def noise(images: Any, rng: np.random.Generator) -> Any:
    return images + 0.1 * rng.standard_normal(images.shape).astype(np.float32)


def trainer(kind: str = "sgd", seed: int = 1) -> Trainer:
    rng = np.random.default_rng(seed)
    norm = nn.BatchNorm(16, momentum=optim.schedules.cosine(0.5, 30, end=0.01))
    layers = [nn.Linear(6, 16, rng=rng), norm, nn.ReLU(), nn.Dropout(0.3, rng=rng)]
    layers += [nn.Linear(16, 8, rng=rng), nn.Dropout(0.1, rng=7), nn.Linear(8, 4, rng=rng)]
    net = nn.Sequential(*layers)
    lr = optim.schedules.warmup(optim.schedules.cosine(0.05, 18), 4)
    if kind == "sgd":
        return Trainer(net, optimizer=optim.SGD(net.parameters(), lr=lr, momentum=0.9))
    groups = [{"params": net[0].parameters(), "lr": 3e-3}, {"params": net[4].parameters()}]
    return Trainer(net, optimizer=optim.AdamW(groups, lr=lr))


def fit(trainer: Trainer, *callbacks: Any, epochs: int = EPOCHS) -> Any:
    lasting = [train.EarlyStopping(patience=50), train.ReduceOnPlateau(patience=50)][
        : 1 if callable(trainer.optimizer.param_groups[0]["lr"]) else 2
    ]
    if isinstance(trainer.optimizer, optim.AdamW):
        lasting = lasting[:1]  # its groups differ
    return trainer.fit(
        data(),
        epochs,
        13,
        validation=0.2,
        rng=3,
        augment=noise,
        accumulate=2,
        clip_norm=1.0,
        callbacks=[*lasting, *callbacks],
    )


class StopsAt(train.Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, trainer: Trainer) -> None:
        trainer.should_stop = trainer.steps == self.step


def assert_same(a: Trainer, b: Trainer) -> None:
    np.testing.assert_equal(a.net.state_dict(), b.net.state_dict())
    np.testing.assert_equal(a.optimizer.state_dict(), b.optimizer.state_dict())
    assert a.steps == b.steps
    for mine, other in zip(a.history.epochs, b.history.epochs, strict=True):
        timed = ("seconds", "images_per_second")
        rows = ({k: v for k, v in e.as_row().items() if k not in timed} for e in (mine, other))
        np.testing.assert_equal(*rows)


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_interrupted_at_every_step_and_resumed(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    whole = trainer(kind)
    fit(whole)
    assert whole.steps == EPOCHS * STEPS
    for step in range(1, EPOCHS * STEPS):
        stopped = trainer(kind)
        fit(stopped, StopsAt(step), train.Checkpoint(path))
        assert stopped.steps == step
        resumed = trainer(kind, seed=99).resume(path)
        assert resumed.steps == step
        fit(resumed)
        assert_same(whole, resumed)


def test_interrupted_again_and_again(tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    whole = trainer()
    fit(whole)
    fit(trainer(), StopsAt(1), train.Checkpoint(path))
    for step in range(2, EPOCHS * STEPS):
        resumed = trainer(seed=step).resume(path)
        resumed.save(path)  # before it goes on
        resumed = trainer(seed=step).resume(path)
        fit(resumed, StopsAt(step), train.Checkpoint(path))
        assert resumed.steps == step
    resumed = trainer().resume(path)
    fit(resumed)
    assert_same(whole, resumed)


def test_epochs_behind_a_whole_run(tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    whole, half = trainer(), trainer()
    fit(whole)
    fit(half, train.Checkpoint(path), epochs=2)
    resumed = trainer().resume(path)
    with pytest.warns(UserWarning, match="has its 2 epochs"):
        fit(resumed, epochs=2)
    resumed = trainer().resume(path)
    fit(resumed)
    assert_same(whole, resumed)


def test_early_stopping_goes_on_waiting(tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"

    def run(*callbacks: Any, resume: bool = False) -> Trainer:
        each = trainer()
        each.optimizer.lr = 0.5  # too large
        if resume:
            each.resume(path)
        stopping = train.EarlyStopping(patience=3)
        each.fit(data(), 100, 13, validation=0.2, rng=3, callbacks=[stopping, *callbacks])
        return each

    whole = run()
    assert len(whole.history.epochs) < 100
    last = whole.steps
    for step in (last - 25, last - 1, last):
        run(StopsAt(step), train.Checkpoint(path))
        assert_same(whole, run(resume=True))
    assert_same(whole, run(resume=True))  # there is nothing left to do


def test_saved_when_the_best_weights_were_put_back(tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"

    def run(each: Trainer, epochs: int) -> train.EarlyStopping:
        stopping = train.EarlyStopping(patience=50)
        each.optimizer.lr = 0.5  # too large: the last epoch is not the best
        each.fit(data(), epochs, 13, validation=0.2, rng=3, callbacks=[stopping])
        return stopping

    whole, half = trainer(), trainer()
    run(whole, 9)
    stopping = run(half, 6)
    assert stopping.best_epoch is not None
    assert stopping.best_epoch < 6
    half.save(path)
    resumed = trainer().resume(path)
    np.testing.assert_equal(half.net.state_dict(), resumed.net.state_dict())
    run(resumed, 9)
    assert_same(whole, resumed)


def test_a_checkpoint_is_a_file_of_weights(tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    saved = trainer()
    fit(saved, epochs=1)
    saved.save(path, classes=list("abcd"))
    state, metadata = train.read(path)
    np.testing.assert_equal(saved.net.state_dict(), state)
    assert metadata.classes == list("abcd")
    other = trainer(seed=5).net
    np.testing.assert_equal(train.load(path, other).state_dict(), state)
    with safetensors.safe_open(path, framework="numpy") as file:
        training = json.loads(file.metadata()["fastbn"])["training"]
    assert (training["step"], training["epoch"]) == (STEPS, 1)
    assert [row["loss"] for row in training["history"]] == saved.history.loss


def test_what_does_not_fit_is_refused_and_nothing_changed(tmp_path: Path) -> None:
    path, plain = tmp_path / "last.safetensors", tmp_path / "model.safetensors"
    saved = trainer()
    fit(saved, StopsAt(3), train.Checkpoint(path))
    train.save(saved.net, plain)
    other = trainer("adamw", seed=4)
    before = other.net.state_dict()
    with pytest.raises(ValueError, match=r"model\.safetensors: weights alone, no checkpoint"):
        other.resume(plain)
    with pytest.raises(ValueError, match="the optimizer was SGD, this one is AdamW"):
        other.resume(path)
    small = nn.Sequential(nn.Linear(6, 4))
    with pytest.raises(ValueError, match=r"last\.safetensors: Error\(s\) in loading state_dict"):
        Trainer(small, optimizer=optim.SGD(small.parameters())).resume(path)
    bare = nn.Sequential(*[layer for layer in trainer().net if not isinstance(layer, nn.Dropout)])
    with pytest.raises(ValueError, match=r"loading|random states"):
        Trainer(bare, optimizer=optim.SGD(bare.parameters(), momentum=0.9)).resume(path)
    np.testing.assert_equal(before, other.net.state_dict())
    resumed = trainer().resume(path)
    with pytest.raises(ValueError, match=r"had batch_size 13, not 14.*as it was called then"):
        resumed.fit(data(), EPOCHS, 14, validation=0.2, accumulate=2)
    fit(resumed)  # still goes on
    assert resumed.steps == EPOCHS * STEPS


def damaged(path: Path, change: Any) -> Path:
    with safetensors.safe_open(path, framework="numpy") as file:
        told = json.loads(file.metadata()["fastbn"])
        arrays = {name: file.get_tensor(name) for name in list(file.keys())}
    change(told["training"], arrays)
    from safetensors.numpy import save_file

    other = path.with_name("damaged.safetensors")
    save_file(arrays, other, {"fastbn": json.dumps(told)})
    return other


def test_a_file_from_before_labels_were_counted(tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    whole, stopped = trainer(), trainer()
    fit(whole)
    fit(stopped, StopsAt(7), train.Checkpoint(path))
    older = damaged(path, lambda told, arrays: told["position"].pop("labelled"))
    resumed = trainer().resume(older)
    fit(resumed)
    assert_same(whole, resumed)


@pytest.mark.parametrize(
    "change",
    [
        lambda told, arrays: told.pop("history"),
        lambda told, arrays: told.update(position=[1]),
        lambda told, arrays: told.update(optimizer=None),
        lambda told, arrays: told.update(random=[{"bit_generator": "MT19937"}]),
        lambda told, arrays: told["random"][0].update(state={"state": "x", "inc": 1}),
        lambda told, arrays: arrays.pop(next(n for n in arrays if n.startswith("/optimizer"))),
        lambda told, arrays: told.update(step="many"),
    ],
)
def test_damaged_checkpoints_are_refused(change: Any, tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    fit(trainer(), StopsAt(7), train.Checkpoint(path))
    other = trainer(seed=4)
    before = other.net.state_dict(), other.optimizer.state_dict()
    with pytest.raises(ValueError, match=r"damaged\.safetensors: "):
        other.resume(damaged(path, change))
    np.testing.assert_equal(before, (other.net.state_dict(), other.optimizer.state_dict()))
    assert other.steps == 0


KILLED = """
    import sys
    sys.path.insert(0, {folder!r})
    from test_checkpoint import fit, trainer
    from fastbn import train
    path, begin, end = {path!r}, trainer(), {end!r}
    try:
        begin.resume(path)
    except FileNotFoundError:
        pass
    print("ready", flush=True)
    fit(begin, train.Checkpoint(path, every=3), epochs={epochs})
    begin.save(end)
"""


def test_killed_at_random_and_resumed(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """In a short form; ``--kills 50`` is the long one."""
    if not hasattr(signal, "SIGKILL"):
        pytest.skip("this system has no SIGKILL")
    kills, epochs = request.config.getoption("--kills"), 30
    path, end = tmp_path / "last.safetensors", tmp_path / "end.safetensors"
    program = textwrap.dedent(KILLED).format(
        folder=str(Path(__file__).parent), path=str(path), end=str(end), epochs=epochs
    )
    whole = trainer()
    fit(whole, epochs=epochs)
    rng = np.random.default_rng(0)
    killed = 0
    while True:
        with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as run:
            assert run.stdout is not None
            assert run.stdout.readline() == b"ready\n"
            if killed == kills:
                break
            time.sleep(rng.uniform(0.0, 0.15))
            run.kill()
        killed += 1
        if end.exists():
            for file in (path, end):
                file.unlink()
    assert run.returncode == 0
    resumed = trainer().resume(end)
    assert_same(whole, resumed)
    assert not list(tmp_path.glob(".*.tmp"))
