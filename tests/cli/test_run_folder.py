"""The folder of a run: what is in it, what is never lost, and what is made of it."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastbn import data, models, nn, optim, train
from fastbn.export import to_onnx

Run = Callable[..., int]

pytest.importorskip("sklearn", reason="the digits are part of scikit-learn")

FILES = {
    "config.toml",
    "model.safetensors",
    "last.safetensors",
    "history.csv",
    "report.json",
    "report.html",
}
DIGITS = ("--data", "digits", "--epochs", "4", "--set", "hidden=24", "--lr", "0.02")
RECIPE = (*DIGITS, "--val-split", "0.2", "--augment", "brightness", "--schedule", "cosine")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def weights(folder: str) -> dict[str, Any]:
    return train.read(Path(folder) / "model.safetensors")[0]


def report_of(folder: str) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((Path(folder) / "report.json").read_text(encoding="utf-8"))
    return told


def test_everything_is_there(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", "mlp", *RECIPE, "-o", "run", "--early-stopping", "3") == 0
    shown = capsys.readouterr()
    assert "test_accuracy" in shown.out
    assert shown.err.count("\n") == 4
    assert shown.err.startswith("epoch 1: loss ")
    assert {path.name for path in Path("run").iterdir()} >= FILES
    told = report_of("run")
    assert told["test_accuracy"] > 0.8
    assert np.sum(told["confusion"]) == 360
    assert told["arguments"]["set"] == {"hidden": 24}
    assert {layer["layer"].split()[1].split("(")[0] for layer in told["layer_times"]} >= {"Linear"}
    assert [record["epoch"] for record in told["monitor"]] == [1, 2, 3, 4]
    with (Path("run") / "history.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [float(row["val_loss"]) for row in rows] == [r["val_loss"] for r in told["history"]]
    best = min(told["history"], key=lambda row: row["val_loss"])["epoch"]
    assert told["best_epoch"] == best
    config = tomllib.loads((Path("run") / "config.toml").read_text(encoding="utf-8"))
    assert config["augment"] == ["brightness"]
    assert config["set"] == {"hidden": 24}


def test_quiet_and_json(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", "mlp", *DIGITS, "-o", "run", "--quiet") == 0
    assert capsys.readouterr() == ("", "")
    assert run("train", "mlp", *DIGITS, "-o", "run", "--overwrite", "--quiet", "--json") == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out) == report_of("run")
    assert shown.err == ""


def test_a_folder_that_cannot_be_is_refused_before_the_first_epoch(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("file").write_text("")
    for output in ("file", "file/run"):
        assert run("train", "mlp", *RECIPE, "-o", output) == 2
        shown = capsys.readouterr().err
        assert "file is a file; name a folder" in shown
        assert "epoch" not in shown
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert run("train", "mlp", *RECIPE, "-o", "new/run") == 2
    shown = capsys.readouterr().err
    assert "is read-only; name another --output" in shown
    assert "epoch" not in shown
    assert not Path("new").exists()


def test_the_config_does_it_again(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", "mlp", *RECIPE, "-o", "first") == 0
    assert run("train", "first/config.toml", "-o", "second") == 0
    np.testing.assert_equal(weights("first"), weights("second"))
    assert run("train", "first/config.toml", "-o", "third", "--seed", "1") == 0
    with pytest.raises(AssertionError):
        np.testing.assert_equal(weights("first"), weights("third"))
    capsys.readouterr()
    assert run("train", "first/config.toml") == 2
    assert "first holds a run: --resume first continues it" in capsys.readouterr().err
    assert run("compare", "first", "third", "--json", "-o", "page.html") == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows["seed"] == {"first": 0, "third": 1}
    assert "test_accuracy" in rows
    assert "epochs" not in rows
    assert Path("page.html").read_text(encoding="utf-8").count("data-chart") >= 4
    assert run("compare", "first", "third") == 0
    assert "seed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('model = "mlp"\ndata = "digits"\nepocs = 3', "no 'epocs'; did you mean 'epochs'?"),
        ('model = "mlp"\ndata = "digits"\nepochs = "3"', "epochs should be a whole number"),
        ('model = "mlp"\ndata = "digits"\nepochs = 0', "epochs should be at least 1"),
        ('model = "mlp"\ndata = "digits"\nema = 1', "ema should be in [0, 1)"),
        ('model = "mlp"\ndata = "digits"\noptimizer = "adm"', "did you mean 'adam'?"),
        ('model = "mlp"\ndata = "digits"\naugment = ["flp"]', "did you mean 'flip'?"),
        ('model = "mlp"\ndata = "digits"\n[set]\nhiden = 3', "did you mean 'hidden'?"),
        ('model = "mlp"', "data missing"),
        ("model = ", "not a TOML file"),
    ],
)
def test_wrong_configs(
    run: Run, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    Path("config.toml").write_text(text, encoding="utf-8")
    assert run("train", "config.toml", "-o", "run") == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.err.count("\n") == 1
    assert not Path("run").exists()


def test_wrong_use(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        (["train"], "name a MODEL"),
        (["train", "mlp"], "--data"),
        (["train", "--resume", "nowhere"], "no run of fastbn train"),
        (["train", "--resume", "nowhere", "--epochs", "3"], "no others"),
        (["train", "mlp", *DIGITS, "--set", "hidden"], "NAME=VALUE"),
        (["train", "mlp", *DIGITS, "--final-lr", "0.1", "--schedule", "one_cycle"], "final_lr"),
        (["report", "nowhere"], "no run of fastbn train"),
        (["compare", "nowhere"], "two folders"),
        (["compare", "nowhere", "there"], "make it with fastbn report nowhere"),
    ):
        assert run(*arguments) == 2
        assert message in capsys.readouterr().err
    Path("full").mkdir()
    Path("full/notes.txt").write_text("mine")
    for extra in ([], ["--overwrite"]):
        assert run("train", "mlp", *DIGITS, "-o", "full", *extra) == 2
        assert "notes.txt" in capsys.readouterr().err
    assert [path.name for path in Path("full").iterdir()] == ["notes.txt"]


def test_a_run_is_replaced_only_when_told_so(run: Run) -> None:
    assert run("train", "mlp", *DIGITS, "-o", "run") == 0
    before = weights("run")
    assert run("train", "mlp", *DIGITS, "-o", "run", "--seed", "1") == 2
    np.testing.assert_equal(before, weights("run"))
    assert run("train", "mlp", *DIGITS, "-o", "run", "--seed", "1", "--overwrite") == 0
    with pytest.raises(AssertionError):
        np.testing.assert_equal(before, weights("run"))


def test_what_is_not_finite_ends_with_exit_code_3(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("train", "mlp", *DIGITS, "-o", "run") == 0
    before = weights("run")
    capsys.readouterr()
    wrong = ("--optimizer", "sgd", "--lr", "1e30", "--overwrite")
    assert run("train", "mlp", *DIGITS, "-o", "run", *wrong) == 3
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("fastbn: error: training stopped at step ")
    np.testing.assert_equal(before, weights("run"))  # a good one of before
    assert report_of("run")["arguments"]["optimizer"] == "adam"


def test_report_makes_the_page_again(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", "mlp", *RECIPE, "-o", "run") == 0
    first = report_of("run")
    for name in ("report.json", "report.html"):
        (Path("run") / name).unlink()
    assert run("report", "run") == 0
    again = report_of("run")
    for name in ("history", "confusion", "monitor", "best_epoch", "test_loss", "arguments"):
        assert again[name] == first[name], name
    page = (Path("run") / "report.html").read_text(encoding="utf-8")
    assert "Most wrong images" in page
    assert not re.search(r"(?:src|href)\s*=\s*.?(?:https?:)?//|url\(|@import|fetch\(", page)


def test_lr_find_of_a_fine_tuning(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    to_onnx(models.mlp((8, 8, 1), 4, rng=0), "net.onnx", allow_untrained=True)
    tuning = ("--data", "digits", "--freeze", "none", "--epochs", "1", "--schedule", "cosine")
    assert run("finetune", "net.onnx", *tuning, "-o", "run", "-q") == 0
    capsys.readouterr()
    assert run("lr-find", "run/config.toml", "--json") == 0
    assert len(json.loads(capsys.readouterr().out)["lr"]) > 10


def test_lr_find(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("lr-find", "mlp", "--data", "digits", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert 1e-6 < found["suggestion"] < 10.0
    assert run("lr-find", "mlp", "--data", "digits", "--steps", "30") == 0
    assert "suggestion" in capsys.readouterr().out


def test_averages(run: Run) -> None:
    """The averages of the steps, with statistics of the training part: as by hand."""
    assert run("train", "mlp", *DIGITS, "-o", "plain", "--quiet") == 0
    assert run("train", "mlp", *DIGITS, "-o", "run", "--ema", "0.9", "--quiet") == 0
    digits = data.load("digits")
    net = models.mlp(digits.input_shape, hidden=(24,), rng=np.random.default_rng(0))
    average: dict[str, Any] = {}

    class Follow(train.Callback):
        updates = 0

        def on_step(self, trainer: train.Trainer) -> None:
            decay = min(0.9, (1 + self.updates) / (10 + self.updates))
            for parameter, value in trainer.net.named_parameters():
                before = average.get(parameter, started[parameter])
                average[parameter] = decay * before + (1 - decay) * value.data.astype(np.float64)
            self.updates += 1

    started = {name: p.data.astype(np.float64) for name, p in net.named_parameters()}
    trainer = train.Trainer(net, optimizer=optim.Adam(net.parameters(), lr=0.02))
    trainer.fit(digits, 4, 64, callbacks=[Follow()], rng=0)
    np.testing.assert_equal(net.state_dict(), weights("plain"))
    found = weights("run")
    for name, value in average.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-6, err_msg=name)
    net.load_state_dict(found)
    nn.population_statistics(net, (x for x, _ in digits.batches(64, rng=0)))
    np.testing.assert_equal(net.state_dict(), found)
    told = report_of("run")
    assert told["test_accuracy"] == train.Trainer(net).evaluate(digits).accuracy
    assert told["best_epoch"] is None
    assert run("report", "run") == 0
    assert report_of("run")["test_accuracy"] == told["test_accuracy"]


def test_averages_of_a_network_without_batch_norm(run: Run) -> None:
    Path(f"plain_{os.getpid()}.py").write_text(
        "from fastbn import nn\n"
        "def net(input_shape, classes, rng):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes, rng=rng))\n",
        encoding="utf-8",
    )
    options = ("--data", "digits", "--epochs", "2", "--ema", "0.99", "--quiet")
    assert run("train", f"plain_{os.getpid()}:net", *options) == 0


# --- interruptions --------------------------------------------------------------------------

PROGRAM = "import sys; from fastbn.cli import main; main(sys.argv[1:])"
LONG = ("train", "mlp", *RECIPE, "--epochs", "60", "--save-every", "7", "--ema", "0.98")


def started(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments], stderr=subprocess.PIPE, text=True
    )


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_writes_a_checkpoint(signum: signal.Signals) -> None:
    whole = started(*LONG, "-o", "whole")
    with started(*LONG, "-o", "run") as stopped:
        assert stopped.stderr is not None
        stopped.stderr.readline()  # the first epoch
        stopped.send_signal(signum)
        said = stopped.stderr.read()
    assert stopped.returncode == 128 + signum
    assert "fastbn train --resume run continues it" in said
    with started("train", "--resume", "run") as resumed:
        assert resumed.stderr is not None
        resumed.stderr.read()
    assert resumed.returncode == 0
    with whole:
        assert whole.stderr is not None
        whole.stderr.read()
    assert_same_runs("whole", "run")


def assert_same_runs(first: str, second: str) -> None:
    np.testing.assert_equal(weights(first), weights(second))
    rows = []
    for folder in (first, second):
        told = report_of(folder)
        for row in told["history"]:
            del row["seconds"], row["images_per_second"]
        rows.append([told["history"], told["confusion"], told["monitor"], told["best_epoch"]])
    assert rows[0] == rows[1]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_killed_and_resumed(request: pytest.FixtureRequest) -> None:
    """In a short form; ``--kills 50`` is the long one."""
    with started(*LONG, "-o", "whole", "--quiet") as whole:
        pass
    assert whole.returncode == 0
    rng = np.random.default_rng(1)
    for number in range(request.config.getoption("--kills")):
        resumes = Path("run/last.safetensors").exists()
        arguments = ("--resume", "run") if resumes else (*LONG[1:], "-o", "run")
        with started("train", *arguments) as killed:
            assert killed.stderr is not None
            if number % 2:
                killed.stderr.readline()
            else:
                time.sleep(rng.uniform(0.5, 2.5))
            time.sleep(rng.uniform(0.0, 0.05))
            killed.kill()
            killed.stderr.read()
        present = {path.name for path in Path("run").iterdir()} if Path("run").exists() else set()
        assert not present or {"config.toml", "last.safetensors"} <= present
    resumes = Path("run/last.safetensors").exists()
    arguments = ("--resume", "run") if resumes else (*LONG[1:], "-o", "run")
    with started("train", *arguments, "--quiet") as last:
        pass
    assert last.returncode == 0
    assert_same_runs("whole", "run")
    assert not list(Path().rglob(".*.tmp"))
