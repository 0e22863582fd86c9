"""The benchmark of training steps: same weights, same losses, its rows. Nothing asks how fast."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from zoo import small

from fastbn import cli, nn
from fastbn import functional as F
from fastbn.bench import load, rows, table, train, train_targets, trainer
from fastbn.bench.networks import NETWORKS, choose
from fastbn.bench.peers import installed, torch_train
from fastbn.bench.peers.client import PeerError, Worker
from fastbn.bench.peers.fastbn_train import Suite
from fastbn.bench.peers.suite import WARM_STEPS
from fastbn.bench.peers.worker import answer
from fastbn.bench.profile import Profile, arrays


@pytest.fixture
def suite(set_threads: object, monkeypatch: pytest.MonkeyPatch) -> Suite:
    monkeypatch.setattr(load, "TRIES", 1)  # nothing here asks how fast
    return Suite(1)


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_are_the_same_every_time_and_train(name: str) -> None:
    network = NETWORKS[name]
    net, again = network.make(), network.make()
    for parameter, other in zip(net.parameters(), again.parameters(), strict=True):
        np.testing.assert_array_equal(parameter.data, other.data)
    assert net.training
    assert net.output_shape(network.input_shape) == (10,)
    (x, labels), *rest = network.data(2)
    (x_again, labels_again), *_ = network.data(2)
    np.testing.assert_array_equal(x, x_again)
    np.testing.assert_array_equal(labels, labels_again)
    assert not np.array_equal(x, rest[0][0])


@pytest.mark.parametrize(
    "name", ["resnet18", "resnet50", "mobilenet_v2", "densenet121", "efficientnet_lite0"]
)
def test_peers_draw_the_same_graph(name: str, torch: Any, rng: np.random.Generator) -> None:
    net = small(name, (32, 35, 3), 4, rng=0)
    ranks = {id(layer): 3 for layer in net.modules()}  # BatchNorms see images alone
    theirs = torch_train.translate(torch, net, ranks)
    state = {key: torch.from_numpy(value) for key, value in net.state_dict().items()}
    assert list(theirs.state_dict()) == list(state)
    theirs.load_state_dict(state)
    x = rng.standard_normal((4, 32, 35, 3)).astype(np.float32)
    expected = theirs.eval()(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).detach().numpy()
    np.testing.assert_allclose(net.predict(x), expected, rtol=1e-4, atol=1e-5)


def test_every_turn_begins_with_the_same_weights(suite: Suite) -> None:
    suite.open("mlp", 4, "")
    first, second = suite.turn(3), suite.turn(3)
    assert first["losses"] == second["losses"]
    assert len(first["losses"]) == WARM_STEPS + 3
    assert len(set(first["losses"])) == WARM_STEPS + 3
    assert first["times"]["step"] > 0
    memory = suite.peak()["peak_mb"]
    assert memory is None or memory >= 0


def test_profile_counts_the_arithmetic_of_a_step(suite: Suite) -> None:
    suite.open("mlp", 4, "")
    told = suite.profile(2)
    weights = 784 * 128, 128 * 64, 64 * 10
    assert told["flops"] == 2 * 4 * (3 * sum(weights) - weights[0])  # no dx of the first layer
    operations = {entry["operation"]: entry for entry in told["operations"]}
    assert operations["linear 4×784 → 128"]["calls"] == 1
    assert operations["batch_norm 4×128 + relu, backward"]["gbps"] > 0
    assert operations["linear 4×128 → 64, backward"]["gflops"] > 0
    text = printed(table.profile_table("mlp", told["operations"]))
    assert all(name in text for name in operations)


def test_profile_of_a_convolution_and_a_residual(rng: np.random.Generator) -> None:
    body = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm(4))
    block = nn.Residual(body)
    x = rng.standard_normal((2, 5, 6, 4), np.float32)
    with Profile() as profile:
        block.backward(block(x), need_dx=True)
    assert profile.flops == 3 * 2 * x.size * 4 * 9
    names = [entry["operation"] for entry in profile.operations(1)]
    assert "conv2d 2×5×6×4 → 4, 3×3" in names
    assert "batch_norm 2×5×6×4 + residual + relu, backward" in names


def test_profile_leaves_everything_as_it_was() -> None:
    before = dict(vars(F))
    with pytest.raises(ValueError, match="expected"), Profile():
        F.batch_norm(np.zeros(3), None, None, training=True)
    assert dict(vars(F)) == before


def test_arrays_are_counted_once() -> None:
    a, b = np.zeros(2), np.ones(3)
    assert arrays((a, (b, a)), {"out": a, "bias": None}) == [a, b]


def test_a_process_of_its_own_answers_and_ends() -> None:
    with Worker("fastbn", "train", 1) as worker:
        worker.ask("open", network="mlp", batch=4, variant="")
        reply = worker.ask("turn", steps=1)
        assert len(reply["losses"]) == WARM_STEPS + 1
        with pytest.raises(PeerError, match=r"fastbn: KeyError: 'no such network'"):
            worker.ask("open", network="no such network", batch=4, variant="")
        process = worker._process
    assert process.returncode == 0


def test_a_process_that_ended_is_an_error() -> None:
    with (
        Worker("fastbn", "no_such_suite", 1) as worker,
        pytest.raises(PeerError, match=r"the process ended: ModuleNotFoundError"),
    ):
        worker.ask("turn", steps=1)


def test_a_process_that_takes_too_long_is_ended() -> None:
    with Worker("fastbn", "train", 1) as worker:
        worker.ask("peak", patience=60.0)
        with pytest.raises(PeerError, match=r"fastbn: no answer within 0\.05 s"):
            worker.ask("open", patience=0.05, network="inception", batch=64, variant="")
        assert worker._process.wait(10) != 0


def test_a_variant_that_fails_is_told_and_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "VARIANTS", {"no_such_peer": ("compile fused",)})
    found, told = train.Found(), []
    train.measure(
        "mlp", 4, 1, found, peers=["no_such_peer"], rounds=1, progress=told.append
    )  # fmt: skip
    assert [row.op for row in found.rows] == ["train"]
    (line,) = found.left_out
    assert line.startswith("mlp, batch 4, threads 1, no_such_peer compile fused: no_such_peer: the")
    assert "mlp, batch 4, threads 1: first steps of no_such_peer compile fused, 2 of 2" in told


def test_targets_of_steps() -> None:
    found = [
        row(us=600.0, x_torch=3.6, peak_mb=6.0),
        row(op="train: torch eager", us=3000.0, peak_mb=8.0),
        row(op="train: torch compile", us=2160.0, peak_mb=10.0),
        row(us=300.0, threads=2, minor_faults=0.25),
        row(name="convnet4", shape=(64, 28, 28, 1), x_torch=1.4),
    ]
    results = {(result.label, result.threads): result for result in train_targets.judge(found)}
    assert len(results) == 6
    assert results["mlp, batch 32, × torch", "1"].reached
    assert not results["convnet4, batch 64, × torch", "1"].reached
    memory = results["peak memory, × torch", "1"]  # of the fastest
    assert (memory.mean, memory.count, memory.reached) == (pytest.approx(0.6), 1, True)
    assert results["page faults of a step", "1"].reached
    assert not results["page faults of a step", "2"].reached
    assert results["2 threads over 1", "2"].mean == pytest.approx(2.0)
    assert "≥ 1.8" in printed(table.results_table(list(results.values())))


def test_worker_answers_every_message() -> None:
    class Echo:
        def say(self, word: str) -> dict[str, str]:
            return {"said": word}

    replies: list[str] = []
    messages = io.StringIO('{"do": "say", "word": "a"}\n{"do": "sing"}\n{"do": "say"}\n')
    answer(Echo(), messages, replies.append)
    first, second, third = map(json.loads, replies)
    assert first == {"said": "a"}
    assert "sing" in second["error"]
    assert "TypeError" in third["error"]


def printed(found: object) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(found)
    return capture.get()


def row(**changes: Any) -> train.TrainRow:
    values: dict[str, Any] = {
        "name": "mlp", "shape": (32, 28, 28, 1), "layout": "nhwc", "op": "train",
        "dtype": "float32", "threads": 1, "us": 500.0, "gflops": 50.0,
        "images_per_second": 64_000.0, "peak_mb": 5.0, "minor_faults": 0.0,
    }  # fmt: skip
    return train.TrainRow(**(values | changes))


def test_table_of_steps(tmp_path: Path) -> None:
    found = [row(x_torch=2.5), row(op="train: torch eager", us=1250.0), row(x_torch=0.9)]
    made = table.train_table(found, {1: 100.0}, "avx2")
    assert [line.style for line in made.rows] == ["bold", None, "red"]
    text = printed(made)
    assert "torch eager" in text
    assert "50%" in text
    assert "64,000" in text
    rows.write(tmp_path / "a.json", rows.machine([1]), found)
    first, *_ = json.loads((tmp_path / "a.json").read_text("utf-8"))["rows"]
    assert (first["name"], first["images_per_second"], first["peak_mb"]) == ("mlp", 64_000.0, 5.0)


def test_variants_without_images_have_one_layout() -> None:
    assert not any("channels_last" in variant for _, variant in train.variants("mlp", ["torch"]))
    assert len(train.variants("convnet4", ["torch"])) == len(train.VARIANTS["torch"])
    assert train.variants("mlp", ["jax"]) == [("jax", "jit")]
    assert train.variants("mlp", ["tensorflow"]) == [("tensorflow", v) for v in ("function", "xla")]
    assert train.variants("convnet4", []) == []
    assert train.variants("convnet4", ["torch"], "last fused") == [
        ("torch", "eager channels_last fused"),
        ("torch", "compile channels_last fused"),
    ]
    with pytest.raises(ValueError, match="no variant of torch has 'swift' in its name"):
        train.run(["mlp"], [1], peers=["torch"], part="swift")


def test_unknown_network() -> None:
    assert choose(["all"]) == ["mlp", "convnet4", "resnet20", "inception"]
    assert choose(["resnet50", "mlp"]) == ["resnet50", "mlp"]
    with pytest.raises(ValueError, match="'vgg' is not one of all, mlp"):
        choose(["mlp", "vgg"])


def test_disturbed_measurements_are_taken_again(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 0.5, 0.5, 0.6, 0.6, 0.6])  # waited before and behind each of three
    monkeypatch.setattr(load, "waited_seconds", lambda: next(clock))
    results = iter("abc")
    assert load.undisturbed(lambda: next(results), lambda _: 1.0) == "c"
    clock = iter([0.0, 0.5, 0.5, 0.6, 0.6, 1.6, 1.6, 2.6, 2.6, 3.6])
    results = iter("abcde")
    assert load.undisturbed(lambda: next(results), lambda _: 1.0) == "b"


def test_busy_cores_are_cores() -> None:
    busy = load.busy_cores(0.05)
    assert busy is None or busy >= 0


def test_command_without_peers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--network", "mlp", "--batch", "4", "--threads", "1", "--peers", "none"]
    arguments += ["--rounds", "1", "--profile", "--json", str(tmp_path / "a.json")]
    with pytest.raises(SystemExit) as end:
        cli.main(["bench", "train", *arguments])
    assert end.value.code == 0
    captured = capsys.readouterr()
    assert "linear 4×784 → 128" in captured.out
    assert "page faults of a step" in captured.out
    assert "mlp, batch 4, threads 1: 1 sides in 1 turns" in captured.err
    (found,) = json.loads((tmp_path / "a.json").read_text("utf-8"))["rows"]
    assert (found["name"], found["op"], found["shape"]) == ("mlp", "train", [4, 28, 28, 1])
    assert found["x_torch"] is None
    assert found["images_per_second"] > 0


def test_what_is_measured_outlasts_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(network: str, batch: int, threads: int, found: train.Found, **_: object) -> None:
        if found.rows:
            raise KeyboardInterrupt
        found.rows.append(row(name=network, shape=(batch, 28, 28, 1), threads=threads))
        found.peak_gflops[threads] = 100.0

    monkeypatch.setattr(train, "measure", measure)
    with pytest.raises(SystemExit) as end:
        cli.main(["bench", "train", "--threads", "1", "--json", str(tmp_path / "a.json")])
    assert end.value.code != 0
    assert "64,000" in capsys.readouterr().out
    (found,) = json.loads((tmp_path / "a.json").read_text("utf-8"))["rows"]
    assert (found["name"], found["shape"]) == ("mlp", [32, 28, 28, 1])


def test_a_file_that_cannot_be_written_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "measure", pytest.fail)
    with pytest.raises(SystemExit) as end:
        cli.main(["bench", "train", "--json", str(tmp_path / "no_folder" / "a.json")])
    assert end.value.code == 2


@pytest.mark.parametrize("peer", [peer for peer in installed() if peer in train.VARIANTS])
def test_a_peer_trains_the_same(suite: Suite, peer: str) -> None:
    with Worker(peer, "train", 1) as worker:
        for name, recipe in NETWORKS.items():
            suite.open(name, 4, "")
            ours = suite.turn(1)["losses"]
            for _, variant in train.variants(name, [peer]):
                if "compile" not in variant:  # a minute each
                    worker.ask("open", network=name, batch=4, variant=variant)
                    theirs = worker.ask("turn", steps=1)["losses"]
                    alike = slice(recipe.alike)
                    train.same_losses(f"{peer} {variant}", ours[alike], theirs[alike])


def test_the_cost_of_a_trainer(capsys: pytest.CaptureFixture[str]) -> None:
    found = trainer.cost("mlp", batch=4, rounds=2, steps=3)
    assert found.bare_us > 0.0
    assert found.ratio > 0.0
    assert (found.network, found.threads) == ("mlp", 1)
    options = ["--network", "mlp", "--batch", "4", "--threads", "1", "--rounds", "1"]
    with pytest.raises(SystemExit) as caught:
        cli.main(["bench", "train", "--trainer", *options])
    assert caught.value.code == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("mlp, threads 1: a step takes ")
