"""PyTorch's training steps: eager and compiled, either image layout, fused optimizers or not."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import Any

from fastbn import nn
from fastbn.bench.networks import NETWORKS
from fastbn.bench.peers.suite import Training
from fastbn.bench.timing import Call


class Suite(Training):
    """PyTorch with so many threads."""

    def __init__(self, threads: int) -> None:
        os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # no further processes
        self.torch: Any = importlib.import_module("torch")
        self.torch.set_num_threads(threads)
        self.torch.set_num_interop_threads(1)
        super().__init__()

    def prepare(
        self, network: str, batch: int, variant: str
    ) -> tuple[Call, Callable[[int], float]]:
        """See `Training.prepare`; a variant is a list of words, as in `train.VARIANTS`."""
        torch = self.torch
        recipe, words = NETWORKS[network], variant.split()
        layout = torch.channels_last if "channels_last" in words else torch.contiguous_format
        data = [
            (
                torch.from_numpy(x).permute(0, 3, 1, 2).contiguous(memory_format=layout),
                torch.from_numpy(labels),
            )
            for x, labels in recipe.data(batch)
        ]
        source = recipe.make()
        initial = {
            name: torch.from_numpy(value.copy())
            for name, value in source.state_dict(layout="NCHW").items()
        }
        ranks = {id(step.layer): len(step.input_shape) for step in source.trace(recipe.input_shape)}
        net = translate(torch, source, ranks).to(memory_format=layout).train()
        loss = torch.nn.functional.cross_entropy
        del source

        def loss_of(x: Any, labels: Any) -> Any:
            return loss(net(x), labels)

        forward = torch.compile(loss_of) if "compile" in words else loss_of
        fused = "fused" in words
        optimizer: Any = None

        def reset() -> None:
            nonlocal optimizer
            net.load_state_dict(initial)
            parameters = list(net.parameters())
            if recipe.optimizer == "adam":
                optimizer = torch.optim.Adam(parameters, lr=recipe.lr, fused=fused)
            else:
                optimizer = torch.optim.SGD(
                    parameters, lr=recipe.lr, momentum=recipe.momentum, fused=fused
                )

        def step(i: int) -> float:
            optimizer.zero_grad(set_to_none=True)
            value = forward(*data[i % len(data)])
            value.backward()
            optimizer.step()
            return float(value.item())

        return reset, step


def translate(torch: Any, module: nn.Module, ranks: dict[int, int]) -> Any:
    """Return PyTorch's counterpart of a network, whose parameters have the same names.

    `ranks` tells, by a layer's id, how many axes a sample in front of it has.

    Raises
    ------
    TypeError
        If a layer has none here.
    """
    theirs = torch.nn
    if isinstance(module, nn.Graph):
        return _graph(torch, module, ranks)
    if isinstance(module, nn.Sequential):
        return theirs.Sequential(*(translate(torch, layer, ranks) for layer in module))
    if isinstance(module, nn.Residual):
        shortcut = None if module.shortcut is None else translate(torch, module.shortcut, ranks)
        return _residual(torch, translate(torch, module.body, ranks), shortcut)
    if isinstance(module, nn.Concat):
        return _concat(torch, [translate(torch, branch, ranks) for branch in module.branches])
    if isinstance(module, nn.Linear):
        return theirs.Linear(module.in_features, module.out_features, bias=module.bias is not None)
    if isinstance(module, nn.Conv2d):
        return theirs.Conv2d(
            module.in_channels, module.out_channels, module.kernel_size, stride=module.stride,
            padding=module.padding, dilation=module.dilation, groups=module.groups,
            bias=module.bias is not None,
        )  # fmt: skip
    if isinstance(module, nn.BatchNorm):
        kind = theirs.BatchNorm2d if ranks[id(module)] == 3 else theirs.BatchNorm1d
        return kind(module.num_features, eps=module.eps, momentum=module.momentum)
    if isinstance(module, nn.ReLU):
        return theirs.ReLU(inplace=True)
    if isinstance(module, nn.ReLU6):
        return theirs.ReLU6(inplace=True)
    if isinstance(module, nn.ZeroPad2d):
        return theirs.ZeroPad2d(module.padding)
    if isinstance(module, nn.GELU):
        return theirs.GELU(module.approximate)
    if isinstance(module, nn.Scale):
        return _scale(torch, module.factor)
    if isinstance(module, nn.MaxPool2d):
        return theirs.MaxPool2d(module.kernel_size, module.stride, module.padding)
    if isinstance(module, nn.AvgPool2d):
        return theirs.AvgPool2d(module.kernel_size, module.stride, module.padding)
    if isinstance(module, nn.GlobalAvgPool2d):
        return theirs.Sequential(theirs.AdaptiveAvgPool2d(1), theirs.Flatten())
    if isinstance(module, nn.Flatten):
        return theirs.Flatten()
    raise TypeError(f"{type(module).__name__} has no counterpart here")


def _residual(torch: Any, body: Any, shortcut: Any) -> Any:
    class Residual(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.body = body
            self.shortcut = shortcut

        def forward(self, x: Any) -> Any:
            added = x if self.shortcut is None else self.shortcut(x)
            return torch.relu_(self.body(x) + added)

    return Residual()


def _graph(torch: Any, graph: nn.Graph, ranks: dict[int, int]) -> Any:
    """Return a module that runs the nodes in turn; a value goes with its last use."""
    last = {slot: index for index, (_, inputs) in enumerate(graph.nodes) for slot in inputs}

    class Graph(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.steps: list[tuple[Any, tuple[int, ...]]] = []
            for (name, layer), (_, inputs) in zip(graph.named_children(), graph.nodes, strict=True):
                if isinstance(layer, nn.Add):
                    step: Any = torch.add
                elif isinstance(layer, nn.Concatenate):
                    step = _side_by_side
                else:
                    step = translate(torch, layer, ranks)
                    _put(torch, self, name, step)
                self.steps.append((step, inputs))

        def forward(self, x: Any) -> Any:
            values = {0: x}
            for index, (step, inputs) in enumerate(self.steps):
                values[index + 1] = step(*(values[slot] for slot in inputs))
                for slot in inputs:
                    if last[slot] == index:
                        values.pop(slot, None)
            return values[graph.outputs[0]]

    def _side_by_side(*parts: Any) -> Any:
        return torch.cat(parts, 1)

    return Graph()


def _put(torch: Any, module: Any, name: str, layer: Any) -> None:
    """Make a layer a part of a module, under a name with dots."""
    *path, own = name.split(".")
    for part in path:
        if part not in module._modules:
            module.add_module(part, torch.nn.Module())
        module = module._modules[part]
    module.add_module(own, layer)


def _scale(torch: Any, factor: float) -> Any:
    class Scale(torch.nn.Module):  # type: ignore[misc]
        def forward(self, x: Any) -> Any:
            return x * factor

    return Scale()


def _concat(torch: Any, branches: list[Any]) -> Any:
    class Concat(torch.nn.ModuleList):  # type: ignore[misc]
        def forward(self, x: Any) -> Any:
            return torch.cat([branch(x) for branch in self], 1)

    return Concat(branches)
