"""The tree that modules form: names, parameters and buffers, and who is a part of whom."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, cast

from numpy.typing import NDArray

from fastbn.nn.buffers import Pool
from fastbn.nn.parameter import Parameter

if TYPE_CHECKING:
    from fastbn.nn.module import Module

Array = NDArray[Any]


class Node:
    """A module as a part of a tree; `fastbn.nn.Module` adds what it computes."""

    buffer_names: ClassVar[tuple[str, ...]] = ()

    # Attributes that belong to this very object and not to a copy of it.
    transient: ClassVar[tuple[str, ...]] = ("_name", "_owner", "_pool")

    def __init__(self) -> None:
        self._name = ""
        self._owner: weakref.ref[Module] | None = None  # weak: a net dies with its last user
        self._pool = Pool()

    # --- names, downwards -------------------------------------------------------------------

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """Yield name and object of every module that is an attribute of this one."""
        for name, value in vars(self).items():
            if isinstance(value, Node):
                yield name, cast("Module", value)

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """Yield this module, named `prefix`, and all below it with their dotted names."""
        yield prefix, cast("Module", self)
        for name, child in self.named_children():
            yield from child.named_modules(f"{prefix}.{name}" if prefix else name)

    def modules(self) -> Iterator[Module]:
        """Yield this module and all below it."""
        for _, module in self.named_modules():
            yield module

    def own_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Yield name and object of every parameter that is an attribute of this module."""
        for name, value in vars(self).items():
            if isinstance(value, Parameter):
                yield name, value

    def own_buffers(self) -> Iterator[tuple[str, Array]]:
        """Yield name and array of this module's own state that is not trained."""
        for name in self.buffer_names:
            value = getattr(self, name)
            if value is not None:
                yield name, value

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Yield the dotted name and the object of every parameter, as PyTorch names them."""
        for prefix, module in self.named_modules():
            for name, value in module.own_parameters():
                yield (f"{prefix}.{name}" if prefix else name), value

    def parameters(self) -> list[Parameter]:
        """Return all parameters, in the order of `named_parameters`."""
        return [parameter for _, parameter in self.named_parameters()]

    def named_buffers(self) -> Iterator[tuple[str, Array]]:
        """Yield the dotted name and the array of all state that is not trained."""
        for prefix, module in self.named_modules():
            for name, value in module.own_buffers():
                yield (f"{prefix}.{name}" if prefix else name), value

    # --- ownership, upwards -----------------------------------------------------------------

    @property
    def owner(self) -> Module | None:
        """The module this one is a part of."""
        return None if self._owner is None else self._owner()

    @property
    def path(self) -> str:
        """Dotted name in the network, ``""`` for the network itself."""
        owner = self.owner
        if owner is None:
            return ""
        return f"{owner.path}.{self._name}" if owner.path else self._name

    @property
    def where(self) -> str:
        """What error messages call this layer: its class and its path."""
        path = self.path
        return f"{type(self).__name__} '{path}'" if path else type(self).__name__

    def adopt(self, name: str, child: Module) -> None:
        """Make `child` a part of this module.

        Raises
        ------
        ValueError
            If it is a part of a network already, of this one or another.
        """
        owner = child.owner
        if child is self or (owner is not None and (owner is not self or child._name != name)):
            raise ValueError(
                f"{type(self).__name__}: {type(child).__name__} object is used twice"
                + (f", it is {child.where} already" if child.path else "")
                + "; one layer object stands in one place"
            )
        child._owner = weakref.ref(cast("Module", self))
        child._name = name
        child.use_pool(self._pool)

    def adopt_children(self) -> None:
        """Adopt whatever became an attribute since the last time, all the way down."""
        for name, child in self.named_children():
            if child.owner is not self or child._name != name:
                self.adopt(name, child)
            child.adopt_children()

    def disown(self, child: Module) -> None:
        """Let `child` go: it may become a part of another module."""
        child._owner = None
        child._name = ""
        child.use_pool(Pool())

    def use_pool(self, pool: Pool) -> None:
        """Take buffers from `pool`, here and in all children."""
        for module in self.modules():
            module._pool = pool
            module.invalidate()

    def invalidate(self) -> None:
        """Forget what was worked out for the next call; subclasses add what that is."""

    def invalidate_upwards(self) -> None:
        """Forget it here and in all modules that contain this one."""
        node: Module | None = cast("Module", self)
        while node is not None:
            node.invalidate()
            node = node.owner

    # --- copies -----------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in self.transient}

    def __setstate__(self, kept: dict[str, Any]) -> None:
        Node.__init__(self)
        vars(self).update(kept)
        for name, child in self.named_children():
            self.adopt(name, child)
