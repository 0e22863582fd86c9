"""Convolutions alone, and with batch normalisation after them, against PyTorch's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from fastbn import functional as F
from fastbn import nn
from fastbn.bench.cases import Array, aligned
from fastbn.bench.digest import Digest, digest
from fastbn.bench.peers.client import Worker
from fastbn.bench.rows import Row
from fastbn.bench.sides import set_ratios, time_sides
from fastbn.bench.timing import ROUNDS, SAMPLE_SECONDS, Call

OPS = ("forward", "dx", "dweight", "block")
ALONE = "alone"  # the yardstick of a block: its convolution's three directions, nothing else
PEERS = ("torch",)


@dataclass(frozen=True)
class ConvCase:
    """A convolution of N images of H × H pixels and C channels, which gives K channels."""

    name: str
    N: int
    H: int
    C: int
    K: int
    kernel: int = 3
    stride: int = 1
    groups: int = 1

    @property
    def padding(self) -> int:
        """What keeps the image's size at stride 1."""
        return self.kernel // 2

    @property
    def out(self) -> int:
        """Height and width of y."""
        return (self.H + 2 * self.padding - self.kernel) // self.stride + 1

    @property
    def flops(self) -> float:
        """Arithmetic of one direction."""
        taps = self.kernel * self.kernel * self.C // self.groups
        return 2.0 * self.N * self.out * self.out * self.K * taps

    def flops_of(self, op: str) -> float:
        """Arithmetic of an operation; that of a block is its convolution's."""
        return self.flops * (3 if op in {"block", ALONE} else 1)

    def values(self) -> tuple[Array, Array, Array]:
        """x, the weight's storage (kh, kw, C / groups, K) and dy: the same in every process."""
        rng = np.random.default_rng(0)
        shapes = (
            (self.N, self.H, self.H, self.C),
            (self.kernel, self.kernel, self.C // self.groups, self.K),
            (self.N, self.out, self.out, self.K),
        )
        arrays = []
        for shape in shapes:
            array = aligned(shape, np.dtype(np.float32))
            array[...] = rng.standard_normal(shape, np.float32)
            arrays.append(array)
        return arrays[0], arrays[1], arrays[2]


def _same(channels: int, size: int, images: int = 16) -> ConvCase:
    return ConvCase(f"3x3 {channels}@{size}", images, size, channels, channels)


CASES = {
    case.name: case
    for case in (
        *(_same(channels, 56, 8) for channels in (32, 64)),
        *(_same(channels, 28) for channels in (32, 64, 128)),
        *(_same(channels, 14) for channels in (32, 64, 128, 256)),
        *(_same(channels, 7) for channels in (64, 128, 256, 512)),
        ConvCase("speedrun 24>64@31", 256, 31, 24, 64),
        ConvCase("speedrun 64@15", 256, 15, 64, 64),
        ConvCase("speedrun 64>256@15", 256, 15, 64, 256),
        ConvCase("speedrun 256@7", 256, 7, 256, 256),
        ConvCase("speedrun 256@3", 256, 3, 256, 256),
        ConvCase("3x3 1>32@28", 64, 28, 1, 32),
        ConvCase("3x3 3>16@32", 64, 32, 3, 16),
        ConvCase("7x7/2 3>64@112", 4, 112, 3, 64, 7, 2),
        ConvCase("5x5 32@28", 16, 28, 32, 32, 5),
        ConvCase("3x3/2 64>128@28", 16, 28, 64, 128, 3, 2),
        ConvCase("1x1 64>256@28", 16, 28, 64, 256, 1),
        ConvCase("1x1 256>64@28", 16, 28, 256, 64, 1),
        ConvCase("1x1/2 64>128@28", 16, 28, 64, 128, 1, 2),
        ConvCase("8 groups 64@28", 16, 28, 64, 64, groups=8),
        ConvCase("32 groups 128@28", 16, 28, 128, 128, groups=32),
        ConvCase("4 groups 256@14", 16, 14, 256, 256, groups=4),
        ConvCase("depthwise 64@28", 16, 28, 64, 64, groups=64),
        ConvCase("depthwise 256@14", 16, 14, 256, 256, groups=256),
        ConvCase("depthwise/2 128@28", 16, 28, 128, 128, 3, 2, 128),
    )
}


def choose(names: Sequence[str]) -> list[ConvCase]:
    """Return cases by name; ``["all"]`` are all of them, a part of a name all that have it.

    Raises
    ------
    ValueError
        If a name is no part of any.

    Examples
    --------
    >>> [case.name for case in choose(["1x1/2"])]
    ['1x1/2 64>128@28']
    """
    if list(names) == ["all"]:
        return list(CASES.values())
    for name in names:
        if not any(name in known for known in CASES):
            raise ValueError(f"cases: {name!r} is no part of {', '.join(CASES)}")
    return [case for known, case in CASES.items() if any(name in known for name in names)]


def ours(case: ConvCase, ops: Sequence[str]) -> dict[str, Call]:
    """Return calls of this library's operations; all results go where memory is.

    Beside ``"block"``, forward and backward of convolution, batch normalisation and ReLU as a
    network runs them, stands the same convolution `ALONE`.
    """
    x, storage, dy = case.values()
    y, dx, dstorage = (aligned(a.shape, a.dtype) for a in (dy, x, storage))
    weight, dweight = storage.transpose(3, 2, 0, 1), dstorage.transpose(3, 2, 0, 1)

    def forward() -> tuple[Array, object]:
        return F.conv2d(
            x, weight, stride=case.stride, padding=case.padding, groups=case.groups, out=y
        )

    _, saved = forward()
    layer = nn.Conv2d(
        case.C, case.K, case.kernel, case.stride, case.padding, groups=case.groups, bias=False
    )
    layer.weight.data = weight
    block = nn.Sequential(layer, nn.BatchNorm(case.K), nn.ReLU())

    def train() -> tuple[Array | None, ...]:
        result = block(x)
        return result, block.backward(dy, need_dx=True), layer.weight.grad

    every: dict[str, Call] = {
        "forward": lambda: forward()[:1],
        "dx": lambda: F.conv2d_backward(dy, saved, need_dweight=False, out=dx)[:1],  # type: ignore[arg-type]
        "dweight": lambda: F.conv2d_backward(dy, saved, need_dx=False, dweight=dweight)[1:2],  # type: ignore[arg-type]
        "block": train,
        ALONE: lambda: F.conv2d_backward(dy, forward()[1], out=dx, dweight=dweight),  # type: ignore[arg-type]
    }
    return {op: every[op] for op in (*ops, *([ALONE] if "block" in ops else []))}


def measure(
    case: ConvCase,
    ops: Sequence[str],
    threads: int,
    *,
    workers: Mapping[str, Worker] | None = None,
    rounds: int = ROUNDS,
    seconds: float = SAMPLE_SECONDS,
) -> list[Row]:
    """Time a convolution, in turns with the peers; one row for each operation.

    Raises
    ------
    PeerError, ValueError
        If a peer could not do it, or computes something else.
    """

    def prepare() -> tuple[Mapping[str, Call], Callable[[], Mapping[str, Digest]]]:
        calls = ours(case, ops)
        return calls, lambda: {op: digest(calls[op]()) for op in ops}  # type: ignore[arg-type]

    own, times = time_sides(
        prepare,
        workers or {},
        {"name": case.name, "ops": list(ops)},
        dtype="float32", threads=threads, rounds=rounds, seconds=seconds,
    )  # fmt: skip
    rows = []
    for op in ops:
        row = Row(
            name=case.name,
            shape=(case.N, case.H, case.H, case.C),
            layout="nhwc",
            op=op,
            dtype="float32",
            threads=threads,
            us=own[op] * 1e6,
            gflops=case.flops_of(op) / own[op] / 1e9,
            x_conv=own[op] / own[ALONE] if op == "block" else None,
        )
        set_ratios(row, own[op], times)
        rows.append(row)
    return rows


def run(
    wanted: Sequence[ConvCase],
    ops: Sequence[str],
    threads: Sequence[int],
    *,
    peers: Sequence[str] = (),
    rounds: int = ROUNDS,
    seconds: float = SAMPLE_SECONDS,
    progress: Callable[[str], None] | None = None,
    into: list[Row] | None = None,
) -> list[Row]:
    """Measure all operations of all cases with all numbers of threads; see `measure`.

    Rows are added to `into`, if it is given: it keeps them whatever ends the measurement.

    Raises
    ------
    ValueError
        If an operation is unknown.
    """
    for op in ops:
        if op not in OPS:
            raise ValueError(f"ops: {op!r} is not one of {', '.join(OPS)}")
    rows = [] if into is None else into
    for number in threads:
        with ExitStack() as stack:
            workers = {
                peer: stack.enter_context(Worker(peer, "conv", number))
                for peer in peers
                if peer in PEERS
            }
            for case in wanted:
                if progress is not None:
                    progress(f"{case.name}, threads {number}")
                rows += measure(case, ops, number, workers=workers, rounds=rounds, seconds=seconds)
    return rows
