"""How exact the normalisations are, beside PyTorch: the table of ``fastbn bench accuracy``.

The error of a result is max|y - y64| / max|y64|, where y64 is computed in float64, by
:mod:`fastbn.reference`, from the same float32 input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastbn import functional as F
from fastbn import reference

if TYPE_CHECKING:
    from rich.table import Table

Array = NDArray[Any]
EPS = 1e-5
LAYOUTS = {"nchw": 1, "nhwc": -1, "nc": -1}  # and where their channels are
NORMS = {
    "batch_norm": ("nchw", "nhwc", "nc"),
    "layer_norm": ("nc",),
    "rms_norm": ("nc",),
    "group_norm": ("nchw", "nhwc"),
    "instance_norm": ("nchw", "nhwc"),
}
"""The operations, and the layouts in which they are measured."""
GROUPS = 4


def _one_hot(noise: Array) -> Array:
    """One 1 in every channel, at a place of its own."""
    x = np.zeros_like(noise)
    columns = x.reshape(-1, x.shape[-1])
    columns[np.arange(x.shape[-1]) * 97 % len(columns), np.arange(x.shape[-1])] = 1
    return x


INPUTS: dict[str, Callable[[Array], Array]] = {
    "N(0, 1)": lambda noise: noise,
    "N(0, 1) + 1e4": lambda noise: noise + 1e4,
    "N(0, 1) + 1e6": lambda noise: noise + 1e6,
    "constant": lambda noise: np.broadcast_to(noise.reshape(-1, noise.shape[-1])[0], noise.shape),
    "subnormal": lambda noise: noise * 1e-39,
    "N(0, 1) * 1e30": lambda noise: noise * 1e30,
    "one-hot": _one_hot,
}
"""What inputs are made of from standard normal numbers; statistics are those of columns."""


@dataclass(frozen=True)
class Accuracy:
    """Errors of a forward and a backward, of fastbn and (where it is installed) PyTorch."""

    name: str
    layout: str
    y: float
    dx: float
    torch_y: float | None
    torch_dx: float | None


def _error(found: Array, truth: Array) -> float:
    largest = float(np.abs(truth).max())
    return (
        float(np.abs(found - truth).max()) / largest if largest > 0 else float(np.abs(found).max())
    )


def _arguments(op: str, x: Array, weight: Array, bias: Array, axis: int) -> tuple[Any, Any]:
    """Positional arguments after x, and the others."""
    if op in ("layer_norm", "rms_norm"):
        parameters = (weight, bias) if op == "layer_norm" else (weight,)
        return parameters, {"normalized_shape": x.shape[-1:], "eps": EPS}
    if op == "group_norm":
        return (GROUPS, weight, bias), {"eps": EPS, "axis": axis}
    more = {"training": True} if op == "batch_norm" else {}
    return (weight, bias), {"eps": EPS, "axis": axis, **more}


def _torch(
    op: str, x: Array, dy: Array, weight: Array, bias: Array, layout: str
) -> tuple[Array, Array]:
    """PyTorch's y and dx, of arrays in `layout`."""
    import torch

    def tensor(array: Array) -> Any:
        made = torch.from_numpy(np.ascontiguousarray(array))
        return made.permute(0, 3, 1, 2) if layout == "nhwc" else made

    def array(made: Any) -> Array:
        moved = made.permute(0, 2, 3, 1) if layout == "nhwc" else made
        result: Array = moved.detach().numpy()
        return result

    given, w, b = tensor(x).requires_grad_(), torch.from_numpy(weight), torch.from_numpy(bias)
    of = torch.nn.functional
    y = {
        "batch_norm": lambda: of.batch_norm(given, None, None, w, b, training=True, eps=EPS),
        "layer_norm": lambda: of.layer_norm(given, x.shape[-1:], w, b, EPS),
        "rms_norm": lambda: of.rms_norm(given, x.shape[-1:], w, EPS),
        "group_norm": lambda: of.group_norm(given, GROUPS, w, b, EPS),
        "instance_norm": lambda: of.instance_norm(given, weight=w, bias=b, eps=EPS),
    }[op]()
    (dx,) = torch.autograd.grad(y, given, tensor(dy))
    return array(y), array(dx)


def _sets(op: str, layout: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of noise whose columns share statistics, and of the array that it becomes."""
    if op == "batch_norm":
        shape = (3136, 24) if layout == "nc" else (16, 14, 14, 24)
        return shape, shape
    if layout == "nc":
        return (384, 256), (256, 384)
    groups = GROUPS if op == "group_norm" else 24
    return (24 // groups * 14 * 14, 16 * groups), (16, 24, 14, 14)


def cases(
    seed: int = 0, op: str = "batch_norm"
) -> Iterator[tuple[str, str, Array, Array, Array, Array]]:
    """Yield name, layout, x, dy, weight and bias of every case; float32."""
    rng = np.random.default_rng(seed)
    for layout in NORMS[op]:
        axis = LAYOUTS[layout]
        columns, shape = _sets(op, layout)
        for name, make in INPUTS.items():
            x = make(rng.standard_normal(columns)).astype(np.float32)
            dy = rng.standard_normal(shape).astype(np.float32)
            at = -1
            if op != "batch_norm":
                x = x.T.reshape(shape)
                at = 1
            weight, bias = rng.uniform(0.5, 1.5, (2, shape[at])).astype(np.float32)
            x, dy = (np.ascontiguousarray(np.moveaxis(a, at, axis)) for a in (x, dy))
            yield name, layout, x, dy, weight, bias


def measure(torch: bool, seed: int = 0, op: str = "batch_norm") -> list[Accuracy]:
    """Errors of all cases of an operation; PyTorch's too if `torch`."""
    found = []
    for name, layout, x, dy, weight, bias in cases(seed, op):
        arguments, options = _arguments(op, x, weight, bias, LAYOUTS[layout])

        def both(module: Any) -> tuple[Array, Array]:
            y, saved = getattr(module, op)(x, *arguments, **options)  # noqa: B023
            return y, getattr(module, f"{op}_backward")(dy, saved)[0]  # noqa: B023

        y64, dx64 = both(reference)
        y, dx = both(F)
        beside = _torch(op, x, dy, weight, bias, layout) if torch else None
        found.append(
            Accuracy(
                name,
                layout,
                _error(y, y64),
                _error(dx, dx64),
                None if beside is None else _error(beside[0], y64),
                None if beside is None else _error(beside[1], dx64),
            )
        )
    return found


def accuracy_table(found: list[Accuracy], op: str = "batch_norm") -> Table:
    """Return the table for a terminal; what is more than twice as far off as PyTorch is red."""
    from rich.table import Table

    table = Table(title=f"{op}: error against float64, of the largest value", title_justify="left")
    table.add_column("input", no_wrap=True)
    table.add_column("layout", no_wrap=True)
    for name in ("y", "PyTorch's y", "dx", "PyTorch's dx"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in found:
        figures = (row.y, row.torch_y, row.dx, row.torch_dx)
        table.add_row(
            row.name,
            row.layout,
            *("" if value is None else f"{value:.1e}" for value in figures),
            style="red" if loses(row) else None,
        )
    return table


def loses(row: Accuracy) -> bool:
    """Whether a result is more than twice as far off as PyTorch's, and not just one rounding."""
    pairs = ((row.y, row.torch_y), (row.dx, row.torch_dx))
    return any(
        beside is not None and np.isfinite(beside) and not ours <= max(2 * beside, 2**-23)
        for ours, beside in pairs
    )
