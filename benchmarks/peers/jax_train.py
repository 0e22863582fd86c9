"""JAX's training steps: forward, backward and optimizer in one jit that updates in place.

Networks are translated layer by layer, channels-last; the variance is computed as Flax does by
default, and Adam and SGD as PyTorch writes them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastbn import nn
from fastbn.bench.networks import NETWORKS
from fastbn.bench.peers.jax_kernels import import_jax
from fastbn.bench.peers.suite import Training
from fastbn.bench.timing import Call

Values = dict[str, Any]  # arrays by the names of fastbn's state_dict


class Suite(Training):
    """JAX on so many cores."""

    def __init__(self, threads: int) -> None:
        self.jax: Any = import_jax(threads)
        super().__init__()

    def prepare(
        self, network: str, batch: int, variant: str
    ) -> tuple[Call, Callable[[int], float]]:
        """See `Training.prepare`; there is one variant, ``"jit"``."""
        jax, recipe = self.jax, NETWORKS[network]
        jnp = jax.numpy
        data = [(jnp.asarray(x), jnp.asarray(labels)) for x, labels in recipe.data(batch)]
        net = recipe.make()
        trained = {name for name, _ in net.named_parameters()}
        initial = {name: stored(value) for name, value in net.state_dict().items()}
        betas, eps = (0.9, 0.999), 1e-8  # what optim.Adam takes by default

        def loss_of(parameters: Values, running: Values, x: Any, labels: Any) -> Any:
            moved: Values = {}
            logits = apply(jax, net, "", parameters | running, moved, x)
            picked = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1)
            return -picked.mean(), running | moved

        def update(p: Any, g: Any, state: tuple[Any, ...], t: Any) -> tuple[Any, tuple[Any, ...]]:
            if recipe.optimizer == "adam":
                m = betas[0] * state[0] + (1 - betas[0]) * g
                v = betas[1] * state[1] + (1 - betas[1]) * g * g
                size = jnp.sqrt(v / (1 - betas[1] ** t)) + eps
                return p - recipe.lr * (m / (1 - betas[0] ** t)) / size, (m, v)
            if recipe.momentum:
                state = (recipe.momentum * state[0] + g,)
                g = state[0]
            return p - recipe.lr * g, state

        def whole(all_: Any, x: Any, labels: Any) -> Any:
            parameters, running, states, t = all_
            (loss, running), gradients = jax.value_and_grad(loss_of, has_aux=True)(
                parameters, running, x, labels
            )
            t = t + 1
            new = {
                name: update(value, gradients[name], states[name], t)
                for name, value in parameters.items()
            }
            parameters = {name: value for name, (value, _) in new.items()}
            return (parameters, running, {name: state for name, (_, state) in new.items()}, t), loss

        compiled = jax.jit(whole, donate_argnums=0)
        states = 2 if recipe.optimizer == "adam" else int(recipe.momentum > 0)
        now: Any = None

        def reset() -> None:
            nonlocal now
            # Copies, because a step takes the memory of what it is given.
            values = {name: jnp.array(value, copy=True) for name, value in initial.items()}
            parameters = {name: value for name, value in values.items() if name in trained}
            now = (
                parameters,
                {name: value for name, value in values.items() if name not in trained},
                {
                    name: tuple(jnp.zeros_like(value) for _ in range(states))
                    for name, value in parameters.items()
                },
                jnp.float32(0),
            )

        def step(i: int) -> float:
            nonlocal now
            now, loss = compiled(now, *data[i % len(data)])
            jax.block_until_ready(now)
            return float(loss)

        return reset, step


def stored(value: Any) -> Any:
    """Return a weight as JAX likes it: (in, out) and (kh, kw, in, out), in float32."""
    if value.ndim == 4:
        value = value.transpose(2, 3, 1, 0)
    elif value.ndim == 2:
        value = value.T
    return np.ascontiguousarray(value, np.float32)


def apply(jax: Any, module: nn.Module, name: str, values: Values, moved: Values, x: Any) -> Any:
    """Return a module's output in training mode; put new running statistics into `moved`.

    Raises
    ------
    TypeError
        If a layer has no counterpart here.
    """

    def child(part: str) -> str:
        return f"{name}.{part}" if name else part

    if isinstance(module, nn.Sequential):
        for index, layer in enumerate(module):
            x = apply(jax, layer, child(str(index)), values, moved, x)
        return x
    if isinstance(module, nn.Residual):
        added = x
        if module.shortcut is not None:
            added = apply(jax, module.shortcut, child("shortcut"), values, moved, x)
        return jax.nn.relu(apply(jax, module.body, child("body"), values, moved, x) + added)
    if isinstance(module, nn.Concat):
        parts = [
            apply(jax, branch, child(part), values, moved, x)
            for part, branch in module.named_children()
        ]
        return jax.numpy.concatenate(parts, -1)
    if isinstance(module, nn.Linear):
        y = x @ values[child("weight")]
        return y if module.bias is None else y + values[child("bias")]
    if isinstance(module, nn.Conv2d):
        y = jax.lax.conv_general_dilated(
            x, values[child("weight")], module.stride, [(p, p) for p in module.padding],
            rhs_dilation=module.dilation, feature_group_count=module.groups,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip
        return y if module.bias is None else y + values[child("bias")]
    if isinstance(module, nn.BatchNorm):
        return _batch_norm(jax, module, child, values, moved, x)
    if isinstance(module, nn.ReLU):
        return jax.nn.relu(x)
    if isinstance(module, nn.MaxPool2d | nn.AvgPool2d):
        window, strides = (1, *module.kernel_size, 1), (1, *module.stride, 1)
        pads = [(0, 0), *((p, p) for p in module.padding), (0, 0)]
        if isinstance(module, nn.MaxPool2d):
            return jax.lax.reduce_window(x, -np.inf, jax.lax.max, window, strides, pads)
        total = jax.lax.reduce_window(x, 0.0, jax.lax.add, window, strides, pads)
        return total / float(np.prod(module.kernel_size))
    if isinstance(module, nn.GlobalAvgPool2d):
        return x.mean((1, 2))
    if isinstance(module, nn.Flatten):
        return x.reshape(x.shape[0], -1)
    raise TypeError(f"{type(module).__name__} has no counterpart here")


def _batch_norm(
    jax: Any,
    module: nn.BatchNorm,
    child: Callable[[str], str],
    values: Values,
    moved: Values,
    x: Any,
) -> Any:
    axes, count = tuple(range(x.ndim - 1)), x.size // x.shape[-1]
    mean = x.mean(axes)
    var = jax.numpy.maximum(0.0, (x * x).mean(axes) - mean * mean)
    for name, value in (("running_mean", mean), ("running_var", var * (count / (count - 1)))):
        old = values[child(name)]
        moved[child(name)] = old + module.momentum * (value - old)
    scale = values[child("weight")] * jax.lax.rsqrt(var + module.eps)
    return (x - mean) * scale + values[child("bias")]
