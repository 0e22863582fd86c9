"""Training steps: this library's against the peers', every variant in a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from fastbn.bench.networks import NETWORKS
from fastbn.bench.peers.client import PeerError, Worker
from fastbn.bench.rows import Row
from fastbn.bench.timing import ROUNDS, in_turns, medians

LOSS_TOLERANCE = 1e-4
PATIENCE = 900.0  # seconds for the first steps of a peer's variant: some are compiled first

# What of a peer is measured; the fastest counts. "fused" is the optimizer.
VARIANTS = {
    "torch": (
        "eager",
        "eager fused",
        "eager channels_last fused",
        "compile fused",
        "compile channels_last fused",
    ),
    "jax": ("jit",),
    "tensorflow": ("function", "xla"),
}


@dataclass
class TrainRow(Row):
    """A row of ``fastbn bench train``: a step of one side. `us` is the time of a step.

    `peak_mb` is the most memory that training took above what the import took (MB of 10⁶ bytes),
    `minor_faults` the page faults of a steady step. `op` is ``"train"`` for this library, and
    names the peer and its variant otherwise.
    """

    images_per_second: float = 0.0
    peak_mb: float | None = None
    minor_faults: float | None = None


@dataclass
class Found:
    """What was found: rows, the machine's peak, the operations of each network's step.

    `left_out` tells which variants of peers could not be measured, and why.
    """

    rows: list[TrainRow] = field(default_factory=list)
    peak_gflops: dict[int, float] = field(default_factory=dict)  # by number of threads
    profiles: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # by title
    left_out: list[str] = field(default_factory=list)


def variants(network: str, peers: Sequence[str], part: str = "") -> list[tuple[str, str]]:
    """Peers with their variants that are different for this network, and have `part` in the name.

    Examples
    --------
    >>> variants("mlp", ["torch"], "eager")
    [('torch', 'eager'), ('torch', 'eager fused')]
    """
    images = len(NETWORKS[network].input_shape) == 3 and network != "mlp"
    return [
        (peer, variant)
        for peer in peers
        for variant in VARIANTS.get(peer, ())
        if part in variant and (images or "channels_last" not in variant)
    ]


def measure(
    network: str,
    batch: int,
    threads: int,
    found: Found,
    *,
    peers: Sequence[str] = (),
    part: str = "",
    rounds: int = ROUNDS,
    profile: bool = False,
    progress: Callable[[str], None] | None = None,
) -> None:
    """Time steps of one network, all sides in turns, and add what comes out to `found`.

    A variant of a peer that has no `part` in its name, or cannot do its first steps, or not in
    time, is left out.

    Raises
    ------
    PeerError
        If this library, or a side that has begun, could not do it.
    ValueError
        If the losses of a side are others than this library's: its time would mean nothing.
    """
    recipe = NETWORKS[network]
    tell = progress or (lambda _: None)
    wanted = [("fastbn", ""), *variants(network, peers, part)]
    with ExitStack() as stack:
        workers = {}
        case = f"{network}, batch {batch}, threads {threads}"
        for number, (peer, variant) in enumerate(wanted, 1):
            side = f"{peer} {variant}".strip()
            tell(f"{case}: first steps of {side}, {number} of {len(wanted)}")
            worker = stack.enter_context(Worker(peer, "train", threads))
            try:
                worker.ask("open", patience=PATIENCE, network=network, batch=batch, variant=variant)
            except PeerError as error:
                if peer == "fastbn":
                    raise
                found.left_out.append(f"{case}, {side}: {error}")
                worker.close()
            else:
                workers[side] = worker
        tell(f"{case}: {len(workers)} sides in {rounds} turns")
        losses: dict[str, list[float]] = {}

        def turn_of(side: str) -> Callable[[bool], Mapping[str, float]]:
            def turn(backwards: bool) -> Mapping[str, float]:
                reply = workers[side].ask("turn", steps=recipe.steps)
                losses[side] = reply["losses"]
                times: Mapping[str, float] = reply["times"]
                return times

            return turn

        turns = in_turns({side: turn_of(side) for side in workers}, rounds, settle=threads > 1)
        for side in workers:
            same_losses(side, losses["fastbn"][: recipe.alike], losses[side][: recipe.alike])
        peaks = {side: worker.ask("peak")["peak_mb"] for side, worker in workers.items()}
        ours = workers["fastbn"]
        if threads not in found.peak_gflops:
            found.peak_gflops[threads] = ours.ask("limit")["gflops"]
        told = ours.ask("profile", steps=recipe.steps)
    if profile:
        found.profiles[case] = told["operations"]
    times = {side: medians(taken) for side, taken in turns.items()}
    rows = [
        TrainRow(
            name=network,
            shape=(batch, *recipe.input_shape),
            layout="nchw" if is_nchw(side) else "nhwc",
            op="train" if side == "fastbn" else f"train: {side}",
            dtype="float32",
            threads=threads,
            us=measured["step"] * 1e6,
            gflops=told["flops"] / measured["step"] / 1e9,
            images_per_second=batch / measured["step"],
            peak_mb=peaks[side],
            minor_faults=measured["faults"],
        )
        for side, measured in times.items()
    ]
    for peer in peers:
        theirs = [row.us for row in rows if row.op.startswith(f"train: {peer}")]
        if theirs:
            setattr(rows[0], f"x_{peer}", min(theirs) / rows[0].us)
    found.rows += rows


def is_nchw(side: str) -> bool:
    """Tell which sides have the channels in front of the pixels."""
    return side.startswith("torch") and "channels_last" not in side


def same_losses(side: str, ours: Sequence[float], theirs: Sequence[float]) -> None:
    """Raise ValueError unless the losses of all steps agree.

    Examples
    --------
    >>> same_losses("torch", [1.0, 0.5], [1.00001, 0.5])
    >>> same_losses("torch", [1.0, 0.5], [1.0, 0.51])
    Traceback (most recent call last):
        ...
    ValueError: torch trains something else: its loss at step 1 is 0.51, not 0.5
    """
    for index, (own, other) in enumerate(zip(ours, theirs, strict=True)):
        if not abs(own - other) <= LOSS_TOLERANCE * max(abs(own), abs(other)):
            raise ValueError(
                f"{side} trains something else: its loss at step {index} is {other:g}, not {own:g}"
            )


def run(
    networks: Sequence[str],
    threads: Sequence[int],
    *,
    batch: int | None = None,
    peers: Sequence[str] = (),
    part: str = "",
    rounds: int = ROUNDS,
    profile: bool = False,
    progress: Callable[[str], None] | None = None,
    into: Found | None = None,
) -> Found:
    """Measure networks, each with its batch sizes and all numbers of threads; see `measure`.

    What is found is added to `into`, if it is given: it keeps that whatever ends the measurement.

    Raises
    ------
    ValueError
        If no variant of the peers has `part` in its name.
    """
    if peers and not any(variants(network, peers, part) for network in networks):
        raise ValueError(f"variants: no variant of {', '.join(peers)} has {part!r} in its name")
    found = Found() if into is None else into
    for number in threads:
        for network in networks:
            for size in NETWORKS[network].batches if batch is None else (batch,):
                measure(
                    network, size, number, found,
                    peers=peers, part=part, rounds=rounds, profile=profile, progress=progress,
                )  # fmt: skip
    return found
