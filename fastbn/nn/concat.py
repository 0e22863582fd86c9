"""Concat: branches that see the same input, their outputs side by side."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from numpy.typing import NDArray

from fastbn import functional as F
from fastbn.nn import state
from fastbn.nn.calls import as_called
from fastbn.nn.fusion import Plan, plan_of
from fastbn.nn.module import Module, Shape, Traced
from fastbn.nn.onnx import Builder, Flow
from fastbn.nn.order import Order, OrderError, Orders, joined

Array = NDArray[Any]


class Concat(Module):
    """Run branches on the same input and concatenate their outputs along the channels.

    Szegedy et al., "Going deeper with convolutions" (2015), figure 2.

    Parameters
    ----------
    *branches : Module
        Two or more; their outputs agree in all axes but the last. An empty ``Sequential()`` hands
        the input itself on.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn import nn
    >>> block = nn.Concat(nn.Conv2d(4, 2, 1), nn.Conv2d(4, 3, 3, padding=1))
    >>> block(np.ones((1, 5, 5, 4), dtype=np.float32)).shape
    (1, 5, 5, 5)
    >>> sorted(block.state_dict())
    ['0.bias', '0.weight', '1.bias', '1.weight']
    """

    flops_per_value = 0
    saves_output = False
    is_container = True
    transient = (*Module.transient, "_plans")

    def __init__(self, *branches: Module) -> None:
        super().__init__()
        if not branches:
            raise ValueError("Concat: expected at least one branch")
        self.branches: list[Module] = []
        self._plans: list[Plan] | None = None
        for index, branch in enumerate(branches):
            if not isinstance(branch, Module):
                raise TypeError(
                    f"Concat: {type(branch).__name__} at {index} is not a Module subclass"
                )
            self.adopt(str(index), branch)
            self.branches.append(branch)

    def __setstate__(self, kept: dict[str, Any]) -> None:
        self._plans = None
        super().__setstate__(kept)

    def _planned(self) -> list[Plan]:
        plans = self._plans
        if plans is None:
            plans = self._plans = [plan_of([branch]) for branch in self.branches]
        return plans

    def forward(self, x: Array) -> tuple[Array, Any]:
        """Return the branches' outputs side by side."""
        pairs = [plan.forward(x) for plan in self._planned()]
        parts = [part for part, _ in pairs]
        shape = (*parts[0].shape[:-1], sum(part.shape[-1] for part in parts))
        y, saved = F.concat(*parts, out=self._pool.take(shape, parts[0].dtype))
        return y, ([of_branch for _, of_branch in pairs], saved)

    @as_called
    def backward(self, dy: Array, saved: Any, need_dx: bool = True) -> Array | None:
        """Write all gradients; return dx, the sum over the branches, as Residual does."""
        of_branches, joined = saved
        out = [self._pool.take(shape, dy.dtype) for shape in joined.shapes]
        parts: list[Array | None] = list(F.concat_backward(dy, joined, out=out))
        del out
        gradients: list[Array] = []
        for index, plan in enumerate(self._planned()):
            if not (need_dx or plan.is_trained):
                of_branches[index].clear()
                continue
            part, parts[index] = parts[index], None  # its memory may be used anew
            assert part is not None
            dx = plan.backward(part, of_branches[index], need_dx)
            del part
            if need_dx:
                assert dx is not None
                gradients.append(dx)
                del dx
        if len(gradients) < 2:
            return gradients[0] if gradients else None
        shape, dtype = gradients[0].shape, gradients[0].dtype
        return F.add(*gradients, out=self._pool.take(shape, dtype))

    def output_shape(self, input_shape: Shape) -> Shape:
        """Return the branches' shape, with all their channels."""
        shapes = [branch.output_shape(input_shape) for branch in self.branches]
        for index, shape in enumerate(shapes):
            if shape[:-1] != shapes[0][:-1]:
                raise ValueError(
                    f"{self.where}: branches should agree in all sizes but the channels, branch 0 "
                    f"gives {state.batch_of(shapes[0])} and branch {index} {state.batch_of(shape)}"
                )
        return (*shapes[0][:-1], sum(shape[-1] for shape in shapes))

    def trace(self, *input_shapes: Shape) -> Iterator[Traced]:
        """Yield the layers of all branches, and this concatenation."""
        (input_shape,) = input_shapes
        for branch in self.branches:
            yield from branch.trace(input_shape)
        yield Traced(self, input_shape, self.output_shape(input_shape))

    def follow_order(self, found: Orders, *orders: Order) -> Order:
        """Go through all branches; flattened features follow one another."""
        ends = [branch.follow_order(found, *orders) for branch in self.branches]
        if all(end is None for end in ends):
            return None
        if any(end is None for end in ends):
            raise OrderError(
                f"{self.where}: only some branches give flattened image features; only "
                "layout='NHWC' is possible"
            )
        return joined(ends)

    def onnx(self, build: Builder, flow: Flow) -> Flow:
        """Add the branches, and Concat along the channels."""
        ends = [build.layer(branch, flow) for branch in self.branches]
        order: Order = None
        if all(end.order is not None for end in ends):
            order = joined([end.order for end in ends])
        else:
            ends = [build.natural(end) for end in ends]
        value = build.node("Concat", [end.value for end in ends], axis=1)
        return Flow(value, self.output_shape(flow.shape), order)

    def invalidate(self) -> None:
        """Plan anew at the next call."""
        super().invalidate()
        self._plans = None

    def fused(self) -> dict[Module, str]:
        """Return which layers run inside another one's operation."""
        found: dict[Module, str] = {}
        for plan in self._planned():
            found |= plan.fused()
        return found

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """Yield the branches, named by their index."""
        for index, branch in enumerate(self.branches):
            yield str(index), branch
