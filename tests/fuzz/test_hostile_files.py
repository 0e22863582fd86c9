"""Files by mutation, given to the command line: one line, exit code 2, in bounded time and memory.

A few by default; ``FASTBN_FUZZ_FILES=300`` tries so many, ``FASTBN_FUZZ_SEED=1`` others. A failure
names the seed that makes its file again.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import re
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import hostile
import numpy as np
import onnx
import psutil
import pytest

from fastbn import models, train
from fastbn.bench.patterns import PATTERNS

FILES = int(os.environ.get("FASTBN_FUZZ_FILES", "14"))
SEED = int(os.environ.get("FASTBN_FUZZ_SEED", "0"))
# Of the files that ask for too much, the short form tries these.
FEW = ("expand", "outer_sum_of_constants", "idx_of_zeros")
# Of processor time, so that a busy machine fails nobody.
SECONDS = 10.0
MEMORY = 10**9
PATIENCE = 300.0

pytestmark = pytest.mark.skipif(not hasattr(os, "wait4"), reason="needs wait4 of POSIX")
Rng = np.random.Generator
Mutate = Callable[[Rng, bytes], bytes]


@dataclass
class End:
    """How a command ended."""

    code: int
    errors: str
    seconds: float
    memory: int


def high_water(pid: int) -> int:
    """Return the most bytes that a process or a child of it has held since it began its program.

    What wait4 tells includes what the process held that forked it, the tests.
    """
    most = 0
    with contextlib.suppress(psutil.Error, OSError):
        for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
            status = Path(f"/proc/{process.pid}/status").read_text()
            most = max(most, *(int(n) * 1024 for n in re.findall(r"VmHWM:\s+(\d+) kB", status)), 0)
    return most


def run(arguments: list[str]) -> End:
    """Run a command and measure it."""
    program = [sys.executable, "-c", "from fastbn.cli import main; main()", *arguments]
    process = subprocess.Popen(
        program, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, process_group=0
    )
    end = time.monotonic() + PATIENCE
    memory = 0
    while True:
        memory = max(memory, high_water(process.pid))
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            break
        if time.monotonic() > end:
            os.killpg(process.pid, 9)
        time.sleep(0.02)
    process.returncode = os.waitstatus_to_exitcode(status)
    with process.stderr:
        errors = process.stderr.read()
    return End(process.returncode, errors, usage.ru_utime + usage.ru_stime, memory)


def require_refused(end: End, *, or_fine: bool = False) -> None:
    """Check that a command refused its file as it should, or that the file was still right."""
    assert end.seconds < SECONDS
    assert end.memory < MEMORY
    assert "please report" not in end.errors, end.errors
    if or_fine and end.code == 0:
        return
    codes = (1, 2) if or_fine else (2,)
    assert end.code in codes, (end.code, end.errors)
    assert end.errors.startswith("fastbn: error: "), end.errors
    assert end.errors.count("\n") == 1, end.errors


@pytest.mark.parametrize("name", hostile.FILES if FILES >= 20 else FEW)
def test_files_that_ask_for_too_much(name: str, tmp_path: Path) -> None:
    require_refused(run(hostile.FILES[name](tmp_path)))
    assert not (tmp_path / "out.onnx").exists()


NUMBERS = (0, 1, 0x7F, 0xFF, 0x7FFFFFFF, 0xFFFFFFFF, 0x7FFFFFFFFFFFFFFF, 0xFFFFFFFFFFFFFFFF)


def damaged(rng: Rng, content: bytes) -> bytes:
    """Flip, cut, repeat and overwrite a few places."""
    data = bytearray(content)
    for _ in range(rng.integers(1, 5)):
        place = int(rng.integers(len(data) + 1))
        length = int(rng.integers(1, 1 + min(64, max(len(data), 1))))
        match rng.integers(6):
            case 0 if data:
                data[min(place, len(data) - 1)] ^= 1 << int(rng.integers(8))
            case 1:
                del data[place:]
            case 2:
                del data[place : place + length]
            case 3:
                data[place:place] = data[place : place + length]
            case 4:
                number = NUMBERS[rng.integers(len(NUMBERS))]
                order = "<" if rng.integers(2) else ">"
                data[place : place + 8] = struct.pack(order + "Q", number)
            case _:
                data[place : place + length] = rng.bytes(length)
    return bytes(data)


def odd_value(rng: Rng) -> object:
    """Draw something that JSON can hold and nobody expects."""
    values = (
        None, True, -1, 0, 2**31, 2**63, 1e308, float("nan"), "", "x" * 1000, [], {}, [[]],
        [2**31] * 3, {"mean": [1]}, ["a"] * 10_000, "os:system",
    )  # fmt: skip
    return values[rng.integers(len(values))]


def odd_weights(rng: Rng, content: bytes) -> bytes:
    """Put something odd into the header of a safetensors file, and let the rest fit."""
    (length,) = struct.unpack_from("<Q", content)
    header = json.loads(content[8 : 8 + length])
    described = json.loads(header["__metadata__"]["fastbn"])
    match rng.integers(4):
        case 0:
            described[list(described)[rng.integers(len(described))]] = odd_value(rng)
        case 1:
            arguments = described["arguments"]
            arguments[list(arguments)[rng.integers(len(arguments))]] = odd_value(rng)
        case 2:
            name = next(key for key in header if key != "__metadata__")
            entry = header[name]
            entry[list(entry)[rng.integers(len(entry))]] = odd_value(rng)
        case _:
            described = odd_value(rng)
    header["__metadata__"]["fastbn"] = json.dumps(described)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + length :]


def odd_model(rng: Rng, content: bytes) -> bytes:
    """Change fields of a model that parse and make no sense."""
    model = onnx.ModelProto.FromString(content)
    for _ in range(rng.integers(1, 4)):
        node = model.graph.node[rng.integers(len(model.graph.node))]
        number = (0, -1, 2**31, 2**40, -(2**63))[rng.integers(5)]
        match rng.integers(7):
            case 0 if node.attribute:
                attribute = node.attribute[rng.integers(len(node.attribute))]
                if attribute.ints:
                    attribute.ints[rng.integers(len(attribute.ints))] = number
                attribute.i = number
            case 1 if node.input:
                node.input[rng.integers(len(node.input))] = ("", "x", "nowhere")[rng.integers(3)]
            case 2:
                node.op_type = ("Loop", "Expand", "Tile", "Range", "Pad", "Resize")[rng.integers(6)]
            case 3:
                tensor = model.graph.initializer[rng.integers(len(model.graph.initializer))]
                tensor.dims[:] = [number, *tensor.dims[1:]]
            case 4:
                dims = model.graph.input[0].type.tensor_type.shape.dim
                dims[rng.integers(len(dims))].dim_value = number
            case 5:
                node.name = "\ud800".encode("utf-8", "surrogatepass").decode("latin-1") * 3
                del model.graph.output[:]
            case _:
                model.opset_import[0].version = number
                model.ir_version = max(number, 0)
    return model.SerializeToString()


def packed(mutate: Mutate) -> Mutate:
    """Damage what is inside of a gzip file, or the file itself."""
    return lambda rng, content: (
        damaged(rng, content)
        if rng.integers(2)
        else gzip.compress(mutate(rng, gzip.decompress(content)), mtime=0)
    )


def odd_arrays(rng: Rng, content: bytes) -> bytes:
    """Damage a member of an .npz file, whose checksums then fit."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            new.writestr(name, damaged(rng, old.read(name)[:200]) + old.read(name)[200:])
    return out.getvalue()


def either(*mutations: Mutate) -> Mutate:
    """One of several ways of going wrong."""
    return lambda rng, content: mutations[rng.integers(len(mutations))](rng, content)


IDX = "train-images-idx3-ubyte"
BATCH = "data_batch_1.bin"


def originals(folder: Path) -> dict[str, tuple[Path, Mutate, list[str]]]:
    """Write good files; give for each kind which one is damaged, how, and what reads it."""
    model, target = folder / "a.onnx", str(folder / "out.onnx")
    model.write_bytes(PATTERNS["residual-bn-bn-add"].build().SerializeToString())
    weights = folder / "a.safetensors"
    train.save(models.convnet((8, 8, 1), rng=0), weights, classes=[str(i) for i in range(10)])
    plain = folder / "plain.onnx"
    plain.write_bytes(PATTERNS["conv-bn"].build().SerializeToString())
    value = onnx.load(plain).graph.input[0]
    arrays = folder / "a.npz"
    dims = [d.dim_value or 2 for d in value.type.tensor_type.shape.dim]
    np.savez(arrays, **{value.name: np.ones(dims, np.float32)})
    images = np.arange(640, dtype=np.uint8).tobytes()
    labels = (np.arange(10) % 2).astype(np.uint8).tobytes()
    content = {
        "images-idx3": struct.pack(">4I", 0x803, 10, 8, 8) + images,
        "labels-idx1": struct.pack(">2I", 0x801, 10) + labels,
    }
    for kind in ("idx", "gz"):
        (folder / kind).mkdir()
        for part in ("train", "t10k"):
            for name, data in content.items():
                path = folder / kind / f"{part}-{name}-ubyte"
                path.write_bytes(data)
    path = folder / "gz" / IDX
    (folder / "gz" / f"{IDX}.gz").write_bytes(gzip.compress(path.read_bytes(), mtime=0))
    path.unlink()
    (folder / "bin").mkdir()
    for name in (BATCH, "test_batch.bin"):
        (folder / "bin" / name).write_bytes(bytes(4 * 3073))
    fold = ["fold", "-o", target]

    def training(kind: str) -> list[str]:
        data = ["--data", str(folder / kind), "--epochs", "1"]
        return ["train", "mlp", *data, "-o", str(folder / "run")]

    return {
        "onnx": (model, either(damaged, odd_model), [*fold, str(model)]),
        "safetensors": (
            weights,
            either(damaged, odd_weights),
            ["export", str(weights), "-o", target],
        ),
        "npz": (
            arrays,
            either(damaged, odd_arrays),
            [*fold, str(plain), "--check-data", str(arrays)],
        ),
        "idx": (folder / "idx" / IDX, damaged, training("idx")),
        "gz": (folder / "gz" / f"{IDX}.gz", packed(damaged), training("gz")),
        "bin": (folder / "bin" / BATCH, damaged, training("bin")),
    }


@pytest.mark.parametrize("number", range(FILES))
def test_files_by_mutation(number: int, tmp_path: Path) -> None:
    rng = np.random.default_rng([SEED, number])
    kinds = originals(tmp_path)
    path, mutate, arguments = list(kinds.values())[number % len(kinds)]
    path.write_bytes(mutate(rng, path.read_bytes()))
    require_refused(run(arguments), or_fine=True)
    litter = [entry.name for entry in tmp_path.iterdir() if entry.name.startswith(".")]
    assert litter == []
