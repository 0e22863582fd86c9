"""Plans: which neighbouring layers run as one operation.

A plan is a list of steps, made once from a list of layers; nested Sequentials are laid out flat,
so that neighbours are found across their borders. What is fused:

- BatchNorm with the ReLU or LeakyReLU behind it: one pass over memory less in each direction;
- Linear or Conv2d with the BatchNorm behind it: the bias is not added where the batch's mean
  would take it out again at once, its gradient is exactly zero then; Conv2d takes the batch's
  statistics while it writes;
- at the end of a Residual's body: BatchNorm, the sum, and the activation (``tail``).

Only layers of these very classes are fused: a subclass may do something else.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from numpy.typing import NDArray

from fastbn.nn.activation import LeakyReLU, ReLU
from fastbn.nn.batchnorm import BatchNorm
from fastbn.nn.conv import Conv2d
from fastbn.nn.linear import Linear
from fastbn.nn.module import Module

Array = NDArray[Any]


class Step(Protocol):
    """A layer, or several that run as one."""

    def forward(self, x: Array, save: bool) -> Array:
        """Return the output for x."""

    def backward(self, dy: Array, need_dx: bool) -> Array | None:
        """Write the gradients of the parameters and return that of the input, if needed."""


class Normalised:
    """``[Linear or Conv2d,] BatchNorm[, activation]`` as one step."""

    def __init__(
        self,
        weighted: Linear | Conv2d | None,
        norm: BatchNorm,
        activation: ReLU | LeakyReLU | None = None,
    ) -> None:
        self.weighted = weighted
        self.norm = norm
        self.activation = activation
        self.kind: str | None = None
        self.slope = 0.01
        if activation is not None:
            self.kind, self.slope = kind_of(activation)

    def forward(
        self,
        x: Array,
        save: bool,
        residual: Array | None = None,
        kind: str | None = None,
        slope: float = 0.01,
    ) -> Array:
        """Return act(norm(weighted(x)) + residual); `kind` says act where there is none inside."""
        weighted, norm = self.weighted, self.norm
        left_out = moments = None
        if weighted is not None:
            batch, bias = norm.uses_batch_statistics, weighted.bias
            if bias is not None and batch:
                left_out = bias.data
            if isinstance(weighted, Conv2d):
                x, moments = weighted.forward_moments(
                    x, save, add_bias=left_out is None, moments=batch
                )
            else:
                x = weighted.forward(x, save, left_out is None)
        if self.kind is not None:
            kind, slope = self.kind, self.slope
        return norm.forward(x, save, kind, slope, residual, left_out, moments)

    def backward(self, dy: Array, need_dx: bool) -> Array | None:
        """Return dx of the first of the layers."""
        if self.weighted is None:
            return self.norm.backward(dy, need_dx)
        dx = self.norm.backward(dy)
        assert dx is not None
        return self.weighted.backward(dx, need_dx)

    def backward_residual(
        self, dy: Array, need_dx: bool, need_dresidual: bool
    ) -> tuple[Array | None, Array | None]:
        """Return dx of the first of the layers, and dresidual."""
        weighted = self.weighted
        dx, dresidual = self.norm.backward_residual(
            dy, need_dx or weighted is not None, need_dresidual
        )
        if weighted is not None:
            assert dx is not None
            dx = weighted.backward(dx, need_dx)
        return dx, dresidual


class Plain:
    """A layer of the user's whose backward knows no `need_dx`."""

    def __init__(self, layer: Module) -> None:
        self.layer = layer

    def forward(self, x: Array, save: bool) -> Array:
        """Return the output for x."""
        return self.layer.forward(x, save)

    def backward(self, dy: Array, need_dx: bool) -> Array | None:
        """Return dx, needed or not."""
        return self.layer.backward(dy)


class Plan:
    """The steps of a chain of layers, and the loops over them.

    Attributes
    ----------
    steps : list of Step
    tail : Normalised or None
        The last step, where a sum and an activation can be fused into it.
    first : int
        The first step with parameters; the backward goes no further unless dx is asked for.
    """

    def __init__(self, layers: Iterable[Module]) -> None:
        self.steps, self._layers_of = _steps(list(layers))
        trained = [any(layer.parameters() for layer in of) for of in self._layers_of]
        self.has_parameters = any(trained)
        self.first = trained.index(True) if self.has_parameters else 0
        self._in_front = [
            module
            for of in self._layers_of[: self.first]
            for layer in of
            for module in layer.modules()
        ]
        last = self.steps[-1] if self.steps else None
        self.tail = last if isinstance(last, Normalised) and last.activation is None else None
        self._tail_first = self.first >= len(self.steps) - 1

    def forward(self, x: Array, save: bool) -> Array:
        """Run all steps."""
        for step in self.steps:
            x = step.forward(x, save)
        return x

    def backward(self, dy: Array, need_dx: bool) -> Array | None:
        """Run all steps from the last to the first, or to the first that has parameters."""
        return self._backward(dy, need_dx, len(self.steps))

    def forward_residual(
        self, x: Array, save: bool, residual: Array, kind: str | None, slope: float
    ) -> Array:
        """Run all steps; add `residual` and activate in the `tail`."""
        assert self.tail is not None
        for step in self.steps[:-1]:
            x = step.forward(x, save)
        return self.tail.forward(x, save, residual, kind, slope)

    def backward_residual(
        self, dy: Array, need_dx: bool, need_dresidual: bool
    ) -> tuple[Array | None, Array | None]:
        """Run all steps backwards; return dx and dresidual, as far as needed."""
        assert self.tail is not None
        go_on = need_dx or not self._tail_first
        dx, dresidual = self.tail.backward_residual(dy, go_on, need_dresidual)
        if go_on:
            assert dx is not None
            dx = self._backward(dx, need_dx, len(self.steps) - 1)
        else:
            self._discard_in_front()
        return dx, dresidual

    def _backward(self, dy: Array, need_dx: bool, end: int) -> Array | None:
        """Run the steps in front of `end` backwards."""
        begin = 0 if need_dx else self.first
        dx: Array | None = dy
        for index in range(end - 1, begin - 1, -1):
            assert dx is not None
            dx = self.steps[index].backward(dx, need_dx or index > begin)
        if need_dx:
            return dx
        self._discard_in_front()
        return None

    def _discard_in_front(self) -> None:
        for module in self._in_front:
            module._saved = None

    def discard(self) -> None:
        """Forget what forwards have saved."""
        for layers in self._layers_of:
            for layer in layers:
                layer.discard()

    def fused(self) -> dict[Module, str]:
        """Return which layers run inside the operation of a BatchNorm, or of a Residual."""
        found: dict[Module, str] = {}
        for step, layers in zip(self.steps, self._layers_of, strict=True):
            if isinstance(step, Normalised):
                if step.activation is not None:
                    found[step.activation] = step.norm.where
                parts = []
                if step.weighted is not None and step.weighted.bias is not None:
                    parts.append("bias")
                if isinstance(step.weighted, Conv2d):
                    parts.append("statistics")
                if step.weighted is not None and parts:
                    found[step.weighted] = f"{step.norm.where} ({', '.join(parts)})"
            else:
                for layer in layers:
                    found |= layer.fused()
        return found


def kind_of(activation: ReLU | LeakyReLU) -> tuple[str, float]:
    """Return what ``functional.batch_norm`` calls this activation, and its slope."""
    if isinstance(activation, LeakyReLU):
        return "leaky_relu", activation.negative_slope
    return "relu", 0.01


def laid_out(layers: Iterable[Module]) -> Iterator[Module]:
    """Yield the layers, with those of nested Sequentials in their place."""
    from fastbn.nn.containers import Sequential

    for layer in layers:
        if type(layer) is Sequential:
            yield from laid_out(layer)
        else:
            yield layer


def _steps(layers: list[Module]) -> tuple[list[Step], list[list[Module]]]:
    """Return the steps, and the layers of each."""
    rest = list(laid_out(layers))[::-1]
    steps: list[Step] = []
    layers_of: list[list[Module]] = []

    while rest:
        layer = rest.pop()
        members = [layer]
        weighted: Linear | Conv2d | None = None
        if type(layer) in (Linear, Conv2d) and rest and type(rest[-1]) is BatchNorm:
            weighted = layer  # type: ignore[assignment]
            layer = rest.pop()
            members.append(layer)
        if type(layer) is BatchNorm:
            activation: ReLU | LeakyReLU | None = None
            if rest and type(rest[-1]) in (ReLU, LeakyReLU):
                activation = rest.pop()  # type: ignore[assignment]
                members.append(activation)  # type: ignore[arg-type]
            steps.append(Normalised(weighted, layer, activation))
        elif "need_dx" in inspect.signature(layer.backward).parameters:
            steps.append(layer)
        else:
            steps.append(Plain(layer))
        layers_of.append(members)
    return steps, layers_of
