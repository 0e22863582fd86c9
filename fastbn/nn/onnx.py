"""What a layer's ``onnx(build, flow)`` is given. Nothing here needs the onnx package.

The library computes channels-last, ONNX channels-first. Not the data is permuted but the weights:
convolutions have PyTorch's shapes anyway, and what stands after a Flatten is put into the order
C, H, W by `Builder.weight`, as the layers' ``follow_order`` says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from numpy.typing import ArrayLike

from fastbn.nn.order import Order

if TYPE_CHECKING:
    from fastbn.nn.module import Module


@dataclass(frozen=True, slots=True)
class Flow:
    """A value on its way through the network.

    Attributes
    ----------
    value : onnx_ir.Value
        (N, C, *spatial), or (N, features).
    shape : tuple of int
        What the library has there, without the batch: (*spatial, C), or (features,).
    order : ndarray of int or None
        For features after a Flatten: ONNX has at place j what the library has at order[j].
    """

    value: Any
    shape: tuple[int, ...]
    order: Order = None

    def to(self, value: Any, shape: tuple[int, ...] | None = None) -> Flow:
        """Return what a layer makes of it: another value, and another shape if it has changed."""
        return replace(self, value=value, shape=self.shape if shape is None else shape)


class Builder(Protocol):
    """An ONNX graph under construction, as the layer that is written sees it."""

    @property
    def opset(self) -> int:
        """Operator set that nodes are written for."""

    def require(self, opset: int, why: str) -> None:
        """Raise the opset if it is lower; `why` is noted."""

    def weight(self, name: str, values: ArrayLike, dtype: Any = ...) -> Any:
        """Add an initializer, float32 by default, and return it.

        Give arrays of the layer's state themselves, not copies: those after a Flatten are
        reordered. The layer's path comes in front of the name.
        """

    def node(self, operator: str, inputs: Sequence[Any], name: str = "", **attributes: Any) -> Any:
        """Add a node and return its output. The layer's path comes in front of the name."""

    def layer(self, layer: Module, *flows: Flow) -> Any:
        """Add the nodes of a layer inside this one."""

    def aligned(self, *flows: Flow) -> tuple[Flow, ...]:
        """Return flows whose features are in one order, so that they can be added."""

    def natural(self, flow: Flow) -> Flow:
        """Return a flow whose features are in the library's order."""
