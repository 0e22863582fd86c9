"""Trainer: history, evaluation, modes, left-over samples, interruption, the progress bar."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from fastbn import models, nn, optim
from fastbn.data import Dataset
from fastbn.train import Trainer
from fastbn.train.progress import bars


def blobs(rows: int = 300, seed: int = 0) -> tuple[Any, Any]:
    """Four overlapping clouds of points in six dimensions."""
    centres = 4 * np.random.default_rng(0).standard_normal((4, 6))
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, rows)
    return (centres[labels] + rng.standard_normal((rows, 6))).astype(np.float32), labels


def net() -> nn.Sequential:
    return models.mlp((6,), 4, hidden=(16,), rng=0)


def test_fit_returns_what_happened() -> None:
    mlp = net()
    trainer = Trainer(mlp, optimizer=optim.Adam(mlp.parameters(), lr=0.02))
    history = trainer.fit(blobs(), 4, 32, blobs(100, 1), rng=0)
    assert len(history.epochs) == 4
    assert history.steps == 4 * 10
    assert history.loss[-1] < history.loss[0]
    assert history.val_accuracy[-1] is not None
    assert history.val_accuracy[-1] > 0.9
    assert history.accuracy[-1] is not None
    assert history.last.val_loss == history.val_loss[-1]
    assert history.images_per_second == pytest.approx(4 * 300 / history.seconds)
    assert [row["epoch"] for row in json.loads(json.dumps(history.as_rows()))] == [1, 2, 3, 4]
    trainer.fit(blobs(), 1, 32, rng=0)
    assert history.last.epoch == 5
    assert history.last.val_loss is None


def test_the_same_seed_gives_the_same_weights() -> None:
    states = []
    for _ in range(2):
        trainer = Trainer(net())
        trainer.fit(blobs(), 2, 32, rng=7)
        states.append(trainer.net.state_dict())
    for name, value in states[0].items():
        np.testing.assert_array_equal(value, states[1][name])


def test_a_look_at_the_outputs_before_does_not_stand_in_the_way() -> None:
    looked, other = net(), net()
    other.load_state_dict(looked.state_dict())
    looked.eval()(blobs()[0])
    looked.train()(blobs()[0])
    looked.load_state_dict(other.state_dict())  # that call has moved running statistics
    for each in (looked, other):
        Trainer(each).fit(blobs(), 1, 32, rng=7)
    for name, value in looked.state_dict().items():
        np.testing.assert_array_equal(value, other.state_dict()[name])


def test_losses_are_means_over_samples() -> None:
    x, y = blobs(70)
    trainer = Trainer(net(), optimizer=optim.SGD(net().parameters(), lr=0.0))
    trainer.optimizer = optim.SGD(trainer.net.parameters(), lr=0.0)
    for norm in trainer.net.modules():
        if isinstance(norm, nn.BatchNorm):
            norm.freeze()
    history = trainer.fit((x, y), 1, 32, (x, y), rng=0)
    logits = trainer.predict(x).astype(np.float64)
    logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
    loss = -logits[np.arange(70), y].mean()
    accuracy = (logits.argmax(axis=1) == y).mean()
    assert history.loss == pytest.approx([loss], rel=1e-5)
    assert history.accuracy == pytest.approx([accuracy])
    assert trainer.evaluate((x, y), batch_size=9) == pytest.approx((loss, accuracy), rel=1e-5)
    assert history.val_loss == pytest.approx([loss], rel=1e-5)


def test_datasets_bring_both_parts() -> None:
    x, y = blobs()
    test_x, test_y = blobs(50, 1)
    data = Dataset(x, y, test_x, test_y, tuple("abcd"))
    trainer = Trainer(net())
    with pytest.raises(ValueError, match=r"its test part is for the end.*validation=0\.1"):
        trainer.fit(data, 1, 32, data)
    assert trainer.fit(data, 1, 32, rng=0).steps == 10
    cut = data.split(0.2, rng=0)
    assert cut.x_val is not None
    assert cut.y_val is not None
    history = trainer.fit(cut, 1, 32, cut, rng=0)
    assert history.steps == 10 + 8
    assert history.last.val_loss == trainer.evaluate((cut.x_val, cut.y_val)).loss
    assert trainer.evaluate(data) == trainer.evaluate((test_x, test_y))


def test_a_single_sample_that_is_left_stays_out() -> None:
    x, y = blobs(33)
    assert Trainer(net()).fit((x, y), 2, 32, rng=0).steps == 2
    assert Trainer(net()).fit((x, y), 2, 31, rng=0).steps == 4
    assert Trainer(net()).fit((x, y), 1, 31, rng=0, drop_last=True).steps == 1
    plain = nn.Sequential(nn.Linear(6, 4))
    assert Trainer(plain).fit((x, y), 1, 1, rng=0).steps == 33
    with pytest.raises(ValueError, match="nothing to train on: 1 samples in batches of 32"):
        Trainer(net()).fit((x[:1], y[:1]), 1, 32)
    with pytest.raises(ValueError, match="nothing to train on"):
        Trainer(net()).fit((x, y), 1, 64, drop_last=True)
    with pytest.raises(ValueError, match="as many labels as samples"):
        Trainer(net()).fit((x, y[:5]), 1)
    with pytest.raises(ValueError, match="epochs should not be negative"):
        Trainer(net()).fit((x, y), -1)
    with pytest.raises(ValueError, match="nothing to evaluate"):
        Trainer(net()).evaluate((x[:0], y[:0]))


def test_evaluate_and_predict_leave_the_network_as_it_is() -> None:
    trainer = Trainer(net())
    x, y = blobs()
    trainer.fit((x, y), 1, rng=0)
    before = trainer.net.state_dict()
    trainer.net[2].eval()
    trainer.evaluate((x, y))
    assert trainer.predict(x[:0]).shape == (0, 4)
    assert trainer.predict(x[:7]).shape == (7, 4)
    assert [module.training for module in trainer.net.modules()].count(False) == 1
    for name, value in trainer.net.state_dict().items():
        np.testing.assert_array_equal(value, before[name])


def test_fit_leaves_single_layers_in_their_mode() -> None:
    trainer = Trainer(net())
    norm = trainer.net[2]
    assert isinstance(norm, nn.BatchNorm)
    norm.eval()
    trainer.fit(blobs(), 1, rng=0)
    assert norm.num_batches_tracked == 0
    trainer.net.eval()
    trainer.fit(blobs(), 1, rng=0)
    assert trainer.net.training
    assert norm.num_batches_tracked == 10


def test_regression_has_no_accuracy() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 3)).astype(np.float32)
    target = x @ rng.standard_normal((3, 2)).astype(np.float32)
    regressor = nn.Sequential(nn.Linear(3, 2, rng=0))
    trainer = Trainer(regressor, nn.MSELoss(), optim.SGD(regressor.parameters(), lr=0.2))
    history = trainer.fit((x, target), 20, 20, (x, target), rng=0)
    assert history.accuracy == [None] * 20
    assert history.last.val_accuracy is None
    assert history.loss[-1] < 1e-3 * history.loss[0]


def test_interruption_leaves_nothing_pending() -> None:
    class Stops(nn.CrossEntropyLoss):
        left = 5

        def __call__(self, pred: Any, target: Any) -> tuple[float, Any]:
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt
            return super().__call__(pred, target)

    trainer = Trainer(net(), Stops())
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(blobs(), 1, rng=0)
    assert trainer.history.epochs == []
    trainer.fit(blobs(), 1, rng=0)


def test_progress_is_silent_where_nobody_watches() -> None:
    program = """
import sys
import numpy as np
from fastbn import models
from fastbn.train import Trainer
x, y = np.zeros((40, 6), dtype=np.float32), np.arange(40) % 4
Trainer(models.mlp((6,), 4)).fit((x, y), 2, 8)
assert "rich" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_progress_shows_loss_accuracy_and_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr(sys, "stderr", screen)
    Trainer(net()).fit(blobs(), 2, 32, blobs(50, 1), rng=0, progress=True)
    shown = screen.getvalue()
    for part in ("epoch 1", "epoch 2", "10/10", "loss ", "accuracy ", "images/s", "val "):
        assert part in shown


def test_bars_ask_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    with bars(None) as shown:
        assert len(shown) == 1
    with bars(False) as shown:
        assert not shown


def test_predict_takes_pixels_for_several_outputs() -> None:
    x = nn.Input((4, 4, 1))
    h = nn.Flatten()(x)
    net = nn.Graph(x, (nn.Linear(16, 3, rng=0)(h), nn.Linear(16, 2, rng=1)(h)))
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 1), np.uint8)
    found = Trainer(net, loss=lambda pred, target: (0.0, pred)).predict(pixels, batch_size=2)
    for y, expected in zip(found, net.predict(pixels.astype(np.float32) / 255), strict=True):
        np.testing.assert_array_equal(y, expected)
