"""GroupNorm, InstanceNorm: statistics of a sample's groups of channels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fastbn import functional as F
from fastbn.nn import init, state
from fastbn.nn.module import Shape
from fastbn.nn.norms import SampleNorm
from fastbn.nn.onnx import Builder, Flow

Array = NDArray[Any]


class GroupNorm(SampleNorm):
    """Normalise every group of neighbouring channels of every sample.

    Wu & He, "Group Normalization" (2018): no batch is too small, training and inference are the
    same.

    Parameters
    ----------
    num_groups : int
        Divides `num_channels`.
    num_channels : int
        Size of the last axis.
    eps : float, default 1e-5
        Added to the variance.
    affine : bool, default True
        Whether there are weight and bias.
    dtype : data-type, default float32
        float32 or float64.

    Attributes
    ----------
    weight, bias : Parameter or None, shape (num_channels,)

    Examples
    --------
    >>> layer = GroupNorm(2, 4)
    >>> layer(np.array([[1, 3, 10, 30]], dtype=np.float32)).round(3)
    array([[-1.,  1., -1.,  1.]], dtype=float32)
    """

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        *,
        dtype: DTypeLike = np.float32,
    ) -> None:
        super().__init__((num_channels,), eps, affine, affine, dtype)
        init.check_sizes(self, num_groups=num_groups, num_channels=num_channels)
        if num_channels % num_groups:
            raise ValueError(
                f"GroupNorm: num_channels must be divisible by num_groups, got {num_channels} "
                f"and {num_groups}"
            )
        self.num_groups = num_groups
        self.num_channels = num_channels
        self.affine = affine

    def forward(self, x: Array) -> tuple[Array, Any]:
        """Return the normalised x."""
        assert self.eps is not None
        weight, bias = self._parameters()
        out = self._pool.take(x.shape, x.dtype)
        return F.group_norm(x, self.num_groups, weight, bias, eps=self.eps, out=out)

    def backward(self, dy: Array, saved: Any, need_dx: bool = True) -> Array | None:
        """Write the gradients of weight and bias; return dx."""
        return self._backward(F.group_norm_backward, dy, saved, need_dx)

    def onnx(self, build: Builder, flow: Flow) -> Flow:
        """Add GroupNormalization from opset 21 on; before it InstanceNormalization of groups."""
        weight, bias = self._parameters()
        epsilon, groups = float(self.eps or 0.0), self.num_groups
        if build.opset >= 21 and len(flow.shape) > 1:
            inputs = [flow.value, *self._filled(build)]
            node = build.node("GroupNormalization", inputs, num_groups=groups, epsilon=epsilon)
            return flow.to(node)
        shape = build.weight("groups", [0, groups, -1], np.int64)
        value = build.node("Reshape", [flow.value, shape], "grouped")
        units = [build.weight("ones", np.ones(groups)), build.weight("zeros", np.zeros(groups))]
        value = build.node("InstanceNormalization", [value, *units], "normalized", epsilon=epsilon)
        shape = build.weight("shape", [0, flow.shape[-1], *flow.shape[:-1]], np.int64)
        value = build.node("Reshape", [value, shape], "ungrouped")
        along = (-1, *(1,) * (len(flow.shape) - 1))
        if weight is not None:
            value = build.node(
                "Mul", [value, build.weight("weight", weight.reshape(along))], "scale"
            )
        if bias is not None:
            stored = build.weight("bias", bias.reshape(along))
            value = build.node("Add", [value, stored], "shift")
        return flow.to(value)

    def _filled(self, build: Builder) -> list[Any]:
        """Weight and bias, ones and zeros where there are none."""
        weight, bias = self._parameters()
        return [
            build.weight("weight", np.ones(self.num_channels) if weight is None else weight),
            build.weight("bias", np.zeros(self.num_channels) if bias is None else bias),
        ]

    def output_shape(self, input_shape: Shape) -> Shape:
        """Return the input's shape."""
        if not input_shape or input_shape[-1] != self.num_channels:
            raise ValueError(
                f"{self.where}: expected input of shape (N, ..., {self.num_channels}), "
                f"got {state.batch_of(input_shape)}; channels are the last axis here"
            )
        values = int(np.prod(input_shape)) // self.num_groups
        if values < 2:
            raise ValueError(
                f"{self.where}: Expected more than 1 value per group, "
                f"got input of shape {state.batch_of(input_shape)}"
            )
        return input_shape

    def extra_repr(self) -> str:
        """Return the arguments."""
        return f"{self.num_groups}, {self.num_channels}, eps={self.eps}"


class InstanceNorm(GroupNorm):
    """Normalise every channel of every sample by itself.

    Ulyanov, Vedaldi & Lempitsky, "Instance Normalization" (2016).

    Parameters
    ----------
    num_features : int
        Size of the last axis, the channels.
    eps : float, default 1e-5
        Added to the variance.
    affine : bool, default False
        Whether there are weight and bias.
    track_running_stats : bool, default False
        Not supported: a sample's own statistics are the point.
    dtype : data-type, default float32
        float32 or float64.

    Attributes
    ----------
    weight, bias : Parameter or None, shape (num_features,)

    Examples
    --------
    >>> layer = InstanceNorm(1)
    >>> layer(np.array([[[1], [3]], [[10], [30]]], dtype=np.float32)).round(3)[:, :, 0]
    array([[-1.,  1.],
           [-1.,  1.]], dtype=float32)
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        affine: bool = False,
        track_running_stats: bool = False,
        *,
        dtype: DTypeLike = np.float32,
    ) -> None:
        if track_running_stats:
            raise ValueError(
                "InstanceNorm: track_running_stats=True is not supported; use BatchNorm for "
                "statistics of the data"
            )
        super().__init__(num_features, num_features, eps, affine, dtype=dtype)
        self.num_features = num_features

    def onnx(self, build: Builder, flow: Flow) -> Flow:
        """Add InstanceNormalization."""
        inputs = [flow.value, *self._filled(build)]
        return flow.to(build.node("InstanceNormalization", inputs, epsilon=float(self.eps or 0.0)))

    def extra_repr(self) -> str:
        """Return the arguments."""
        return f"{self.num_features}, eps={self.eps}"
