"""What fit takes, refuses before the first step, and does with it."""

from __future__ import annotations

import copy
import pickle
import time
from typing import Any

import numpy as np
import pytest

from fastbn import models, nn, optim, train
from fastbn.train import Trainer


def blobs(rows: int = 300, seed: int = 0) -> tuple[Any, Any]:
    centres = 4 * np.random.default_rng(0).standard_normal((4, 6))
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, rows)
    return (centres[labels] + rng.standard_normal((rows, 6))).astype(np.float32), labels


def net() -> nn.Sequential:
    return models.mlp((6,), 4, hidden=(16,), rng=0)


def states_equal(a: nn.Module, b: nn.Module) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return all(np.array_equal(value, right[name]) for name, value in left.items())


@pytest.mark.parametrize(
    ("data", "validation", "arguments", "message"),
    [
        ((np.zeros((9, 5), np.float32), np.zeros(9, int)), None, {}, r"Linear '1'.* 6"),
        ((np.zeros((9, 6), np.float32), np.full(9, 4)), None, {}, r"labels should be in \[0, 3\]"),
        ((np.zeros((9, 6), np.float32), np.full(9, 0.5)), None, {}, "whole numbers"),
        (None, (np.zeros((9, 6), np.float32), np.full(9, 7)), {}, r"labels should be in \[0, 3\]"),
        (None, (np.zeros((9, 5), np.float32), np.zeros(9, int)), {}, "6"),
        (None, 1.5, {}, "fraction"),
        (None, None, {"accumulate": 0}, "accumulate"),
        (None, None, {"clip_norm": 0.0}, "clip_norm"),
        (None, None, {"max_seconds": -1.0}, "max_seconds"),
        (None, None, {"class_weight": [1.0, 2.0]}, "one number for each of 4 classes"),
        (None, None, {"class_weight": {9: 2.0}}, r"has classes \[9\]"),
        (None, None, {"class_weight": "fair"}, "balanced"),
        (None, None, {"epochs": -1}, "epochs"),
        (None, None, {"batch_size": 0}, "batch_size"),
        (None, None, {"batch_size": 1.5}, "batch_size should be a whole number"),
        (None, None, {"epochs": 1.5}, "epochs should be a whole number"),
        (None, None, {"callbacks": [train.NaNGuard]}, r"got the class: NaNGuard\(\.\.\.\)"),
        (None, None, {"callbacks": train.NaNGuard()}, "callbacks: expected a list"),
    ],
)
def test_everything_is_checked_before_the_first_step(
    data: Any, validation: Any, arguments: dict[str, Any], message: str
) -> None:
    trainer = Trainer(net())
    before = copy.deepcopy(trainer.net)
    with pytest.raises((ValueError, TypeError), match=message):
        trainer.fit(data or blobs(), validation=validation, **arguments)
    assert states_equal(trainer.net, before)
    assert trainer.steps == 0


def test_lists_and_other_dtypes_are_converted() -> None:
    x, y = blobs(64)
    plain = Trainer(net())
    plain.fit((x, y), 1, rng=0)
    for data in ((x.tolist(), y.tolist()), (x.astype(np.float64), y.astype(np.uint8))):
        other = Trainer(net())
        other.fit(data, 1, rng=0)
        assert states_equal(plain.net, other.net)


def test_a_share_is_held_out_by_the_seed() -> None:
    x, y = blobs(300)
    seen: list[Any] = []

    class Keeps(train.Callback):
        def on_fit_begin(self, trainer: Trainer) -> None:
            assert trainer.plan is not None
            seen.append(trainer.plan.validation.x)  # type: ignore[union-attr]
            assert trainer.plan.steps == 8

    for _ in range(2):
        history = Trainer(net()).fit((x, y), 1, 32, 0.2, callbacks=[Keeps()], rng=3)
        assert history.last.val_loss is not None
    np.testing.assert_array_equal(seen[0], seen[1])
    assert seen[0].shape == (60, 6)


def test_a_loss_may_be_a_plain_function() -> None:
    def loss(pred: Any, target: Any) -> tuple[float, Any]:
        error = pred - target
        return float((error**2).mean()), 2 * error / error.size

    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 3)).astype(np.float32)
    y = x @ rng.standard_normal((3, 2)).astype(np.float32)
    linear = nn.Sequential(nn.Linear(3, 2, rng=0))
    trainer = Trainer(linear, loss, optim.SGD(linear.parameters(), lr=0.2))
    history = trainer.fit((x, y), 30, 16, 0.25, rng=0)
    assert history.last.accuracy is None
    assert history.last.val_loss is not None
    assert history.last.val_loss < 1e-2 * history.loss[0]


def test_accumulation_is_the_step_of_the_larger_batch() -> None:
    plain = nn.Sequential(nn.Linear(6, 8, rng=0), nn.Tanh(), nn.Linear(8, 4, rng=1))
    plain.astype(np.float64)
    x, y = blobs(70)
    nets = []
    for batch_size, accumulate in ((24, 1), (8, 3)):
        other = copy.deepcopy(plain)
        trainer = Trainer(other, optimizer=optim.SGD(other.parameters(), lr=0.1, momentum=0.9))
        history = trainer.fit((x, y), 2, batch_size, accumulate=accumulate, rng=0)
        assert history.steps == 6
        nets.append((other.state_dict(), history.loss))
    for name, value in nets[0][0].items():
        np.testing.assert_allclose(value, nets[1][0][name], rtol=1e-12)
    assert nets[0][1] == pytest.approx(nets[1][1], rel=1e-12)


def test_accumulation_with_weights_is_the_step_of_the_larger_batch() -> None:
    plain = nn.Sequential(nn.Linear(6, 4, rng=0)).astype(np.float64)
    x, y = blobs(48)
    weight = np.random.default_rng(1).uniform(0.0, 2.0, 48)
    states = []
    for batch_size, accumulate in ((24, 1), (8, 3)):
        other = copy.deepcopy(plain)
        trainer = Trainer(other, optimizer=optim.SGD(other.parameters(), lr=0.1))
        trainer.fit((x, y, weight), 2, batch_size, accumulate=accumulate, rng=0)
        states.append(other.state_dict())
    for name, value in states[0].items():
        np.testing.assert_allclose(value, states[1][name], rtol=1e-12)


@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(),
        nn.CrossEntropyLoss(weight=[1.0, 2.0, 3.0, 4.0]),
        nn.CrossEntropyLoss(reduction="sum"),
        nn.CrossEntropyLoss(ignore_index=255),
        nn.CrossEntropyLoss(ignore_index=-1),
    ],
)
def test_accumulation_counts_rows_as_the_loss_does(loss: nn.CrossEntropyLoss) -> None:
    plain = nn.Sequential(nn.Linear(6, 4, rng=0)).astype(np.float64)
    x, y = blobs(48)
    y[:20] = loss.ignore_index
    nets = []
    for batch_size, accumulate in ((24, 1), (8, 3)):
        other = copy.deepcopy(plain)
        trainer = Trainer(other, loss, optim.SGD(other.parameters(), lr=0.1))
        trainer.fit((x, y), 2, batch_size, accumulate=accumulate, rng=0)
        nets.append(other.state_dict())
    for name, value in nets[0].items():
        np.testing.assert_allclose(value, nets[1][name], rtol=1e-12)
    mean = nn.CrossEntropyLoss(loss.weight, ignore_index=loss.ignore_index)
    if loss.reduction == "mean":
        assert trainer.evaluate((x, y), 7).loss == pytest.approx(mean.value(trainer.predict(x), y))
    trainer.fit((x, y), class_weight="balanced", rng=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((None, optim.Adam), r"optimizer: expected an object, got the class: Adam\(\.\.\.\)"),
        ((nn.CrossEntropyLoss,), r"loss: expected an object, got the class: CrossEntropyLoss"),
        (("mse",), "loss: expected a function, got 'mse'"),
        ((None, "adam"), r"optimizer: expected an object with step\(\), got 'adam'"),
        ((None, None, ["f1"]), "metrics: expected a function, got 'f1'"),
        ((None, None, train.metrics.f1), "metrics: expected a list"),
    ],
)
def test_trainers_of_the_wrong_parts(arguments: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        Trainer(net(), *arguments)


def test_predict_takes_what_fit_takes() -> None:
    images = np.random.default_rng(0).integers(0, 256, (9, 4, 4, 1), dtype=np.uint8)
    trainer = Trainer(models.mlp((4, 4, 1), 3, hidden=(5,), rng=0))
    trainer.fit((images, [0, 1, 2] * 3), rng=0)
    expected = trainer.net.predict(images.astype(np.float32) / 255)
    for x in (images, images / 255.0, (images / 255.0).tolist(), images[..., 0]):
        assert np.array_equal(trainer.predict(x, 4), expected)
    assert trainer.predict(images[:0]).shape == (0, 3)


def test_clip_norm_bounds_the_step() -> None:
    class Norm(train.Callback):
        norms: list[float]

        def __init__(self) -> None:
            self.norms = []

        def on_step(self, trainer: Trainer) -> None:
            grads = [p.grad for p in trainer.net.parameters() if p.grad is not None]
            self.norms.append(float(np.sqrt(sum((g.astype(float) ** 2).sum() for g in grads))))

    norm = Norm()
    Trainer(net()).fit(blobs(), 1, 32, clip_norm=0.01, callbacks=[norm], rng=0)
    assert max(norm.norms) == pytest.approx(0.01, rel=1e-5)


def test_class_weights_are_weights_of_samples() -> None:
    x, y = blobs(100)
    weights = {0: 2.0, 1: 0.5, 3: 0.0}
    table = np.array([2.0, 0.5, 1.0, 0.0])
    first, second = Trainer(net()), Trainer(net())
    first.fit((x, y), 2, class_weight=weights, rng=0)
    second.fit((x, y, table[y]), 2, rng=0)
    assert states_equal(first.net, second.net)
    third = Trainer(net())
    third.fit((x, y), 2, rng=0)
    assert not states_equal(first.net, third.net)

    def unweighted(pred: Any, target: Any) -> tuple[float, Any]:
        raise AssertionError

    with pytest.raises(ValueError, match="unweighted takes no weights of samples"):
        Trainer(net(), unweighted).fit((x, y), class_weight=weights)


def test_max_seconds_stops_and_counts_the_epoch() -> None:
    trainer = Trainer(net())
    begin = time.perf_counter()
    history = trainer.fit(blobs(), 10**9, 32, blobs(50, 1), max_seconds=0.3, rng=0)
    assert 0.3 <= time.perf_counter() - begin < 20.0
    assert history.steps == trainer.steps > 0
    assert history.last.val_loss is not None


def test_streams_of_batches() -> None:
    x, y = blobs(96)

    def batches() -> Any:
        for first in range(0, 96, 32):
            yield x[first : first + 32], y[first : first + 32]

    trainer = Trainer(net())
    history = trainer.fit(batches, 3, rng=0)
    assert history.steps == 9
    assert trainer.evaluate(batches).loss == pytest.approx(trainer.evaluate((x, y)).loss, rel=1e-6)
    with pytest.raises(ValueError, match="can be cut"):
        trainer.fit(batches, 1, validation=0.1)


def test_trainers_copy_and_pickle() -> None:
    trainer = Trainer(net())
    trainer.fit(blobs(), 1, 32, rng=0)
    copies = [copy.deepcopy(trainer), pickle.loads(pickle.dumps(trainer))]
    trainer.fit(blobs(), 1, 32, rng=1)
    for other in copies:
        assert not states_equal(trainer.net, other.net)
        other.fit(blobs(), 1, 32, rng=1)
        assert states_equal(trainer.net, other.net)
        assert [row.loss for row in other.history.epochs] == trainer.history.loss


def test_lr_find_restores_everything() -> None:
    dropped = nn.Sequential(nn.Linear(6, 32, rng=0), nn.BatchNorm(32), nn.ReLU())
    dropped.append(nn.Dropout(0.2, rng=5)).append(nn.Linear(32, 4, rng=1))
    plain = copy.deepcopy(dropped)
    results = []
    for searches, mlp in ((True, dropped), (False, plain)):
        optimizer = optim.SGD(mlp.parameters(), lr=0.05, momentum=0.9)
        trainer = Trainer(mlp, optimizer=optimizer)
        if searches:
            mlp.eval()
            found = trainer.lr_find(blobs(), 32, rng=0)
            assert not mlp.training
            assert found.suggestion is not None
            assert 1e-5 < found.suggestion < 10.0
            assert len(found.lr) == len(found.loss) > 20
            losses = trainer.overfit_one_batch(blobs(), 32, steps=60, rng=0)
            assert losses[-1] < 0.5 * losses[0]
            mlp.train()
        trainer.fit(blobs(), 1, 32, rng=1)
        if searches:
            trainer.lr_find(blobs(), 32, rng=0)
        trainer.fit(blobs(), 1, 32, rng=2)
        results.append((mlp, trainer))
    assert states_equal(dropped, plain)
    assert results[0][1].steps == results[1][1].steps


def test_lr_find_restores_a_function_as_learning_rate() -> None:
    mlp = net()
    trainer = Trainer(mlp, optimizer=optim.SGD(mlp.parameters(), lr=lambda step: 0.1))
    before, rate = mlp.state_dict(), trainer.optimizer.param_groups[0]["lr"]
    trainer.lr_find(blobs(), 32, rng=0)
    assert trainer.optimizer.param_groups[0]["lr"] is rate
    np.testing.assert_equal(before, mlp.state_dict())


def squares(pred: Any, target: Any) -> tuple[Any, Any]:
    """A loss as one writes it down: its value is a number of NumPy's."""
    apart = pred - target
    return (apart**2).mean(), 2 * apart / apart.size


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_plain_function_as_loss_is_saved(tmp_path: Any, accumulate: int) -> None:
    path = tmp_path / "last.safetensors"
    x = blobs()[0]
    data = (x, x.sum(axis=1, keepdims=True))
    saved, whole = (Trainer(models.mlp((6,), 1, hidden=(8,), rng=0), squares) for _ in range(2))
    options: dict[str, Any] = {"validation": data, "accumulate": accumulate, "rng": 0}
    saved.fit(data, 1, callbacks=[train.Checkpoint(path)], **options)
    assert type(saved.last_loss) is float
    assert type(saved.evaluate(data).loss) is float
    resumed = Trainer(models.mlp((6,), 1, hidden=(8,), rng=5), squares).resume(path)
    resumed.fit(data, 2, **options)
    whole.fit(data, 2, **options)
    assert states_equal(resumed.net, whole.net)
    assert resumed.history.loss == whole.history.loss


def test_a_fit_that_a_callback_refuses_does_not_forget_what_was_resumed(tmp_path: Any) -> None:
    path = tmp_path / "last.safetensors"
    whole, saved = Trainer(net()), Trainer(net())
    whole.fit(blobs(), 3, validation=0.2, rng=0)
    saved.fit(blobs(), 2, validation=0.2, rng=0)
    saved.save(path)
    resumed = Trainer(net()).resume(path)
    for _ in range(2):
        with pytest.raises(ValueError, match="nothing is validated"):
            resumed.fit(blobs(), 3, callbacks=[train.EarlyStopping()])
        resumed.save(path)
    resumed.fit(blobs(), 3, validation=0.2)
    assert states_equal(resumed.net, whole.net)
    with pytest.raises(ValueError, match="nothing is validated"):
        whole.fit(blobs(), 9, callbacks=[train.EarlyStopping()])
    assert whole.plan is not None
    assert whole.plan.position.whole  # of the fit before


@pytest.mark.parametrize("ignored", [-100, 0])
def test_rows_without_a_label_count_nothing(ignored: int) -> None:
    x, y = blobs()
    trainer = Trainer(net(), nn.CrossEntropyLoss(ignore_index=ignored))
    trainer.fit((x, y), 5, rng=0)
    some = y.copy()
    some[::3] = ignored
    labelled = some != ignored
    seen = trainer.evaluate((x, some), 32)
    alone = Trainer(trainer.net).evaluate((x[labelled], y[labelled]))
    assert seen.accuracy == pytest.approx(alone.accuracy)
    assert seen.loss == pytest.approx(alone.loss, rel=1e-6)
    before = copy.deepcopy(trainer.net)
    row = trainer.fit((x, some), 1, len(x), rng=1).last
    loss, _ = nn.CrossEntropyLoss()(before.train()(x)[labelled], y[labelled])
    assert row.loss == pytest.approx(loss, rel=1e-5)
    assert row.accuracy is not None
    assert row.accuracy <= 1.0
    assert row.accuracy * labelled.sum() == pytest.approx(round(row.accuracy * labelled.sum()))


def test_added_losses_are_told_as_means() -> None:
    trainer = Trainer(net(), nn.CrossEntropyLoss(reduction="sum"))
    mean = Trainer(trainer.net).evaluate(blobs()).loss
    for batch_size in (7, 300):
        assert trainer.evaluate(blobs(), batch_size).loss == pytest.approx(mean, rel=1e-6)
    trainer.optimizer.lr = 0.0
    for accumulate in (1, 3):
        row = trainer.fit(blobs(), 1, 75, rng=0, accumulate=accumulate).last
        assert 0.0 < row.loss < 10.0
