"""What all experiments share, tried with one that takes no time."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastbn import cli, experiments, models
from fastbn.experiments import (
    Claim,
    Experiment,
    Results,
    Spread,
    registry,
    reproduce,
    training,
    verdict,
)
from fastbn.train import Trainer


@dataclass(frozen=True)
class Settings:
    steps: int = 3


class Toy:
    """An experiment that counts how often it measures."""

    def __init__(self) -> None:
        self.measured: list[tuple[str, int]] = []
        self.stop_at: tuple[str, int] | None = None
        self.experiment = Experiment(
            name="toy",
            doc="A toy.\n\nThat does | nothing.",
            full=Settings(),
            quick=Settings(1),
            networks=lambda settings: ["BN", "a/b × 2"],
            measure=self.measure,
            judge=self.judge,
            draw=self.draw,
        )

    def measure(self, settings: Settings, network: str, seed: int) -> dict[str, Any]:
        if (network, seed) == self.stop_at:
            raise KeyboardInterrupt
        self.measured.append((network, seed))
        loss = np.arange(settings.steps, dtype=np.float32) + seed
        return {"loss": loss, "end": loss[-1], "broken": float("nan")}

    def judge(self, results: Results) -> list[Claim]:
        assert results.series("BN", "loss").shape[1] == results.settings.steps
        return [Claim("a text", "1 < 2 | <b>", verdict(True), f"{results.spread('BN', 'end'):.1f}")]

    def draw(self, results: Results) -> Any:
        from fastbn.experiments import plots

        figure, axes = plots.figure("A toy")
        look = plots.style("BN")
        values = results.series("BN", "loss")
        plots.curve(axes[0, 0], range(values.shape[1]), values, "BN", look)
        plots.bars(axes[0, 0], ["BN"], [values], [look])
        yield "loss", figure


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Toy:
    toy = Toy()
    frame = sys.modules["fastbn.experiments.reproduce"]  # the package has a function of that name
    monkeypatch.setattr(frame, "get", lambda name: toy.experiment)
    monkeypatch.setattr(frame, "NAMES", ("toy",))
    return toy


def test_what_is_measured_is_kept(toy: Toy, tmp_path: Path) -> None:
    toy.stop_at = ("a/b × 2", 1)
    with pytest.raises(KeyboardInterrupt):
        reproduce("toy", tmp_path / "out", seeds=2)
    assert toy.measured == [("BN", 0), ("BN", 1), ("a/b × 2", 0)]
    toy.stop_at = None
    told = reproduce("toy", tmp_path / "out", seeds=2)
    assert toy.measured[3:] == [("a/b × 2", 1)]
    assert told == reproduce("toy", tmp_path / "out", seeds=2)
    reproduce("toy", tmp_path / "out", seeds=3)
    assert toy.measured[4:] == [("BN", 2), ("a/b × 2", 2)]


def test_result(toy: Toy, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="plots need matplotlib")
    told = reproduce("toy", tmp_path, seeds=2)
    assert told == json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    assert told["numbers"]["BN"]["end"] == {"mean": 2.5, "std": 0.5**0.5, "values": [2.0, 3.0]}
    assert told["numbers"]["BN"]["broken"]["mean"] is None
    assert told["plots"] == {"loss": "loss.png"}
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "1 &lt; 2 | &lt;b&gt;" in page
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "| a text | 1 < 2 \\| <b> | ✔ holds | 2.5 ± 0.7 |" in text
    assert "not finite in 2 of 2" in text


def test_other_settings_are_refused(toy: Toy, tmp_path: Path) -> None:
    reproduce("toy", tmp_path, seeds=1)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(FileExistsError, match="with other settings"):
        reproduce("toy", tmp_path, seeds=1, quick=True)
    assert sorted(tmp_path.rglob("*")) == before


def test_arguments(toy: Toy, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="toy makes its own data"):
        reproduce("toy", tmp_path, data=["mnist"])
    with pytest.raises(ValueError, match="seeds should be a positive integer, got 0"):
        reproduce("toy", tmp_path, seeds=0)
    with pytest.raises(ValueError, match="there is no experiment 'none'"):
        registry.get("none")
    assert not list(tmp_path.iterdir())


def test_all_makes_one_page(toy: Toy, tmp_path: Path) -> None:
    assert experiments.reproduce_all(tmp_path, seeds=1, data=["mnist"]) == {}
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert 'href="toy/index.html"' in page
    assert (tmp_path / "toy" / "index.html").exists()


def test_all_tells_what_is_missing(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(*_: Any) -> Any:
        raise FileNotFoundError("no such data")

    monkeypatch.setattr(toy, "measure", missing)
    object.__setattr__(toy.experiment, "measure", missing)
    with pytest.raises(SystemExit) as left:
        cli.main(["reproduce", "all", "-o", str(tmp_path)])
    assert left.value.code == 2
    assert "fastbn: error: toy: no such data" in capsys.readouterr().err
    assert "no such data" in (tmp_path / "index.html").read_text(encoding="utf-8")


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(["reproduce", "--list"])
    assert left.value.code == 0
    out = capsys.readouterr().out
    assert all(name in out for name in experiments.NAMES)


@pytest.mark.parametrize("name", experiments.NAMES)
def test_declared(name: str) -> None:
    experiment = experiments.get(name)
    assert experiment.name == name
    assert experiment.title
    assert experiment.text
    names = list(experiment.networks(experiment.quick))
    assert len(names) == len(set(names)) > 1
    root = Path(__file__).parents[2]
    assert (root / "docs" / "experiments" / f"{name}.md").exists()
    path = root / "fastbn" / "experiments" / f"{name.replace('-', '_')}.py"
    assert len(path.read_text(encoding="utf-8").splitlines()) < 200


def test_watch_and_fit(rng: np.random.Generator) -> None:
    x = rng.normal(size=(10, 4)).astype(np.float32)
    trainer = Trainer(models.mlp((4,), 2, hidden=(3,), rng=0))
    watch = training.Watch([0, 2, 7, 9], lambda t: t.steps)
    assert training.fit(trainer, (x, np.arange(10) % 2), 7, 4, 0, [watch]) is None
    assert watch.values == [0, 2, 7, None]
    assert trainer.steps == 7
    trainer.net.parameters()[0].data[...] = 1e30
    trainer.optimizer.lr = 1e30
    assert training.fit(trainer, (x * 1e30, np.arange(10) % 2), 20, 4, 0) is not None


def test_spread() -> None:
    assert f"{Spread([1.0, 3.0]):.2f}" == "2.00 ± 1.41"
    assert f"{Spread([1.0, float('nan')]):.2f}" == "not finite in 1 of 2"
