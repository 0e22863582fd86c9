from __future__ import annotations

from pathlib import Path

import pytest

from fastbn.train import Epoch, History, plot

pytest.importorskip("matplotlib")


def epoch(number: int, accuracy: float | None) -> Epoch:
    return Epoch(number, 10, 1 / number, accuracy, None, accuracy, 1.0, 320.0)


def test_suffix_tells_the_format(tmp_path: Path) -> None:
    history = History([epoch(1, 0.5), epoch(2, 0.75)])
    plot.training_curves(history, tmp_path / "curves.png")
    plot.training_curves(history, tmp_path / "curves.svg")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    picture = (tmp_path / "curves.svg").read_text(encoding="utf-8")
    assert "<!-- training -->" in picture
    assert "<!-- validation -->" in picture


def test_a_loss_without_classes_has_no_accuracy(tmp_path: Path) -> None:
    path = tmp_path / "curves.svg"
    plot.training_curves(History([epoch(1, None), epoch(2, None)]), path)
    picture = path.read_text(encoding="utf-8")
    assert picture.count("<!-- training -->") == 1
    assert "<!-- validation -->" not in picture


def test_nothing_to_draw(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no epochs"):
        plot.training_curves(History(), tmp_path / "curves.png")
    assert list(tmp_path.iterdir()) == []
