"""Gradients of all ranks, added while backward goes on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastbn.distributed.communicator import Communicator, Handle

if TYPE_CHECKING:
    from fastbn.nn import Parameter

Array = NDArray[Any]

BUCKET_BYTES = 1 << 19  # large enough for the wire, small enough that most of them go out early
ALIGNMENT = 64  # bytes: a cache line


class Bucket:
    """Neighbours in the buffer, which go out in one message."""

    def __init__(self, buffer: Array, parameters: list[Parameter]) -> None:
        self.buffer = buffer
        self.parameters = parameters
        self.missing = 0
        self.handle: Handle | None = None


class Gradients:
    """Sums the gradients of all ranks.

    Backward writes into one buffer, in the order in which it finishes the parameters: it is cut
    into buckets, each of which is sent as soon as the gradients in it are there. The first backward
    finds the order, and is sent after its end: the cuts, on which the order of sums may depend,
    are the same from the first step on, also of a run that continues from a checkpoint.

    Parameters
    ----------
    parameters : iterable of Parameter
        In the same order on all ranks.
    communicator : Communicator
    bucket_bytes : int
        Where a bucket is full.
    """

    def __init__(
        self,
        parameters: Iterable[Parameter],
        communicator: Communicator,
        bucket_bytes: int = BUCKET_BYTES,
    ) -> None:
        self.parameters = list(parameters)
        self.communicator = communicator
        self.bucket_bytes = bucket_bytes
        self.buckets: list[Bucket] = []
        self._bucket_of: dict[int, Bucket] = {}
        self._places: list[tuple[Parameter, Array]] = []
        self._finished: list[Parameter] = []  # by the backward that runs, in its order
        self._seen: set[int] = set()
        self._order_known = False
        self._listening = False
        self._started = 0
        self._lay(self.parameters[::-1])

    def _lay(self, order: list[Parameter]) -> None:
        """Give the gradients their places, in this order; what they hold goes along."""
        self.buckets, self._bucket_of, self._places = [], {}, []
        trained = [parameter for parameter in order if parameter.requires_grad]
        for dtype in dict.fromkeys(parameter.dtype for parameter in trained):
            own = [parameter for parameter in trained if parameter.dtype == dtype]
            step = ALIGNMENT // dtype.itemsize
            sizes = [-(-parameter.size // step) * step for parameter in own]
            memory = np.zeros(sum(sizes) + step, dtype)
            begin = -memory.ctypes.data % ALIGNMENT // dtype.itemsize
            first, members = begin, []
            for number, (parameter, size) in enumerate(zip(own, sizes, strict=True)):
                parameter.place_grad(memory[begin : begin + parameter.size], self._written)
                assert parameter.grad_out is not None
                self._places.append((parameter, parameter.grad_out))
                members.append(parameter)
                begin += size
                full = (begin - first) * dtype.itemsize >= self.bucket_bytes
                if full or number == len(own) - 1:
                    self.buckets.append(Bucket(memory[first:begin], members))
                    first, members = begin, []
        for bucket in self.buckets:
            for parameter in bucket.parameters:
                self._bucket_of[id(parameter)] = bucket

    # --- one step ---------------------------------------------------------------------------

    def begin(self) -> None:
        """Listen to the backward that comes, and send what it has finished."""
        trained = sum(parameter.requires_grad for parameter in self.parameters)
        if trained != len(self._places) or any(p.grad_out is not out for p, out in self._places):
            self._lay(self.parameters[::-1])  # layers were frozen or unfrozen, or a dtype changed
            self._order_known = False
        for bucket in self.buckets:
            bucket.missing = len(bucket.parameters)
        self._finished, self._seen = [], set()
        self._started = 0
        self._listening = True

    def _written(self, parameter: Parameter) -> None:
        """Come from a parameter whose gradient backward has just written."""
        if not self._listening or id(parameter) in self._seen:
            return
        self._seen.add(id(parameter))
        self._finished.append(parameter)
        if not self._order_known:
            return
        self._bucket_of[id(parameter)].missing -= 1
        while self._started < len(self.buckets) and not self.buckets[self._started].missing:
            self._start()
        for bucket in self.buckets[: self._started]:  # nobody else helps them on
            if bucket.handle is not None and bucket.handle.test():
                bucket.handle = None

    def _start(self) -> None:
        bucket = self.buckets[self._started]
        bucket.handle = self.communicator.start_allreduce(bucket.buffer)
        self._started += 1

    def finish(self) -> None:
        """Send what was not sent yet, and wait for all: every gradient is the sum over the ranks.

        Without `begin`, as after several backwards whose gradients were added, all are sent here.
        """
        if not self._listening:
            self._started = 0
        elif not self._order_known:
            self._order_known = True
            rest = [p for p in self.parameters[::-1] if id(p) not in self._seen]
            self._lay([*self._finished, *rest])
        self._listening = False
        while self._started < len(self.buckets):
            self._start()
        for bucket in self.buckets:
            if bucket.handle is not None:
                bucket.handle.wait()
                bucket.handle = None

    def release(self) -> None:
        """Listen no more; gradients stay where they are."""
        self._listening = False
        for parameter in self.parameters:
            parameter.place_grad(None, None)
