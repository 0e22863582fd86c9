"""Keras' training steps on TensorFlow: model, loss and optimizer of Keras in one tf.function.

Variants: ``function`` runs TensorFlow's own kernels, ``xla`` what XLA makes of the whole step.
Images are channels-last. Where Keras has no padding like PyTorch's, layers that pad stand in front.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from fastbn import nn
from fastbn.bench.networks import NETWORKS
from fastbn.bench.peers.jax_train import stored
from fastbn.bench.peers.suite import Training
from fastbn.bench.timing import Call

# What a layer of Keras calls its weights, in their order, by this library's names.
PARAMETERS = ("weight", "bias", "running_mean", "running_var")


class Suite(Training):
    """TensorFlow with so many threads."""

    def __init__(self, threads: int) -> None:
        self.tf: Any = importlib.import_module("tensorflow")
        self.tf.config.threading.set_intra_op_parallelism_threads(threads)
        self.tf.config.threading.set_inter_op_parallelism_threads(1)
        super().__init__()

    def prepare(
        self, network: str, batch: int, variant: str
    ) -> tuple[Call, Callable[[int], float]]:
        """See `Training.prepare`."""
        tf, recipe = self.tf, NETWORKS[network]
        keras = tf.keras
        data = [(tf.constant(x), tf.constant(labels)) for x, labels in recipe.data(batch)]
        net = recipe.make()
        layers: list[tuple[str, Any]] = []  # those with weights, by their names
        inputs = keras.Input(recipe.input_shape, batch_size=batch)
        model = keras.Model(inputs, translate(tf, net, "", layers, inputs))
        state = net.state_dict()
        for name, layer in layers:
            values = [state[f"{name}.{p}"] for p in PARAMETERS if f"{name}.{p}" in state]
            layer.set_weights([stored(value) for value in values])
        initial = [np.array(variable) for variable in model.variables]
        if recipe.optimizer == "adam":
            # Keras adds epsilon before it corrects the second moment, others after: theirs is
            # 1e-8, which is 1e-8 * sqrt(1 - 0.999**t) here, about 5e-10 in the steps compared
            optimizer = keras.optimizers.Adam(recipe.lr, epsilon=5e-10)
        else:
            optimizer = keras.optimizers.SGD(recipe.lr, momentum=recipe.momentum)
        optimizer.build(model.trainable_variables)
        unused = [np.array(variable) for variable in optimizer.variables]
        cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

        def whole(x: Any, labels: Any) -> Any:
            with tf.GradientTape() as tape:
                loss = cross_entropy(labels, model(x, training=True))
            gradients = tape.gradient(loss, model.trainable_variables)
            optimizer.apply(gradients, model.trainable_variables)
            return loss

        compiled = tf.function(whole, jit_compile=variant == "xla")

        def reset() -> None:
            for variable, value in zip(model.variables, initial, strict=True):
                variable.assign(value)
            for variable, value in zip(optimizer.variables, unused, strict=True):
                variable.assign(value)

        def step(i: int) -> float:
            return float(compiled(*data[i % len(data)]).numpy())

        return reset, step


def translate(tf: Any, module: nn.Module, name: str, layers: list[tuple[str, Any]], x: Any) -> Any:
    """Return a module's output for a symbolic input; list the layers that have weights.

    Raises
    ------
    TypeError
        If a layer has no counterpart here.
    """
    theirs = tf.keras.layers

    def part(child: str, inside: nn.Module, at: Any) -> Any:
        return translate(tf, inside, f"{name}.{child}" if name else child, layers, at)

    def weighted(layer: Any) -> Any:
        y = layer(x)
        layers.append((name, layer))
        return y

    if isinstance(module, nn.Sequential):
        for child, layer in module.named_children():
            x = part(child, layer, x)
        return x
    if isinstance(module, nn.Concat):
        ends = [part(child, branch, x) for child, branch in module.named_children()]
        return theirs.Concatenate()(ends)
    if isinstance(module, nn.Residual):
        added = x if module.shortcut is None else part("shortcut", module.shortcut, x)
        return theirs.ReLU()(theirs.Add()([part("body", module.body, x), added]))
    if isinstance(module, nn.Linear):
        return weighted(theirs.Dense(module.out_features, use_bias=module.bias is not None))
    if isinstance(module, nn.Conv2d):
        padding = "valid"
        if module.padding != (0, 0):
            halves = tuple(kernel // 2 for kernel in module.kernel_size)
            if module.stride == (1, 1) and module.padding == halves:
                padding = "same"
            else:
                x = theirs.ZeroPadding2D(module.padding)(x)
        return weighted(
            theirs.Conv2D(
                module.out_channels, module.kernel_size, module.stride, padding,
                dilation_rate=module.dilation, groups=module.groups,
                use_bias=module.bias is not None,
            )
        )  # fmt: skip
    if isinstance(module, nn.BatchNorm):
        share = module.momentum_now
        assert share is not None
        return weighted(theirs.BatchNormalization(momentum=1.0 - share, epsilon=module.eps))
    if isinstance(module, nn.ReLU):
        return theirs.ReLU()(x)
    if isinstance(module, nn.MaxPool2d):
        if module.padding != (0, 0):
            rows, columns = module.padding
            pads = [[0, 0], [rows, rows], [columns, columns], [0, 0]]
            x = theirs.Lambda(lambda t: tf.pad(t, pads, constant_values=t.dtype.min))(x)
        return theirs.MaxPooling2D(module.kernel_size, module.stride)(x)
    if isinstance(module, nn.AvgPool2d):
        if module.padding != (0, 0):
            x = theirs.ZeroPadding2D(module.padding)(x)
        return theirs.AveragePooling2D(module.kernel_size, module.stride)(x)
    if isinstance(module, nn.GlobalAvgPool2d):
        return theirs.GlobalAveragePooling2D()(x)
    if isinstance(module, nn.Flatten):
        return theirs.Flatten()(x)
    raise TypeError(f"{type(module).__name__} has no counterpart here")
