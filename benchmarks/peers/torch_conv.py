"""PyTorch's conv2d on channels_last tensors, the operator behind its gradients, and a block."""

from __future__ import annotations

import importlib
from typing import Any

from fastbn.bench.conv import CASES
from fastbn.bench.digest import Digest, digest
from fastbn.bench.peers.suite import Kernels
from fastbn.bench.timing import Call


class Suite(Kernels):
    """PyTorch with so many threads."""

    def __init__(self, threads: int) -> None:
        super().__init__()
        self.torch: Any = importlib.import_module("torch")
        self.torch.set_num_threads(threads)
        self.torch.set_num_interop_threads(1)

    def calls(self, name: str, ops: list[str]) -> dict[str, Call]:  # type: ignore[override]
        """Return the operations of a case; see `fastbn.bench.conv.ours`."""
        torch, case = self.torch, CASES[name]
        x, storage, dy = (torch.from_numpy(array) for array in case.values())
        x, dy = x.permute(0, 3, 1, 2), dy.permute(0, 3, 1, 2)
        weight = storage.permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)
        stride, padding = [case.stride] * 2, [case.padding] * 2

        def backward(mask: list[bool]) -> Any:
            return torch.ops.aten.convolution_backward(
                dy, x, weight, None, stride, padding, [1, 1], False, [0, 0], case.groups, mask
            )

        def forward() -> Any:
            with torch.no_grad():
                return (
                    torch.nn.functional.conv2d(x, weight, None, stride, padding, 1, case.groups),
                )

        own = [a.clone().requires_grad_() for a in (x, weight)]
        norm = torch.nn.BatchNorm2d(case.K)

        def block() -> Any:
            y = torch.nn.functional.conv2d(*own, None, stride, padding, 1, case.groups)
            y = torch.relu_(norm(y))
            wanted = (*own, *norm.parameters())
            return (y.detach(), *torch.autograd.grad(y, wanted, dy)[:2])

        every: dict[str, Call] = {
            "forward": forward,
            "dx": lambda: backward([True, False, False])[:1],
            "dweight": lambda: backward([False, True, False])[1:2],
            "block": block,
        }
        return {f"{op}:channels_last": every[op] for op in ops}

    def summary(self, result: Any) -> Digest:
        """See `fastbn.bench.digest.digest`."""
        return digest(part.double().numpy() for part in result)
