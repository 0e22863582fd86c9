"""PyTorch's norms of single samples, eager, and the operators behind them without autograd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastbn.bench.cases import GROUPS
from fastbn.bench.timing import Call

EPS = 1e-5


def norm_variants(
    torch: Any, norm: tuple[str, str], tensors: tuple[Any, Any, Any, Any]
) -> dict[str, Call]:
    """Return the ways to run an operation and a part of it; `tensors` are x, dy, weight, bias."""
    name, part = norm
    x, dy, weight, bias = tensors
    leaves = [p.detach().requires_grad_() for p in (x, weight, bias)]
    aten, size = torch.ops.aten, x.shape[2:].numel()
    N, C = x.shape[:2]

    def function(x: Any, weight: Any, bias: Any) -> Any:
        if name == "layer_norm":
            return torch.nn.functional.layer_norm(x, (C,), weight, bias, EPS)
        if name == "group_norm":
            return torch.nn.functional.group_norm(x, GROUPS, weight, bias, EPS)
        return torch.nn.functional.instance_norm(x, weight=weight, bias=bias, eps=EPS)

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def eager() -> Any:
        return (function(x, weight, bias),)

    def eager_step() -> Any:
        return torch.autograd.grad(function(*leaves), leaves, dy)

    forward: Callable[[], Any] | None = None
    if name == "layer_norm":

        def forward() -> Any:
            return aten.native_layer_norm(x, (C,), weight, bias, EPS)

        def backward(mean: Any, rstd: Any) -> Any:
            return aten.native_layer_norm_backward(
                dy, x, (C,), mean, rstd, weight, bias, [True, True, True]
            )

    elif name == "group_norm":

        def forward() -> Any:
            return aten.native_group_norm(x, weight, bias, N, C, size, GROUPS, EPS)

        def backward(mean: Any, rstd: Any) -> Any:
            return aten.native_group_norm_backward(
                dy, x, mean, rstd, weight, N, C, size, GROUPS, [True, True, True]
            )

    if part == "forward":
        plain = {} if forward is None else {"out": lambda: forward()[:1]}
        return {"eager": eager, **plain}
    if part == "step":
        plain = {} if forward is None else {"out": lambda: backward(*forward()[1:])}
        return {"eager": eager_step, **plain}
    made = function(*leaves)
    ways: dict[str, Call] = {
        "eager": lambda: torch.autograd.grad(made, leaves, dy, retain_graph=True)
    }
    if forward is not None:
        kept = forward()[1:]
        ways["out"] = lambda: backward(*kept)
    return ways
