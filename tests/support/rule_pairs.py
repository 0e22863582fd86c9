"""Graphs for every pair of neighbouring operations, and a count of the rules that met in them."""

from __future__ import annotations

import collections
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import onnx
import pytest
from random_graphs import OPERATIONS, SOURCES, Drawer, Value

from fastbn.export.fold.moves import BACKWARD, FORWARD

LINEAR = ("conv_pointwise", "conv_padded", "gemm", "matmul")


# --- Graphs ---------------------------------------------------------------------------------------


def linear(d: Drawer, v: Value) -> Value:
    """A linear operator that takes this value, drawn."""
    names = list(LINEAR)
    d.rng.shuffle(names)
    return next(made for name in names if (made := d.add(name, v)) is not None)


def _both(d: Drawer, v: Value, first: str, second: str) -> Value | None:
    made = d.add(first, v)
    return None if made is None else d.add(second, made)


def _behind(d: Drawer, first: str, second: str) -> Value | None:
    """linear → first → second → BatchNorm."""
    made = _both(d, linear(d, d.values[0]), first, second)
    return made and d.add("norm", made)


def _ahead(d: Drawer, first: str, second: str) -> Value | None:
    """BatchNorm → first → second → linear."""
    normal = d.add("norm", d.values[0])
    made = normal and _both(d, normal, first, second)
    return made and linear(d, made)


def _shared(d: Drawer, first: str, second: str) -> Value | None:
    """Both read one value, a BatchNorm is behind one: the other has to undo what it takes in."""
    trunk = linear(d, d.values[0])
    left, right = d.add(first, trunk), d.add(second, trunk)
    if left is None or right is None:
        return None
    d.outputs.append(d.op("Sigmoid", [linear(d, right).name], ()).name)
    return d.add("norm", left)


def _trunk(d: Drawer, first: str, second: str) -> Value | None:
    """A branch is added to the trunk that it read; what follows is behind the sum."""
    trunk = d.add("norm", d.values[0] if d.chance(0.5) else linear(d, d.values[0]))
    branch = trunk and d.add("conv_padded" if trunk.spatial else "gemm", trunk)
    if trunk is None or branch is None or branch.shape != trunk.shape:
        return None
    operator = d.one_of("Add", "Add", "Sub", "Sum")
    total = d.op(operator, d.order(trunk.name, branch.name), trunk.shape)
    d.values.append(total)
    made = _both(d, total, first, second)
    return made and d.add("norm", made)


def _joined(d: Drawer, first: str, second: str) -> Value | None:
    """Two branches of one value meet again."""
    trunk = linear(d, d.values[0])
    left, right = d.add(first, trunk), d.add(second, trunk)
    if left is None or right is None:
        return None
    if left.shape == right.shape:
        name = d.one_of("Add", "Sub", "Sum", "Mul", "Max")
        return d.add("norm", d.op(name, d.order(left.name, right.name), left.shape))
    if left.spatial == right.spatial:
        shape = (left.channels + right.channels, *left.spatial)
        return d.add("norm", d.op("Concat", [left.name, right.name], shape, axis=1))
    return None


PLACES = {"behind": _behind, "ahead": _ahead, "shared": _shared, "trunk": _trunk, "joined": _joined}
# Who else may read a value.
READERS: dict[str, Callable[[Drawer, Value], Value]] = {
    "sigmoid": lambda d, v: d.op("Sigmoid", [v.name], v.shape),
    "linear": linear,
    "norm": OPERATIONS["norm"],
    "output": lambda _, v: v,
}
PAIRS = list(itertools.product(OPERATIONS, OPERATIONS))


def pair_graph(
    place: str, first: str, second: str, seed: int, **options: object
) -> tuple[onnx.ModelProto, str] | None:
    """Draw a graph with both operations next to each other; None if no shape suits both.

    Now and then up to three others read what stands between, or it is an output.
    """
    for source in SOURCES:
        d = Drawer(seed, source=source, **options)  # type: ignore[arg-type]
        last = PLACES[place](d, first, second)
        if last is None:
            continue
        readers = []
        v = d.one_of(*d.values[1:])
        while d.chance(0.3) and len(readers) < 3:
            readers.append(d.one_of(*READERS))
            d.outputs.append(READERS[readers[-1]](d, v).name)
        return d.model(last), " and ".join(sorted(readers)) or "nobody"
    return None


# --- What was covered -----------------------------------------------------------------------------


@dataclass
class Coverage:
    """Rules by how often they were asked, by whom, where, and for what kind of affine."""

    graphs: collections.Counter[str] = field(default_factory=collections.Counter)
    others: collections.Counter[str] = field(default_factory=collections.Counter)
    rules: collections.Counter[str] = field(default_factory=collections.Counter)
    pairs: collections.Counter[tuple[str, str]] = field(default_factory=collections.Counter)
    places: collections.Counter[str] = field(default_factory=collections.Counter)
    affines: collections.Counter[str] = field(default_factory=collections.Counter)
    readers: collections.Counter[int] = field(default_factory=collections.Counter)

    def __str__(self) -> str:
        lines = [f"{sum(self.graphs.values())} graphs"]
        lines.append(f"{len(self.rules)} rules, asked {sum(self.rules.values())} times")
        lines.append(f"{len(self.pairs)} pairs of a rule and the one it asked")
        for name in ("graphs", "others", "places", "affines", "readers"):
            lines.append(f"{name}: {dict(getattr(self, name).most_common())}")
        return "\n".join(lines)


@contextmanager
def watched() -> Iterator[Coverage]:
    """Count every rule the folder asks."""
    coverage, stack = Coverage(), []

    def spy(way: str, operator: str, honest):
        def rule(plan, node, *rest):
            name = f"{operator} {way}"
            affine = rest[0] if way == "back" else rest[1]
            where = "" if way == "back" else f" at {','.join(map(str, rest[0]))}"
            coverage.rules[name] += 1
            if stack:
                coverage.pairs[stack[-1], name] += 1
            coverage.places[f"{way}{where}"] += 1
            low, high = float(affine.scale.min()), float(affine.scale.max())
            sign = "negative" if high < 0 else "mixed" if low < 0 else "positive"
            sign = "zero" if not affine.scale.all() else sign
            coverage.affines[f"{sign}{' and shift' if affine.shifts else ''}"] += 1
            value = node.outputs[0] if way == "back" else node.inputs[rest[0][0]]
            coverage.readers[min(len(value.uses()), 4)] += 1
            stack.append(name)
            try:
                honest(plan, node, *rest)
            finally:
                stack.pop()

        return rule

    with pytest.MonkeyPatch.context() as patch:
        for table, way in ((BACKWARD, "back"), (FORWARD, "forth")):
            for operator, honest in list(table.items()):
                patch.setitem(table, operator, spy(way, operator, honest))
        yield coverage
