"""Sequential and Residual: layers in a row, and a row with a shortcut around it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, overload

from numpy.typing import NDArray

from fastbn import functional as F
from fastbn.nn import state
from fastbn.nn.calls import Called, as_called
from fastbn.nn.fusion import Normalised, Plan, Sum, plan_and_sum, plan_of
from fastbn.nn.module import Module, Shape, Traced
from fastbn.nn.onnx import Builder, Flow
from fastbn.nn.order import Order, OrderError, Orders, same

Array = NDArray[Any]


class Sequential(Module):
    """Run layers one after another; BatchNorm and its neighbours run as one.

    Parameters
    ----------
    *layers : Module
        The layers. Each object stands in one place only.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn import nn
    >>> net = nn.Sequential(nn.Linear(4, 8, rng=0), nn.BatchNorm(8), nn.ReLU(), nn.Linear(8, 2))
    >>> y = net(np.ones((3, 4), dtype=np.float32))
    >>> net.backward(np.ones_like(y))
    >>> net[0].weight.grad.shape
    (8, 4)
    >>> print(net.summary())
       Layer         Output shape  Parameters  FLOP  Output size  Fused with
    ----------------------------------------------------------------------------------
    0  Linear(4, 8)  (8,)                  40    64         32 B  BatchNorm '1' (bias)
    1  BatchNorm(8)  (8,)                  16    16         32 B
    2  ReLU()        (8,)                   0     8         32 B  BatchNorm '1'
    3  Linear(8, 2)  (2,)                  18    32          8 B
    ----------------------------------------------------------------------------------
    Input shape: (4,). Parameters: 74, 296 B. Buffers: 17.
    A sample: 120 FLOP, outputs of 104 B.
    """

    is_container = True
    transient = (*Module.transient, "_plan", "_whole")

    def __init__(self, *layers: Module) -> None:
        super().__init__()
        self.layers: list[Module] = []
        self._plan: Plan | None = None
        self._whole: Sequential | None = None  # whose layers these are, for a slice
        for index, layer in enumerate(layers):
            if not isinstance(layer, Module):
                raise TypeError(
                    f"Sequential: {type(layer).__name__} at {index} is not a Module subclass"
                )
            self.adopt(str(index), layer)
            self.layers.append(layer)

    def __setstate__(self, kept: dict[str, Any]) -> None:
        self._plan = self._whole = None
        super().__setstate__(kept)

    def _planned(self) -> Plan:
        plan = self._plan = plan_of(self.layers)
        self.saves_output = plan.saves_output or type(self).forward is not Sequential.forward
        return plan

    def forward(self, x: Array) -> tuple[Array, Any]:
        """Return the last layer's output."""
        return (self._plan or self._planned()).forward(x)

    @as_called
    def backward(self, dy: Array, saved: Any, need_dx: bool = True) -> Array | None:
        """Write all gradients; return dx if asked, or if this is a part of another module."""
        return (self._plan or self._planned()).backward(dy, saved, need_dx)

    def ends(self) -> tuple[Called, Called]:
        """Return the layers that a call and a backward come to first."""
        if not self.layers:
            return self, self
        return self.layers[0].ends()[0], self.layers[-1].ends()[1]

    def chain(self) -> Iterator[Module]:
        """Yield the layers, with those of nested Sequentials in their place."""
        own = type(self)
        if own.forward is not Sequential.forward or own.backward is not Sequential.backward:
            yield self  # a subclass that does something else
            return
        for layer in self.layers:
            yield from layer.chain()

    def output_shape(self, input_shape: Shape) -> Shape:
        """Return the last layer's."""
        for layer in self.layers:
            input_shape = layer.output_shape(input_shape)
        return input_shape

    def trace(self, *input_shapes: Shape) -> Iterator[Traced]:
        """Yield every layer with the shapes it sees."""
        (input_shape,) = input_shapes
        for layer in self.layers:
            yield from layer.trace(input_shape)
            input_shape = layer.output_shape(input_shape)

    def follow_order(self, found: Orders, *orders: Order) -> Order:
        """Go through all layers."""
        for layer in self.layers:
            orders = (layer.follow_order(found, *orders),)
        return orders[0]

    def onnx(self, build: Builder, flow: Flow) -> Flow:
        """Add the layers, one after another."""
        for layer in self.layers:
            flow = build.layer(layer, flow)
        return flow

    def invalidate(self) -> None:
        """Plan anew at the next call."""
        super().invalidate()
        self._plan = None

    def fused(self) -> dict[Module, str]:
        """Return which layers run inside another one's operation."""
        return self._planned().fused()

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """Yield the layers, named by their index."""
        for index, layer in enumerate(self.layers):
            yield str(index), layer

    # --- a list of layers -------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[Module]:
        return iter(self.layers)

    @overload
    def __getitem__(self, index: int) -> Module: ...
    @overload
    def __getitem__(self, index: slice) -> Sequential: ...
    def __getitem__(self, index: int | slice) -> Module | Sequential:
        """Return a layer, or a Sequential that shares the layers of a slice.

        The layers stay a part of this network, whose names errors give them.
        """
        if not isinstance(index, slice):
            return self.layers[index]
        part = Sequential()
        part.layers = self.layers[index]
        part.training = self._training
        part._whole, part._pool = self, self._pool
        return part

    def adopt_children(self) -> None:
        """Adopt new layers, but those of a slice, which are a part of the whole."""
        if self._whole is None:
            super().adopt_children()
        else:
            self._whole.adopt_children()

    def __setitem__(self, index: int, layer: Module) -> None:
        """Replace a layer."""
        old = self.layers[index]
        if layer is not old:
            self._refuse_slice()
            self.adopt(str(index % len(self.layers)), layer)
            self.layers[index] = layer
            self.disown(old)
            self.invalidate_upwards()

    def append(self, layer: Module) -> Sequential:
        """Add a layer after the last one, and return this object."""
        self._refuse_slice()
        self.adopt(str(len(self.layers)), layer)
        self.layers.append(layer)
        self.invalidate_upwards()
        return self

    def insert(self, index: int, layer: Module) -> Sequential:
        """Add a layer in front of the one at `index`, and return this object.

        Those after it are named by their new places.
        """
        self._refuse_slice()
        index = range(len(self.layers) + 1)[index]
        self.adopt(str(index), layer)
        self.layers.insert(index, layer)
        for place, later in enumerate(self.layers):
            later._name = str(place)
        self.invalidate_upwards()
        return self

    def _refuse_slice(self) -> None:
        if self._whole is not None:
            raise ValueError("Sequential: a slice shares its layers; change the network itself")


class Residual(Module):
    """Return ``activation(body(x) + shortcut(x))``.

    He et al., "Deep Residual Learning for Image Recognition" (2016), equations 1 and 2. Where the
    body ends in a BatchNorm, normalisation, sum and activation run as one operation.

    Parameters
    ----------
    body : Module
        The residual function.
    shortcut : Module, optional
        Where the shapes of x and body(x) differ; by default x itself is added.
    activation : {"relu", "leaky_relu", None}, default "relu"
        What follows the sum.
    negative_slope : float, default 0.01
        Of the leaky ReLU.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbn import nn
    >>> body = nn.Sequential(nn.Linear(4, 4, bias=False), nn.BatchNorm(4))
    >>> block = nn.Residual(body)
    >>> block(np.ones((3, 4), dtype=np.float32)).shape
    (3, 4)
    """

    is_container = True
    transient = (*Module.transient, "_plans")

    def __init__(
        self,
        body: Module,
        shortcut: Module | None = None,
        activation: str | None = "relu",
        negative_slope: float = 0.01,
    ) -> None:
        super().__init__()
        if activation not in (None, "relu", "leaky_relu"):
            raise ValueError(
                f"Residual: activation should be 'relu', 'leaky_relu' or None, got {activation!r}"
            )
        for name, module in (("body", body), ("shortcut", shortcut)):
            if not isinstance(module, Module) and not (name == "shortcut" and module is None):
                raise TypeError(f"Residual: {name} is not a Module subclass")
        self.body = body
        self.shortcut = shortcut
        self.activation = activation
        self.negative_slope = float(negative_slope)
        self._plans: tuple[Plan, Normalised | Sum, Plan] | None = None
        self.adopt_children()

    def __setstate__(self, kept: dict[str, Any]) -> None:
        self._plans = None
        super().__setstate__(kept)

    def _planned(self) -> tuple[Plan, Normalised | Sum, Plan]:
        """Return the plan of the body, the step that adds and activates, the shortcut's plan."""
        plans = self._plans
        if plans is None:
            body, join = plan_and_sum([self.body], self, self.activation, self.negative_slope)
            shortcut = plan_of([] if self.shortcut is None else [self.shortcut])
            plans = self._plans = body, join, shortcut
            self.saves_output = join.saves_output
        return plans

    def forward(self, x: Array) -> tuple[Array, Any]:
        """Return the activated sum."""
        body, join, shortcut = self._planned()
        residual, of_shortcut = shortcut.forward(x)
        z, of_body = body.forward(x)
        y, of_join = join.forward(z, residual)
        return y, [of_shortcut, of_body, of_join]

    @as_called
    def backward(self, dy: Array, saved: Any, need_dx: bool = True) -> Array | None:
        """Write all gradients; return dx if asked, or if this is a part of another module."""
        body, join, shortcut = self._planned()
        need_dz = need_dx or body.is_trained
        need_dresidual = need_dx or shortcut.is_trained
        dx, dresidual = join.backward_sum(dy, saved.pop(), need_dz, need_dresidual)
        del dy
        of_shortcut, of_body = saved
        saved.clear()
        if need_dz:
            assert dx is not None
            dx = body.backward(dx, of_body, need_dx)
        if need_dresidual:
            assert dresidual is not None
            dresidual = shortcut.backward(dresidual, of_shortcut, need_dx)
        if not need_dx:
            return None
        assert dx is not None
        assert dresidual is not None
        return F.add(dx, dresidual, out=self._pool.take(dx.shape, dx.dtype))

    def output_shape(self, input_shape: Shape) -> Shape:
        """Return the shape of both branches, which must agree."""
        shape: Shape = self.body.output_shape(input_shape)
        other = input_shape if self.shortcut is None else self.shortcut.output_shape(input_shape)
        if shape != other:
            raise ValueError(
                f"{self.where}: body and shortcut should have one output shape, "
                f"got {state.batch_of(shape)} and {state.batch_of(other)}"
            )
        return shape

    def own_flops(self, input_shape: Shape) -> int:
        """Return those of the sum, and of the activation."""
        return (1 if self.activation is None else 2) * math.prod(self.output_shape(input_shape))

    def trace(self, *input_shapes: Shape) -> Iterator[Traced]:
        """Yield the layers of the body, those of the shortcut, and this sum."""
        (input_shape,) = input_shapes
        yield from self.body.trace(input_shape)
        if self.shortcut is not None:
            yield from self.shortcut.trace(input_shape)
        yield Traced(self, input_shape, self.output_shape(input_shape))

    def follow_order(self, found: Orders, *orders: Order) -> Order:
        """Go through both branches, which must end in one order."""
        end = self.body.follow_order(found, *orders)
        other = orders[0] if self.shortcut is None else self.shortcut.follow_order(found, *orders)
        if not same((end, other)):
            raise OrderError(
                f"{self.where}: body and shortcut give flattened image features in different "
                "orders; only layout='NHWC' is possible"
            )
        return end

    def onnx(self, build: Builder, flow: Flow) -> Flow:
        """Add body plus shortcut, then the activation."""
        body = build.layer(self.body, flow)
        shortcut = flow if self.shortcut is None else build.layer(self.shortcut, flow)
        body, shortcut = build.aligned(body, shortcut)
        total = build.node("Add", [body.value, shortcut.value], "add")
        if self.activation == "relu":
            total = build.node("Relu", [total], "relu")
        elif self.activation == "leaky_relu":
            total = build.node("LeakyRelu", [total], "leaky_relu", alpha=self.negative_slope)
        return body.to(total)

    def invalidate(self) -> None:
        """Plan anew at the next call."""
        super().invalidate()
        self._plans = None

    def fused(self) -> dict[Module, str]:
        """Return which layers run inside another one's operation."""
        body, join, shortcut = self._planned()
        found = body.fused() | shortcut.fused()
        if isinstance(join, Normalised):
            sum_and_activation = "sum" if self.activation is None else f"sum, {self.activation}"
            found |= join.fused()
            found[join.norm] = f"{self.where} ({sum_and_activation})"
        return found

    def extra_repr(self) -> str:
        """Return the activation."""
        return f"activation={self.activation!r}"
