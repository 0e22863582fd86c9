"""PyTorch with the recipe of `fastbn.bench.cifar`: same weights, same batches, its own loop."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np

from fastbn import data as datasets
from fastbn.bench.cifar.recipe import Recipe, images_of, jolt, network
from fastbn.bench.cifar.run import batches_of
from fastbn.bench.peers.torch_train import translate


class Suite:
    """PyTorch with so many threads."""

    def __init__(self, threads: int) -> None:
        os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # no further processes
        self.torch: Any = importlib.import_module("torch")
        self.torch.set_num_threads(threads)
        self.torch.set_num_interop_threads(1)

    def open(
        self,
        root: str,
        images: int | None,
        recipe: dict[str, Any],
        seed: int,
        variant: str,
        jolted: bool = False,
    ) -> dict[str, Any]:
        """Make network and optimizer; `variant` has the words channels_last or compile."""
        torch, words = self.torch, variant.split()
        self.recipe = Recipe(**recipe)
        self.data = images_of(datasets.load("cifar10", root), images)
        x = np.asarray(self.data.x_train)
        self.steps = self.recipe.steps(len(x))
        self.layout = torch.channels_last if "channels_last" in words else torch.contiguous_format
        source = network(x, seed)
        if jolted:
            jolt(source)
        ranks = {id(step.layer): len(step.input_shape) for step in source.trace(x.shape[1:])}
        self.net = translate(torch, source, ranks).to(memory_format=self.layout).train()
        state = source.state_dict(layout="NCHW").items()
        self.net.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in state})
        theirs = dict(self.net.named_parameters())
        for name, parameter in source.named_parameters():
            theirs[name].requires_grad_(parameter.requires_grad)
        names = {id(parameter): name for name, parameter in source.named_parameters()}
        self.groups = self.recipe.groups(source, len(x))
        self.optimizer = torch.optim.SGD(
            [
                {
                    "params": [theirs[names[id(parameter)]] for parameter in group["params"]],
                    "weight_decay": group["weight_decay"],
                }
                for group in self.groups
            ],
            lr=1.0,
            momentum=self.recipe.momentum,
            nesterov=True,
        )
        self.fast = [value for value in self.net.state_dict().values() if value.is_floating_point()]
        self.slow = [value.detach().clone() for value in self.fast]
        self.slow_part = self.recipe.slow_part(len(x))
        self.loss = torch.nn.CrossEntropyLoss(label_smoothing=self.recipe.smoothing)
        self.call = torch.compile(self.net) if "compile" in words else self.net
        self.done = 0
        self.batches = self._endless(seed)
        return {"recipe": asdict(self.recipe), "steps": self.steps}

    def _endless(self, seed: int) -> Iterator[Any]:
        batches = batches_of(self.data, self.recipe, seed, self.recipe.augmentation())
        while True:
            yield from batches

    def turn(self, steps: int) -> dict[str, Any]:
        """Do so many further steps; return their seconds and losses."""
        begin = time.perf_counter()
        losses = [self._step() for _ in range(steps)]
        return {"seconds": time.perf_counter() - begin, "losses": losses}

    def gradients(self) -> dict[str, Any]:
        """Return the gradients of the latest step by name, flat."""
        return {
            name: parameter.grad.contiguous().numpy().astype(np.float64).ravel().tolist()
            for name, parameter in self.net.named_parameters()
            if parameter.grad is not None
        }

    def _step(self) -> float:
        torch = self.torch
        x, y = next(self.batches)[:2]
        images = torch.from_numpy(x).permute(0, 3, 1, 2).contiguous(memory_format=self.layout)
        self.optimizer.zero_grad(set_to_none=True)
        value = self.loss(self.call(images), torch.from_numpy(np.asarray(y, np.int64)))
        value.backward()
        for theirs, ours in zip(self.optimizer.param_groups, self.groups, strict=True):
            theirs["lr"] = ours["lr"](self.done)
        self.optimizer.step()
        self.done += 1
        if self.done % self.recipe.slow_every == 0:
            with torch.no_grad():
                for fast, slow in zip(self.fast, self.slow, strict=True):
                    slow.lerp_(fast, self.slow_part(self.done))
                    fast.copy_(slow)
        return float(value.item())

    def accuracy(self) -> dict[str, float]:
        """Take the slow weights, for good; return the accuracy on the test images."""
        torch = self.torch
        with torch.no_grad():
            for fast, slow in zip(self.fast, self.slow, strict=True):
                fast.copy_(slow)
        self.net.eval()
        x, y = np.asarray(self.data.x_test), self.data.y_test
        right = 0
        with torch.no_grad():
            for start in range(0, len(x), 500):
                part = torch.from_numpy(x[start : start + 500]).permute(0, 3, 1, 2)
                found = self.net(part.contiguous(memory_format=self.layout)).argmax(1).numpy()
                right += int((found == y[start : start + 500]).sum())
        return {"accuracy": right / len(x)}
