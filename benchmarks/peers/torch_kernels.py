"""PyTorch's batch_norm and relu, eager: through autograd, and without it into arrays made before.

Variants: ``eager`` is what users write, and makes a new array for every result; ``out`` calls the
operators behind it with arrays that exist, and ReLU in place.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from fastbn.bench.cases import Case, norm_of
from fastbn.bench.digest import Digest, digest
from fastbn.bench.peers.suite import Kernels
from fastbn.bench.peers.torch_norms import norm_variants
from fastbn.bench.shapes import parse
from fastbn.bench.timing import Call

EPS, MOMENTUM = 1e-5, 0.1


def tensor(torch: Any, array: Any, layout: str) -> Any:
    """Return a tensor of the array's memory: NCHW's shape, and channels_last for ``nhwc``."""
    if array.dtype.name == "bfloat16":
        view = torch.from_numpy(array.view("uint16")).view(torch.bfloat16)
    else:
        view = torch.from_numpy(array)
    return view.permute(0, 3, 1, 2) if layout == "nhwc" else view


class Suite(Kernels):
    """PyTorch with so many threads."""

    def __init__(self, threads: int) -> None:
        super().__init__()
        self.torch: Any = importlib.import_module("torch")
        self.torch.set_num_threads(threads)
        self.torch.set_num_interop_threads(1)

    def calls(  # type: ignore[override]
        self, shape: str, layout: str, dtype: str, ops: list[str]
    ) -> dict[str, Call]:
        """Return all variants of the operations; see `fastbn.bench.cases.Ours`."""
        torch = self.torch
        arrays = Case(parse(shape), layout, dtype).values()
        x, dy, residual = (tensor(torch, array, layout) for array in arrays[:3])
        weight, bias = (torch.from_numpy(array) for array in arrays[3:])
        mean, var = torch.zeros_like(weight), torch.ones_like(weight)
        save_mean, save_invstd, dweight, dbias = (torch.empty_like(weight) for _ in range(4))
        nothing = torch.empty(0), torch.empty(0)
        y, d, dx = (torch.empty_like(x) for _ in range(3))
        leaves = [p.detach().requires_grad_() for p in (x, weight, bias, residual)]
        frozen = mean.clone(), var.clone()
        batch_norm, relu = torch.nn.functional.batch_norm, torch.nn.functional.relu
        aten = torch.ops.aten

        def without_graph(function: Callable[..., Any]) -> Callable[..., Any]:
            result: Callable[..., Any] = torch.no_grad()(function)
            return result

        @without_graph
        def eager(added: Any = None) -> Any:
            z = batch_norm(x, mean, var, weight, bias, True, MOMENTUM, EPS)
            if added is not None:
                z += added
            return (relu(z, inplace=True),)

        @without_graph
        def out(y: Any, added: Any = None) -> Any:
            aten.native_batch_norm.out(
                x, weight, bias, mean, var, True, MOMENTUM, EPS,
                out=y, save_mean=save_mean, save_invstd=save_invstd,
            )  # fmt: skip
            if added is not None:
                y.add_(added)
            return (y.relu_(),)

        @without_graph
        def inference() -> Any:
            z = batch_norm(x, *frozen, weight, bias, False, MOMENTUM, EPS)
            return (relu(z, inplace=True),)

        @without_graph
        def inference_out() -> Any:
            aten.native_batch_norm.out(
                x, weight, bias, *frozen, False, MOMENTUM, EPS,
                out=y, save_mean=nothing[0], save_invstd=nothing[1],
            )  # fmt: skip
            return (y.relu_(),)

        @without_graph
        def out_backward(y: Any, count: int = 3) -> Any:
            aten.threshold_backward.grad_input(dy, y, 0, grad_input=d)
            aten.native_batch_norm_backward.out(
                d, x, weight, mean, var, save_mean, save_invstd, True, EPS, [True, True, True],
                out0=dx, out1=dweight, out2=dbias,
            )  # fmt: skip
            return (dx, dweight, dbias, d)[:count]

        def graph(count: int = 3) -> Any:
            z = batch_norm(leaves[0], mean, var, leaves[1], leaves[2], True, MOMENTUM, EPS)
            if count == 4:
                z = z + leaves[3]
            return relu(z, inplace=True)

        def backward(y: Any, count: int = 3) -> Any:
            return torch.autograd.grad(y, leaves[:count], dy, retain_graph=True)

        def eager_step() -> Any:
            return torch.autograd.grad(graph(), leaves[:3], dy)

        def out_step() -> Any:
            out(y)
            return out_backward(y)

        def of(op: str) -> dict[str, Call]:
            norm = norm_of(op)
            if norm is not None:
                return norm_variants(torch, norm, (x, dy, weight, bias))
            if op == "forward":
                return {"eager": eager, "out": lambda: out(y)}
            if op == "forward_fresh":
                return {"eager": eager}
            if op == "inference":
                return {"eager": inference, "out": inference_out}
            if op == "forward_residual":
                return {
                    "eager": lambda: eager(residual),
                    "out": lambda: out(y, residual),
                }
            if op == "step":
                return {"eager": eager_step, "out": out_step}
            if op == "step_fresh":
                return {"eager": eager_step}
            # Backward alone: forward runs here, once.
            count = 4 if op == "backward_residual" else 3
            made, kept = graph(count), torch.empty_like(x)
            out(kept, residual if count == 4 else None)
            return {
                "eager": lambda: backward(made, count),
                "out": lambda: out_backward(kept, count),
            }

        return {f"{op}:{variant}": call for op in ops for variant, call in of(op).items()}

    def summary(self, result: Any) -> Digest:
        """See `fastbn.bench.digest.digest`."""
        return digest(part.detach().double().numpy() for part in result)
