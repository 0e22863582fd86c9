"""PReLU: a leaky ReLU whose slopes are learned."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from fastbn import functional as F
from fastbn.nn.elementwise import Elementwise
from fastbn.nn.init import check_sizes
from fastbn.nn.module import Shape
from fastbn.nn.onnx import Builder, Flow
from fastbn.nn.order import Order, Orders
from fastbn.nn.parameter import Parameter
from fastbn.nn.state import batch_of

Array = NDArray[Any]


class PReLU(Elementwise):
    """Return x where x > 0, else weight · x (He et al. 2015).

    Parameters
    ----------
    num_parameters : int, default 1
        One slope for all channels, or as many as there are channels.
    init : float, default 0.25
        The slopes before training.

    Examples
    --------
    >>> import numpy as np
    >>> PReLU()(np.array([[-1.0, 2.0]], np.float32))
    array([[-0.25,  2.  ]], dtype=float32)
    """

    def __init__(
        self, num_parameters: int = 1, init: ArrayLike = 0.25, *, dtype: DTypeLike = np.float32
    ) -> None:
        super().__init__()
        check_sizes(self, num_parameters=num_parameters)
        self.num_parameters = num_parameters
        self.weight = Parameter(np.full(num_parameters, init, dtype=np.float64), dtype=dtype)

    def forward(self, x: Array) -> tuple[Array, Any]:
        """Return x where x > 0, else weight · x."""
        return F.prelu(x, self.weight.data, out=self._pool.take(x.shape, x.dtype))

    def backward(self, dy: Array, saved: Any, need_dx: bool = True) -> Array | None:
        """Write the gradient of the slopes; return dy where x > 0, else weight · dy."""
        dx, dweight = F.prelu_backward(
            dy,
            saved,
            out=self._pool.take(dy.shape, dy.dtype),
            dweight=self.weight.grad_out,
        )
        if self.weight.requires_grad:
            self.weight.grad = dweight
        return dx

    def output_shape(self, input_shape: Shape) -> Shape:
        """Return the input's shape."""
        if self.num_parameters not in {1, input_shape[-1]}:
            raise ValueError(
                f"{self.where}: expected {self.num_parameters} channels, "
                f"got input of shape {batch_of(input_shape)}"
            )
        return input_shape

    def follow_order(self, found: Orders, *orders: Order) -> Order:
        """Permute the slopes with the features."""
        if self.num_parameters > 1:
            found.permute(self.weight.data, 0, orders[0])
        return orders[0]

    def onnx(self, build: Builder, flow: Flow) -> Flow:
        """Add PRelu; the slopes of an image's channels stand at axis 1."""
        slopes = self.weight.data
        if len(flow.shape) > 1:
            slopes = slopes.reshape(-1, *(1,) * (len(flow.shape) - 1))
        return flow.to(build.node("PRelu", [flow.value, build.weight("weight", slopes)]))

    def extra_repr(self) -> str:
        """Return the number of slopes."""
        return f"{self.num_parameters}"
