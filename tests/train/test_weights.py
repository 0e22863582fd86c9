"""Files of weights: what they say, what they refuse, and that a kill leaves one whole."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
from safetensors.numpy import save_file

from fastbn import models, nn, train
from fastbn.files import atomic


def trained(rng: int = 0) -> nn.Module:
    net = models.convnet((8, 8, 1), 4, channels=(4, 4), hidden=6, rng=rng)
    net(np.random.default_rng(rng).random((3, 8, 8, 1), dtype=np.float32))
    net.discard()
    return net


def assert_equal_states(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert a.keys() == b.keys()
    for name, value in a.items():
        np.testing.assert_array_equal(value, b[name], err_msg=name)
        assert value.dtype == b[name].dtype


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    net = trained()
    written = train.save(
        net,
        path,
        classes=("a", "b", "c", "d"),
        input_normalization={"mean": [0.5], "std": [0.25]},
    )
    again = train.load(path)
    assert_equal_states(net.state_dict(), again.state_dict())
    assert again.input_shape == (8, 8, 1)
    assert again.training
    assert not train.load(path, inference=True).training
    state, metadata = train.read(path)
    assert_equal_states(net.state_dict(), state)
    assert metadata.model == "convnet"
    assert metadata.arguments["channels"] == [4, 4]
    assert metadata.input_shape == [8, 8, 1]
    assert metadata.classes == ["a", "b", "c", "d"]
    assert metadata.input_normalization == {"mean": [0.5], "std": [0.25]}
    assert metadata.format_version == written.format_version == 1


def test_others_can_read_the_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    net = trained()
    train.save(net, path)
    with safetensors.safe_open(path, framework="numpy") as file:
        assert set(file.keys()) == set(net.state_dict())
        described = json.loads(file.metadata()["fastbn"])
        np.testing.assert_array_equal(file.get_tensor("0.weight"), net.state_dict()["0.weight"])
    assert described["format_version"] == 1
    assert described["arguments"]["input_shape"] == [8, 8, 1]


def test_networks_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "own.safetensors"
    net = nn.Sequential(nn.Linear(3, 2, rng=0), nn.BatchNorm(2)).astype(np.float64).build((3,))
    train.save(net, path, model="package.module:factory", arguments={"size": 3})
    with pytest.raises(ValueError, match=r"made by package\.module:factory, which is not"):
        train.load(path)
    other = nn.Sequential(nn.Linear(3, 2, rng=1), nn.BatchNorm(2)).astype(np.float64)
    assert train.load(path, other) is other
    assert_equal_states(net.state_dict(), other.state_dict())
    assert other.input_shape == (3,)
    small = nn.Sequential(nn.Linear(3, 2))
    with pytest.raises(ValueError, match=r"own.safetensors: Error\(s\) in loading state_dict"):
        train.load(path, small)
    train.save(nn.Linear(2, 2), path)
    with pytest.raises(ValueError, match="an unnamed network"):
        train.load(path)


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_damaged_files_are_refused(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "model.safetensors"
    train.save(trained(), path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"model\.safetensors: not a whole"):
        train.load(path)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (None, "not one of fastbn's"),
        ({"fastbn": "[]"}, "not one of fastbn's"),
        ({"fastbn": "{"}, "not one of fastbn's"),
        ({"fastbn": '{"format_version": 99}'}, "format version 99, this fastbn reads 1"),
        (
            {"fastbn": '{"format_version": 1, "arguments": [1], "input_shape": ["x"]}'},
            "metadata of wrong type: arguments, input_shape",
        ),
        ({"fastbn": '{"format_version": 1, "model": "os:system"}'}, "made by os:system, which"),
        (
            {"fastbn": '{"format_version": 1, "model": "mlp", "arguments": {"deep": 1}}'},
            "takes no argument deep",
        ),
    ],
)
def test_foreign_files_are_refused(
    tmp_path: Path, metadata: dict[str, str] | None, message: str
) -> None:
    path = tmp_path / "foreign.safetensors"
    save_file({"0.weight": np.zeros((2, 2), dtype=np.float32)}, path, metadata)
    with pytest.raises(ValueError, match=message):
        train.load(path)


def test_unknown_entries_of_later_minor_versions_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "later.safetensors"
    save_file({}, path, {"fastbn": '{"format_version": 1, "colour": "green"}'})
    assert train.read(path)[1] == train.Metadata()


def test_a_failing_save_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.safetensors"
    train.save(trained(), path)
    before = path.read_bytes()
    with pytest.raises(TypeError, match="not JSON serializable"):
        train.save(trained(1), path, arguments={"rng": object()})

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        train.save(trained(1), path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.safetensors"]
    with pytest.raises(FileNotFoundError):
        train.save(trained(), tmp_path / "nowhere" / "model.safetensors")


@pytest.mark.skipif(os.name != "posix", reason="modes and links are POSIX's")
def test_modes_and_links_are_kept(tmp_path: Path) -> None:
    path, link = tmp_path / "model.safetensors", tmp_path / "latest"
    mask = os.umask(0o027)
    try:
        train.save(trained(), path)
    finally:
        os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o640
    path.chmod(0o604)
    link.symlink_to(path.name)
    train.save(trained(1), link)
    assert link.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o604
    assert_equal_states(train.load(path).state_dict(), trained(1).state_dict())


SAVER = """
import sys
from fastbn import nn, train
path = sys.argv[1]
nets = [nn.Sequential(nn.Linear(600, 400)) for _ in range(2)]
for value, net in enumerate(nets):
    for parameter in net.parameters():
        parameter.data.fill(value)
print("ready", flush=True)
while True:
    for net in nets:
        train.save(net, path)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
def test_a_kill_leaves_the_old_or_the_new_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    first = nn.Sequential(nn.Linear(600, 400))
    for parameter in first.parameters():
        parameter.data.fill(2)
    train.save(first, path)
    rng = np.random.default_rng(0)
    replaced = unfinished = 0
    for _ in range(40):
        with subprocess.Popen(
            [sys.executable, "-c", SAVER, str(path)], stdout=subprocess.PIPE
        ) as saver:
            assert saver.stdout is not None
            assert saver.stdout.readline() == b"ready\n"
            time.sleep(rng.uniform(0.0, 0.05))  # somewhere in the middle of some save
            saver.kill()
        state, _ = train.read(path)
        values = {value for array in state.values() for value in np.unique(array).tolist()}
        assert values in ({0.0}, {1.0}, {2.0})
        replaced += values != {2.0}
        for entry in tmp_path.iterdir():
            if entry != path:
                assert entry.name.endswith(".tmp")
                entry.unlink()
                unfinished += 1
        if replaced >= 4 and unfinished >= 4:
            break
    assert replaced
    assert unfinished, "no kill hit a save: the test has shown nothing"


def test_atomic_writes_take_any_content(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for content in (b"", b"one", bytes(range(256)) * 999):
        with atomic(path) as temporary:
            temporary.write_bytes(content)
        assert path.read_bytes() == content


def test_several_inputs(tmp_path: Path) -> None:
    def build() -> nn.Graph:
        x, side = nn.Input((4, 4, 2)), nn.Input((3,))
        h = nn.GlobalAvgPool2d()(nn.Conv2d(2, 5, 3, rng=0)(x))
        return nn.Graph((x, side), nn.Linear(8, 2, rng=1)(nn.concat(h, side)))

    net, path = build(), tmp_path / "net.safetensors"
    metadata = train.save(net, path, model="mine:build", classes=("a", "b"))
    assert metadata.input_shape == [(4, 4, 2), (3,)]
    assert train.read(path)[1] == metadata
    again = train.load(path, build())
    assert again.input_shape == ((4, 4, 2), (3,))
    np.testing.assert_equal(again.state_dict(), net.state_dict())
    path.write_bytes(path.read_bytes().replace(b"[[4, 4, 2], [3]]", b"[[4, 4, 2], [0]]"))
    with pytest.raises(ValueError, match="wrong type: input_shape"):
        train.read(path)
