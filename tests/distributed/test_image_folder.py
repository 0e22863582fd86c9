"""Ranks on a folder of images: each decodes its share, and nothing else comes out of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import train_folder
from jobs import Job

pytest.importorskip("PIL.Image", reason="images are read by Pillow")

PROGRAM = str(Path(train_folder.__file__))
TRAINING, VALIDATION = 27, 9  # of 45 files, of which 9 are the test part


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("FASTBN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return train_folder.write(tmp_path / "pictures")


def together(job: Job, ranks: int, *runs: dict[str, Any]) -> list[Any]:
    done = job(ranks, PROGRAM, json.dumps(runs))
    assert done.returncode == 0, done.stderr
    found: list[Any] = json.loads(done.stdout)
    return found


def apart(a: Any, b: Any) -> float:
    return float(np.abs(np.subtract(a, b)).max())


def test_any_number_of_ranks_is_one_process(job: Job, pictures: Path, cache: Path) -> None:
    told = {"folder": str(pictures), "epochs": 4}
    spread, val_spread = 0.0, 0.0
    alone = train_folder.train(told, None)
    for nudge in range(1, 6):
        nudged = train_folder.train({**told, "nudge": nudge}, None)
        spread = max(spread, apart(nudged["losses"], alone["losses"]))
        val_spread = max(val_spread, apart(nudged["val_loss"], alone["val_loss"]))
    assert alone["losses"][-1] < alone["losses"][0]
    shutil.rmtree(cache)  # of the files that one process has decoded

    for ranks in (2, 3):
        forgetful, keeping = together(job, ranks, {**told, "forgets": True}, told)
        for found in (forgetful, keeping):
            for same in ("repr", "mean", "std", "val_accuracy"):
                assert found[same] == alone[same], same
            assert apart(found["losses"], alone["losses"]) <= 3 * spread
            assert apart(found["val_loss"], alone["val_loss"]) <= 3 * val_spread
        assert not cache.exists()
        # Every file once an epoch, each by one rank: those of validation by the batch.
        decoded = np.array(forgetful["decoded"])
        np.testing.assert_array_equal(decoded.sum(axis=0), TRAINING + VALIDATION)
        own = decoded - np.array([[VALIDATION * (r == ranks - 1)] for r in range(ranks)])
        assert own.max() <= -(-TRAINING // ranks) + 3  # a batch of 8 gives one more to some
        assert np.sum(forgetful["fitting"]) == TRAINING


def test_what_was_decoded_is_kept(job: Job, pictures: Path, cache: Path) -> None:
    told = {"folder": str(pictures), "epochs": 4}
    (found,) = together(job, 2, told)
    decoded = np.array(found["decoded"])
    assert decoded[:, -1].sum() < decoded[:, 0].sum()
    assert decoded.sum() + np.sum(found["fitting"]) <= 2 * (TRAINING + VALIDATION)
    train_folder.train({**told, "epochs": 1}, None)  # decodes into the cache of this machine
    assert cache.exists()
    (again,) = together(job, 2, told)
    assert not np.any(again["decoded"])
    assert again["losses"] == found["losses"]


def test_ranks_that_see_other_files(job: Job, pictures: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(pictures, other)
    (other / "a" / "0.png").unlink()
    (message,) = together(job, 2, {"folders": [str(pictures), str(other)], "epochs": 1})
    assert "rank 1 sees other files there" in message
