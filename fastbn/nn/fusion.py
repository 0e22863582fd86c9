"""Plans: which neighbouring layers run as one operation.

A plan is a list of steps, made once from a list of layers; nested Sequentials are taken apart, so
that neighbours are found across their borders. What is fused:

- BatchNorm, GroupNorm, InstanceNorm, LayerNorm or RMSNorm with the activation after it (ReLU,
  LeakyReLU, GELU, SiLU and others without a parameter): one pass over memory less in each
  direction, and one array less that is kept;
- Linear or Conv2d with the BatchNorm after it: the bias is not added where the batch's mean
  would take it out again at once, its gradient is exactly zero then; Conv2d takes the batch's
  statistics while it writes;
- BatchNorm with a sum after it, and the activation after that: the end of a Residual.

Only layers of these very classes are fused: a subclass may do something else. A fused step calls
the operations of `fastbn.functional` with the parameters of its layers, and what they save is its
own; the layers themselves are not called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeGuard

from numpy.typing import NDArray

from fastbn import functional as F
from fastbn.functional.synced import SyncedSaved, synced_batch_norm_backward
from fastbn.nn.activation import LeakyReLU, ReLU
from fastbn.nn.batchnorm import BatchNorm
from fastbn.nn.calls import plain_backward
from fastbn.nn.conv import Conv2d
from fastbn.nn.groupnorm import GroupNorm, InstanceNorm
from fastbn.nn.layernorm import LayerNorm, RMSNorm
from fastbn.nn.linear import Linear
from fastbn.nn.module import Module
from fastbn.nn.parameter import Parameter
from fastbn.nn.run import here
from fastbn.nn.smooth import GELU, SELU, Hardsigmoid, Hardswish, Mish, ReLU6, SiLU

Array = NDArray[Any]


class Single:
    """A layer by itself, as a step."""

    def __init__(self, layer: Module) -> None:
        self.layers = [layer]
        self.parameters = layer.parameters()
        self.saves_output = layer.saves_output
        ours = type(layer).__module__.startswith("fastbn.")
        self.forward = layer.forward if ours else self._checked_forward
        self.backward = plain_backward(layer)

    def _checked_forward(self, *inputs: Array) -> tuple[Array, Any]:
        (layer,) = self.layers
        pair = layer.forward(*inputs)
        if type(pair) is not tuple or len(pair) != 2:
            raise layer.no_pair_error(pair)
        return pair

    def fused(self) -> dict[Module, str]:
        """Return what is fused inside the layer."""
        return self.layers[0].fused()


class Normalised:
    """``[Linear or Conv2d,] BatchNorm[, sum][, activation]`` as one step."""

    saves_output = False

    def __init__(
        self,
        weighted: Linear | Conv2d | None,
        norm: BatchNorm,
        activation: Module | None = None,
    ) -> None:
        self.weighted = weighted
        self.norm = norm
        self.kind, self.slope = kind_of(activation)
        self.inside: list[Module] = [] if activation is None else [activation]  # what comes after
        self.layers: list[Module] = [x for x in (weighted, norm, activation) if x is not None]
        self.parameters = [p for layer in self.layers for p in layer.parameters()]

    def forward(self, x: Array, residual: Array | None = None) -> tuple[Array, Any]:
        """Return act(norm(weighted(x)) + residual)."""
        weighted, norm = self.weighted, self.norm
        take = norm._pool.take
        batch = norm.uses_batch_statistics
        product = left_out = moments = None
        if weighted is not None:
            bias = None if weighted.bias is None else weighted.bias.data
            if batch:
                left_out, bias = bias, None
            shape = x.shape
            saved: Any
            if isinstance(weighted, Conv2d):
                x, saved = F.conv2d(
                    x,
                    weighted.weight.data,
                    bias,
                    **weighted.arguments,
                    moments=batch and here.run.mask is None and shape[0] > 0,
                    out=take(weighted.batch_shape(shape), x.dtype),
                )
                moments = saved.moments if here.run.mask is None and shape[0] > 0 else None
            else:
                out = take((*shape[:-1], weighted.out_features), x.dtype)
                x, saved = F.linear(x, weighted.weight.data, bias, out=out)
            product = saved, shape, left_out is not None
        if norm.is_synced:
            y, of_all = norm.synced(
                x,
                activation=self.kind,
                negative_slope=self.slope,
                residual=residual,
                left_out_bias=left_out,
                moments=moments,
                out=take(x.shape, x.dtype),
            )
            return y, [product, of_all]
        y, normal = F.batch_norm(
            x,
            None if norm.weight is None else norm.weight.data,
            None if norm.bias is None else norm.bias.data,
            norm.running_mean,
            norm.running_var,
            training=batch,
            momentum=norm.momentum_now if batch else None,
            eps=norm.eps,
            num_batches_tracked=norm.num_batches_tracked if batch else None,
            activation=self.kind,
            negative_slope=self.slope,
            residual=residual,
            left_out_bias=left_out,
            moments=moments,
            mask=None if here.run.mask is None else norm.checked_mask(x),
            out=take(x.shape, x.dtype),
        )
        return y, [product, normal]  # backward takes out one after the other

    def backward(self, dy: Array, saved: Any, need_dx: bool) -> Array | None:
        """Return dx of the first of the layers."""
        return self.backward_sum(dy, saved, need_dx, False)[0]

    def backward_sum(
        self, dy: Array, saved: Any, need_dx: bool, need_dresidual: bool
    ) -> tuple[Array | None, Array | None]:
        """Return dx of the first of the layers, and dresidual."""
        weighted, norm = self.weighted, self.norm
        normal, product = saved.pop(), saved.pop()
        take = norm._pool.take
        weight, bias = norm.weight, norm.bias
        dweight = None if weight is None else weight.grad_out
        dbias = None if bias is None else bias.grad_out
        in_front = weighted is not None and (
            need_dx
            or weighted.weight.grad_out is not None
            or (weighted.bias is not None and weighted.bias.grad_out is not None)
        )
        need_dz = need_dx or in_front
        backward: Any = F.batch_norm_backward
        if isinstance(normal, SyncedSaved):
            backward = synced_batch_norm_backward
        dx, dweight, dbias, *dresidual = backward(
            dy,
            normal,
            need_dx=need_dz,
            need_dweight=dweight is not None,
            need_dbias=dbias is not None,
            need_dresidual=need_dresidual,
            out=take(dy.shape, dy.dtype) if need_dz else None,
            dweight=dweight,
            dbias=dbias,
            dresidual=take(dy.shape, dy.dtype) if need_dresidual else None,
        )
        del normal
        if weight is not None and bias is not None:
            weight.grad, bias.grad = dweight, dbias
        if in_front:
            assert dx is not None
            dx = self._backward_product(dx, product, need_dx)
        return dx, dresidual[0] if dresidual else None

    def _backward_product(self, dy: Array, product: Any, need_dx: bool) -> Array | None:
        weighted = self.weighted
        assert weighted is not None
        saved, x_shape, bias_left_out = product
        weight, bias = weighted.weight, weighted.bias
        dbias = None if bias is None or bias_left_out else bias.grad_out
        backward = F.conv2d_backward if type(weighted) is Conv2d else F.linear_backward
        dx, weight.grad, dbias = backward(
            dy,
            saved,
            need_dx=need_dx,
            need_dweight=weight.grad_out is not None,
            need_dbias=dbias is not None,
            out=weighted._pool.take(x_shape, dy.dtype) if need_dx else None,
            dweight=weight.grad_out,
            dbias=dbias,
        )
        if bias is not None:
            if bias_left_out:
                bias.zero_grad()
            else:
                bias.grad = dbias
        return dx

    def fused(self) -> dict[Module, str]:
        """Return which layers run inside the operation of the BatchNorm."""
        found = dict.fromkeys(self.inside, self.norm.where)
        if self.weighted is not None:
            parts = ["bias"] if self.weighted.bias is not None else []
            if type(self.weighted) is Conv2d:
                parts.append("statistics")
            if parts:
                found[self.weighted] = f"{self.norm.where} ({', '.join(parts)})"
        return found


class SampleNormalised:
    """``GroupNorm, InstanceNorm, LayerNorm or RMSNorm, activation`` as one step."""

    saves_output = False

    def __init__(self, norm: GroupNorm | LayerNorm | RMSNorm, activation: Module) -> None:
        self.norm = norm
        self.kind, self.slope = kind_of(activation)
        self.activation = activation
        self.layers: list[Module] = [norm, activation]
        self.parameters = norm.parameters()

    def forward(self, x: Array) -> tuple[Array, Any]:
        """Return act(norm(x))."""
        norm = self.norm
        weight, bias = norm._parameters()
        options: dict[str, Any] = {
            "eps": norm.eps,
            "activation": self.kind,
            "negative_slope": self.slope,
            "out": norm._pool.take(x.shape, x.dtype),
        }
        if isinstance(norm, GroupNorm):
            return F.group_norm(x, norm.num_groups, weight, bias, **options)
        options["normalized_shape"] = norm.normalized_shape
        if isinstance(norm, LayerNorm):
            return F.layer_norm(x, weight, bias, **options)
        return F.rms_norm(x, weight, **options)

    def backward(self, dy: Array, saved: Any, need_dx: bool) -> Array | None:
        """Write the gradients of weight and bias; return dx."""
        return self.norm.backward(dy, saved, need_dx)

    def fused(self) -> dict[Module, str]:
        """Return which layer runs inside the operation of the norm."""
        return {self.activation: self.norm.where}


class Sum:
    """``x + residual``, with a ReLU or LeakyReLU, where there is no BatchNorm to do it."""

    parameters: list[Parameter] = []  # noqa: RUF012

    def __init__(
        self, owner: Module, kind: str | None, slope: float, inside: Iterable[Module] = ()
    ) -> None:
        self.owner = owner
        self.kind, self.slope = kind, slope
        self.inside = list(inside)  # the activation's layer
        self.saves_output = kind is not None

    def forward(self, x: Array, residual: Array) -> tuple[Array, Any]:
        """Return act(x + residual)."""
        take = self.owner._pool.take
        z = F.add(x, residual, out=take(x.shape, x.dtype))
        if self.kind is None:
            return z, None
        out = take(z.shape, z.dtype)
        if self.kind == "relu":
            return F.relu(z, out=out)
        return F.leaky_relu(z, self.slope, out=out)

    def backward_sum(
        self, dy: Array, saved: Any, need_dx: bool, need_dresidual: bool
    ) -> tuple[Array | None, Array | None]:
        """Return the gradient of the sum, twice."""
        if self.kind is not None:
            backward = F.relu_backward if self.kind == "relu" else F.leaky_relu_backward
            dy = backward(dy, saved, out=self.owner._pool.take(dy.shape, dy.dtype))
        return dy, dy

    def fused(self) -> dict[Module, str]:
        """Return which layers run inside the sum."""
        return dict.fromkeys(self.inside, self.owner.where)


Step = Single | Normalised | SampleNormalised


class Plan:
    """The steps of a chain of layers, and the loops over them.

    Attributes
    ----------
    steps : list of Step
    saves_output : bool
        Whether the last step may save what it returns, or there is none.
    """

    def __init__(self, steps: Iterable[Step]) -> None:
        self.steps = list(steps)
        self._forwards: list[Callable[[Array], tuple[Array, Any]]]
        self._forwards = [step.forward for step in self.steps]
        self._backwards: list[Callable[[Array, Any, bool], Array | None]]
        self._backwards = [step.backward for step in self.steps]
        self.saves_output = not self.steps or self.steps[-1].saves_output

    def forward(self, x: Array) -> tuple[Array, list[Any]]:
        """Run all steps; what they save is a list, which stays empty if nobody will ask for it."""
        kept: list[Any] = []
        if here.run.saving is False:
            for forward in self._forwards:
                x = forward(x)[0]
            return x, kept
        for forward in self._forwards:
            x, saved = forward(x)
            kept.append(saved)
        return x, kept

    def backward(self, dy: Array, saved: list[Any], need_dx: bool) -> Array | None:
        """Run all steps from the last to the first, or to the first that is trained.

        `saved` is emptied step by step, so that memory is free as soon as it can be.
        """
        first = 0 if need_dx else self.first_trained()
        dx: Array | None = dy
        for index in range(len(self._backwards) - 1, first - 1, -1):
            assert dx is not None
            dx = self._backwards[index](dx, saved.pop(), need_dx or index > first)
        saved.clear()
        return dx if need_dx else None

    def first_trained(self) -> int:
        """Return the index of the first step with something to train, or one after the last."""
        for index, step in enumerate(self.steps):
            for parameter in step.parameters:
                if parameter.requires_grad:
                    return index
        return len(self.steps)

    @property
    def is_trained(self) -> bool:
        """Whether there is something to train."""
        return self.first_trained() < len(self.steps)

    def fused(self) -> dict[Module, str]:
        """Return which layers run inside another one's operation."""
        found: dict[Module, str] = {}
        for step in self.steps:
            found |= step.fused()
        return found


def plan_of(layers: Iterable[Module]) -> Plan:
    """Return the plan of a chain of layers."""
    return Plan(steps_of(layers))


def plan_and_sum(
    layers: Iterable[Module], owner: Module, kind: str | None, slope: float
) -> tuple[Plan, Normalised | Sum]:
    """Return the plan of a chain, and the step after it that adds a residual and activates."""
    steps = steps_of(layers)
    last = steps[-1] if steps else None
    if isinstance(last, Normalised) and last.kind is None:
        steps.pop()
        last.kind, last.slope = kind, slope
        return Plan(steps), last
    return Plan(steps), Sum(owner, kind, slope)


def steps_of(layers: Iterable[Module]) -> list[Step]:
    """Return the steps of a chain of layers."""
    rest = [each for layer in layers for each in layer.chain()][::-1]
    steps: list[Step] = []
    while rest:
        layer = rest.pop()
        weighted: Linear | Conv2d | None = None
        if type(layer) in (Linear, Conv2d) and rest and fuses(rest[-1]):
            weighted = layer  # type: ignore[assignment]
            layer = rest.pop()
        of_samples = type(layer) in (GroupNorm, InstanceNorm, LayerNorm, RMSNorm)
        activation: Module | None = None
        if (fuses(layer) or of_samples) and rest and is_activation(rest[-1]):
            activation = rest.pop()
        if fuses(layer):
            steps.append(Normalised(weighted, layer, activation))
        elif activation is not None:
            steps.append(SampleNormalised(layer, activation))  # type: ignore[arg-type]
        else:
            steps.append(Single(layer))
    return steps


def fuses(layer: Module) -> TypeGuard[BatchNorm]:
    """Return whether the layer is a BatchNorm of whole batches, which others can run with."""
    return type(layer) is BatchNorm and layer.is_plain


KINDS: dict[type[Module], str] = {
    ReLU: "relu",
    LeakyReLU: "leaky_relu",
    GELU: "gelu",
    SiLU: "silu",
    SELU: "selu",
    Mish: "mish",
    ReLU6: "relu6",
    Hardsigmoid: "hardsigmoid",
    Hardswish: "hardswish",
}


def is_activation(layer: Module) -> bool:
    """Return whether a normalisation can run the layer."""
    return type(layer) in KINDS


def kind_of(activation: Module | None) -> tuple[str | None, float]:
    """Return what ``functional.batch_norm`` calls this activation, and its slope."""
    if activation is None:
        return None, 0.01
    if isinstance(activation, GELU) and activation.approximate == "tanh":
        return "gelu_tanh", 0.01
    slope = activation.negative_slope if isinstance(activation, LeakyReLU) else 0.01
    return KINDS[type(activation)], slope
