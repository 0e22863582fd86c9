"""What the ranks of a fit do together, where there are several: see `fastbn.distributed`.

Every rank takes its part of each batch, and scales the gradient of its loss by its share of the
whole, so that the sum over the ranks is the gradient of the mean over all rows. What the loop
decides by (losses, whether to stop, the time) is gathered first, so that all decide alike.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastbn.data import Batches
from fastbn.distributed import Communicator, Gradients, RankError, Timed, replicas
from fastbn.distributed.communicator import broadcast_bytes
from fastbn.nn.across import BN_MODES, across_ranks, average_statistics
from fastbn.optim import clip_grad_norm
from fastbn.train.callbacks import Callback
from fastbn.train.evaluation import rows_counted, rows_labelled
from fastbn.train.inputs import Inputs
from fastbn.train.position import Part
from fastbn.train.snapshot import random_states, set_random_states

if TYPE_CHECKING:
    from fastbn.train.fit import Fit, Step
    from fastbn.train.trainer import Trainer

Array = NDArray[Any]

CHECK_EVERY = 100  # steps between two comparisons of the ranks' weights
FEWEST = 2  # rows that have statistics of their own


class Ranks:
    """The other processes, as a `Trainer` sees them.

    Parameters
    ----------
    communicator : Communicator
    bn : {"sync", "local", "ghost"}
        Whose statistics a BatchNorm normalises by; see `fastbn.train.Trainer`.
    check_every : int
        Steps between two comparisons of the ranks' weights.

    Attributes
    ----------
    over, late : bool
        Whether some rank was to stop at the end of the last step, and whether its time was over.
    losses : list of float
        What the parts of the last step had.
    """

    def __init__(
        self, communicator: Communicator, bn: str = "sync", check_every: int = CHECK_EVERY
    ) -> None:
        if bn not in BN_MODES:
            raise ValueError(f"bn should be one of {', '.join(BN_MODES)}, got {bn!r}")
        if check_every < 1:
            raise ValueError(f"check_every should be a positive integer, got {check_every}")
        self.given = communicator
        self.communicator = Timed(communicator)
        self.rank, self.size = communicator.rank, communicator.size
        self.bn = bn
        self.check_every = check_every
        self.over = self.late = False
        self._begin_epoch()
        self.losses: list[float] = []
        self._gradients: Gradients | None = None

    def _begin_epoch(self) -> None:
        """Count anew: own rows, seconds (of reading samples, too), and of them in messages."""
        self.rows, self.seconds, self.waiting = 0, 0.0, 0.0
        self._last = 0.0  # when the last step ended

    # --- before the first step --------------------------------------------------------------

    def same_seed(self, seed: int) -> int:
        """Return the seed of rank 0."""
        told = broadcast_bytes(self.communicator, seed.to_bytes(16, "little"))
        return int.from_bytes(told, "little")

    def cut(self, given: Inputs, batch_size: int) -> Inputs:
        """Return the samples with this rank's part of every batch.

        Batches that somebody else makes are taken as they are: every rank has to bring its own.

        Raises
        ------
        ValueError
            If ranks with statistics of their own get fewer than two rows of a batch.
        """
        batches, steps = given.batches, given.steps
        if not isinstance(batches, Batches):
            return given
        batches.shard = self.rank, self.size
        if self.bn != "sync":
            if batch_size // self.size < FEWEST:
                raise ValueError(
                    f"batches of {batch_size} rows leave {self.size} ranks fewer than {FEWEST} "
                    f"each, which bn={self.bn!r} needs: take larger ones, or bn='sync'"
                )
            left = len(batches.x) % batch_size
            assert steps is not None
            if left > 1 and left // self.size < FEWEST and steps == len(batches):
                steps -= not batches.drop_last
        if steps == 0:
            raise ValueError("there is nothing to train on: the only batch is too small to cut")
        return given._replace(steps=steps)

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Tell the others if a ``with`` block fails, unless it does so on all ranks alike."""
        try:
            yield
        except (RankError, replicas.DriftError, FloatingPointError):
            raise
        except BaseException as error:
            if (fail := getattr(self.given, "fail", None)) is not None:
                fail(f"{type(error).__name__}: {error}")
            raise

    @contextmanager
    def fitting(self, fit: Fit) -> Iterator[None]:
        """Hold the ranks together for a ``with`` block."""
        net = fit.trainer.net
        self.over = self.late = False
        self._begin_epoch()
        try:
            with self.telling():
                self._begin(fit.trainer)
                self._gradients = Gradients(net.parameters(), self.communicator)
                with across_ranks(net, self.communicator.allgather, self.bn):
                    yield
        finally:
            if self._gradients is not None:
                self._gradients.release()
                self._gradients = None

    def _begin(self, trainer: Trainer) -> None:
        """Take over the weights of rank 0, and a random state that is apart from all others."""
        net = trainer.net
        replicas.broadcast(self.communicator, _tensors(net))
        told = broadcast_bytes(self.communicator, pickle.dumps(random_states(net)))
        if self.rank:
            set_random_states(net, [_apart(state, self.rank) for state in pickle.loads(told)])

    # --- steps ------------------------------------------------------------------------------

    def step_function(self, fit: Fit, update: bool) -> Step:
        """Return what does a step: as `Fit.step_function`, with the numbers of all ranks."""
        trainer = fit.trainer
        net, loss = trainer.net, trainer.loss
        parameters = net.parameters()
        gather = self.communicator.allgather
        adds = getattr(loss, "reduction", "mean") == "sum"
        count_correct = getattr(loss, "correct", None)

        def step(group: Any) -> Part:
            gradients = self._gradients
            assert gradients is not None
            before = self.communicator.seconds
            begin = self._last or time.perf_counter()
            batches = group if isinstance(group, list) else [group]
            counts = [rows_counted(loss, y, *weight) for _, y, *weight in batches]
            whole = sum(float(told[0]) for told in gather(np.array([sum(counts)]))) or 1.0
            value_of_all, correct, rows, labelled = 0.0, 0, 0, 0
            for number, ((x, y, *weight), count) in enumerate(zip(batches, counts, strict=True)):
                share = 1.0 if adds else count / whole  # of this part's mean in the mean of all
                pred = net(x)
                if len(x):
                    given: Any = {"sample_weight": weight[0]} if weight else {}
                    value, dpred = loss(pred, y, **given)
                    np.multiply(dpred, dpred.dtype.type(share), out=dpred)
                    value_of_all += float(value) * share
                    correct += 0 if count_correct is None else int(count_correct(pred, y))
                    rows += len(x)
                    labelled += rows_labelled(loss, y)
                else:
                    dpred = np.zeros_like(pred)
                if len(batches) == 1:
                    gradients.begin()
                net.backward(dpred, accumulate=number > 0)
            gradients.finish()
            if fit.clip_norm is not None:
                clip_grad_norm(parameters, fit.clip_norm)
            if update:
                trainer.optimizer.step()
            own = [value_of_all, correct, rows, labelled, trainer.should_stop, fit.is_late()]
            told = gather(np.array(own))
            self.losses = [float(each[0]) for each in told]
            sums = np.sum(told, axis=0)
            self.rows += rows
            self.waiting += self.communicator.seconds - before
            self._last = time.perf_counter()
            self.seconds += self._last - begin
            if sums[4]:
                trainer.should_stop = True
            self.late = bool(sums[5])
            self.over = bool(sums[4]) or self.late
            mean, labelled = float(sums[0]), int(sums[3])
            total = mean if adds else mean * labelled
            return Part(int(sums[2]), labelled, mean, total, int(sums[1]))

        return step

    def after_step(self, trainer: Trainer) -> None:
        """Compare the weights of all ranks, if it is time; DriftError if they differ."""
        if trainer.steps % self.check_every == 0:
            net = trainer.net
            named = _tensors(net) if self.bn != "local" else _parameters(net)
            replicas.require_same(self.communicator, named, trainer.steps)

    def agree(self, flag: bool) -> bool:
        """Return whether a flag is set on any rank."""
        return any(told[0] for told in self.communicator.allgather(np.array([flag])))

    def times_of_epoch(self) -> list[Array]:
        """Return rows, seconds, and seconds in messages of every rank, and count anew."""
        told = self.communicator.allgather(np.array([self.rows, self.seconds, self.waiting]))
        self._begin_epoch()
        return told

    def before_validation(self, trainer: Trainer) -> None:
        """Let running statistics be those of all ranks' rows."""
        if self.bn == "local":
            average_statistics(trainer.net, self.communicator.allgather)


class RankTimes(Callback):
    """Keeps what every rank did in every epoch; a `Trainer` with several ranks has one.

    Attributes
    ----------
    records : list of dict
        For every epoch "epoch" and, by rank, "rows", "seconds", "waiting" (the part of them in
        communication, waits for others included) and "images_per_second", of the time between.
    """

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []

    def on_fit_begin(self, trainer: Trainer) -> None:
        """Begin anew."""
        self.records = []

    def on_epoch_end(self, trainer: Trainer) -> None:
        """Gather the times of all ranks."""
        assert trainer.ranks is not None
        told = trainer.ranks.times_of_epoch()
        record: dict[str, Any] = {"epoch": trainer.history.last.epoch}
        record["rows"] = [float(each[0]) for each in told]
        record["seconds"] = [float(each[1]) for each in told]
        record["waiting"] = [min(float(each[2]), float(each[1])) for each in told]
        record["images_per_second"] = [
            float(rows / max(seconds - min(waiting, seconds), 1e-9))
            for rows, seconds, waiting in told
        ]
        self.records.append(record)

    def state_dict(self) -> dict[str, Any]:
        """Return the records."""
        return {"records": self.records}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the records."""
        self.records = list(state["records"])


def _parameters(net: Any) -> list[tuple[str, Array]]:
    return [(name, parameter.storage) for name, parameter in net.named_parameters()]


def _tensors(net: Any) -> list[tuple[str, Array]]:
    return [*_parameters(net), *net.named_buffers()]


def _apart(state: Any, rank: int) -> Any:
    """Return the random state of a rank, so far from that of rank 0 that they never meet."""
    source = getattr(np.random, state["bit_generator"])()
    source.state = state
    if hasattr(source, "jumped"):
        return source.jumped(rank).state
    return type(source)(
        np.random.SeedSequence(source.random_raw(4).tolist(), spawn_key=(rank,))
    ).state
