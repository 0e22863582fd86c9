"""BatchNorm: normalise every channel by the batch's mean and variance."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fastbn import functional as F
from fastbn.functional import masks, variants
from fastbn.functional.moments import Gather
from fastbn.functional.synced import (
    SyncedSaved,
    synced_batch_norm,
    synced_batch_norm_backward,
)
from fastbn.nn import init, state
from fastbn.nn.module import Module, Shape
from fastbn.nn.onnx import Builder, Flow
from fastbn.nn.order import Order, Orders
from fastbn.nn.parameter import Parameter
from fastbn.nn.run import here

Array = NDArray[Any]
Scheduled = float | Callable[[int], float]  # a function of the step


class Across(NamedTuple):
    """Other processes that have rows of the batch; see `fastbn.nn.across`."""

    gather: Gather
    ghost: bool  # whether only the running statistics are shared


class BatchNorm(Module):
    """Return ``weight * (x - mean) / sqrt(var + eps) + bias``, channel by channel.

    Ioffe & Szegedy, "Batch Normalization" (2015), with PyTorch's conventions. In training mean
    and variance are the batch's, and the running ones follow them; in inference they are the
    running ones. A backward is possible in both.

    Parameters
    ----------
    num_features : int
        Channels, the size of the last axis of x, which may have two axes or more.
    eps : float, default 1e-5
        Added to the variance.
    momentum : float, callable or None, default 0.1
        ``running = (1 - momentum) * running + momentum * batch``; None averages all batches. A
        function of the step, such as one of `fastbn.optim.schedules`, gets `num_batches_tracked`,
        the number of batches before, and so continues from a checkpoint where it was.
    affine : bool, default True
        Whether there are weight and bias.
    track_running_stats : bool, default True
        Without running statistics inference uses the batch's, too.
    ghost_size : int, optional
        Normalise parts of this many rows, each by its own statistics (Hoffer, Hubara & Soudry
        2017). A last part of one row joins the one before. The running statistics follow those of
        all rows, once a step.
    renorm : (r_max, d_max), optional
        Batch renormalisation (Ioffe 2017): the difference between batch and running statistics is
        corrected, up to a factor r_max and an offset d_max, numbers or functions of the step.
    dtype : data-type, default float32
        float32 or float64.

    Attributes
    ----------
    weight, bias : Parameter or None, shape (num_features,)
    running_mean, running_var : ndarray or None, shape (num_features,)
        `running_var` follows the unbiased variance.
    num_batches_tracked : ndarray of int64 or None, shape ()
    frozen : bool
        Set by `freeze`.
    across : Across or None
        The other processes, while several train this network.

    Examples
    --------
    >>> import numpy as np
    >>> layer = BatchNorm(2)
    >>> layer(np.array([[1, 10], [3, 30]], dtype=np.float32)).round(3)
    array([[-1., -1.],
           [ 1.,  1.]], dtype=float32)
    >>> layer.running_mean, int(layer.num_batches_tracked)
    (array([0.2, 2. ], dtype=float32), 1)
    """

    flops_per_value = 2  # scale and shift
    saves_output = False
    buffer_names = ("running_mean", "running_var", "num_batches_tracked")
    transient = (*Module.transient, "across")
    across: Across | None = None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: Scheduled | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        ghost_size: int | None = None,
        renorm: tuple[Scheduled, Scheduled] | None = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        super().__init__()
        init.check_sizes(self, num_features=num_features)
        if not eps >= 0.0:
            raise ValueError(f"BatchNorm: eps should not be negative, got {eps}")
        if callable(momentum) and not track_running_stats:
            raise ValueError("BatchNorm: a momentum that is a function needs running statistics")
        self.num_features = num_features
        self.eps = eps
        self.momentum = momentum
        self.affine = affine
        self.track_running_stats = track_running_stats
        self.frozen = False
        if ghost_size is not None:
            init.check_sizes(self, ghost_size=ghost_size)
            if ghost_size < 2:
                raise ValueError("BatchNorm: ghost_size should be at least 2 rows, got 1")
        if renorm is not None and (not track_running_stats or ghost_size is not None):
            raise ValueError(
                "BatchNorm: renorm needs running statistics, and goes without ghost_size"
            )
        if renorm is not None and (not isinstance(renorm, tuple) or len(renorm) != 2):
            raise ValueError(f"BatchNorm: renorm should be (r_max, d_max), got {renorm!r}")
        self.ghost_size = ghost_size
        self.renorm = renorm
        self.weight = Parameter(np.ones(num_features), dtype=dtype) if affine else None
        self.bias = Parameter(np.zeros(num_features), dtype=dtype) if affine else None
        self.running_mean: Array | None = None
        self.running_var: Array | None = None
        self.num_batches_tracked: NDArray[np.int64] | None = None
        if track_running_stats:
            self.running_mean = np.zeros(num_features, dtype=dtype)
            self.running_var = np.ones(num_features, dtype=dtype)
            self.num_batches_tracked = np.array(0, dtype=np.int64)

    @property
    def uses_batch_statistics(self) -> bool:
        """Whether a forward now would normalise by the batch's statistics."""
        return self.running_mean is None or (not self.frozen and self.training)

    @property
    def momentum_now(self) -> float | None:
        """The share of this step's batch in the running statistics; None averages all batches."""
        if not callable(self.momentum):
            return self.momentum
        step = int(self.num_batches_tracked)  # type: ignore[arg-type]
        share = float(self.momentum(step))
        if not 0.0 <= share <= 1.0:
            raise ValueError(
                f"{self.where}: momentum should be between 0 and 1, got {share} for step {step}"
            )
        return share

    @property
    def is_synced(self) -> bool:
        """Whether a forward now would share statistics with other processes."""
        shares = self.across is not None and self.ghost_size is None and self.training
        return shares and self.uses_batch_statistics

    def freeze(self, frozen: bool = True) -> Self:
        """Use the running statistics in training, too, and leave them as they are.

        Weight and bias are trained as before. Unlike `eval`, it outlasts ``net.train()``.

        Raises
        ------
        ValueError
            If there are no running statistics.
        """
        if frozen and self.running_mean is None:
            raise ValueError(f"{self.where}: freeze() needs running statistics")
        self.frozen = frozen
        self.invalidate_upwards()
        return self

    def forward(self, x: Array) -> tuple[Array, Any]:
        """Return the normalised x."""
        batch = self.uses_batch_statistics
        if self.is_synced:
            return self.synced(x, out=self._pool.take(x.shape, x.dtype))
        if batch and not self.is_plain:
            if here.run.mask is not None:
                self.check_mask(here.run.mask, x.shape)
            return self._forward_variant(x)
        return F.batch_norm(
            x,
            None if self.weight is None else self.weight.data,
            None if self.bias is None else self.bias.data,
            self.running_mean,
            self.running_var,
            training=batch,
            momentum=self.momentum_now if batch else None,
            eps=self.eps,
            num_batches_tracked=self.num_batches_tracked if batch else None,
            mask=None if here.run.mask is None else self.checked_mask(x),
            out=self._pool.take(x.shape, x.dtype),
        )

    def synced(self, x: Array, **options: Any) -> tuple[Array, SyncedSaved]:
        """Normalise by statistics that other processes share; options as of the operation."""
        assert self.across is not None
        return synced_batch_norm(
            x,
            None if self.weight is None else self.weight.data,
            None if self.bias is None else self.bias.data,
            self.running_mean,
            self.running_var,
            gather=self.across.gather,
            ghost=self.across.ghost,
            momentum=self.momentum_now,
            eps=self.eps,
            num_batches_tracked=self.num_batches_tracked,
            renorm=None if self.renorm is None else self._limits(),
            mask=None if here.run.mask is None else self.checked_mask(x),
            **options,
        )

    def checked_mask(self, x: Array) -> NDArray[np.bool_]:
        """Return the mask of this call; ValueError if its positions are not those of x."""
        return self.check_mask(here.run.mask, x.shape)

    def check_mask(self, mask: Any, shape: tuple[int, ...]) -> NDArray[np.bool_]:
        """Return a mask; ValueError if its positions are others, or no mask may be given here."""
        if self.uses_batch_statistics and not (self.is_plain or self.is_synced):
            raise ValueError(f"{self.where}: a mask goes with no ghost_size and no renorm")
        try:
            return masks.checked_mask(mask, shape, -1)
        except ValueError as error:
            raise ValueError(f"{self.where}: {error}") from None

    @property
    def is_plain(self) -> bool:
        """Whether a batch is normalised as a whole, by its own statistics."""
        return self.ghost_size is None and self.renorm is None

    def _forward_variant(self, x: Array) -> tuple[Array, Any]:
        """Normalise by parts, or renormalise."""
        weight = None if self.weight is None else self.weight.data
        bias = None if self.bias is None else self.bias.data
        common: dict[str, Any] = {
            "momentum": self.momentum_now,
            "eps": self.eps,
            "num_batches_tracked": self.num_batches_tracked,
            "out": self._pool.take(x.shape, x.dtype),
        }
        mean, var = self.running_mean, self.running_var
        if self.renorm is None:
            assert self.ghost_size is not None
            gather = None if self.across is None or not self.training else self.across.gather
            return variants.ghost_batch_norm(
                x, weight, bias, mean, var, size=self.ghost_size, gather=gather, **common
            )
        assert mean is not None
        assert var is not None
        r_max, d_max = self._limits()
        return variants.batch_renorm(x, weight, bias, mean, var, r_max=r_max, d_max=d_max, **common)

    def _limits(self) -> tuple[float, float]:
        """Return r_max and d_max of this step."""
        assert self.renorm is not None
        step = int(self.num_batches_tracked)  # type: ignore[arg-type]
        r_max, d_max = (float(v(step) if callable(v) else v) for v in self.renorm)
        if not (r_max >= 1.0 and d_max >= 0.0):
            raise ValueError(
                f"{self.where}: renorm should have r_max >= 1 and d_max >= 0, got {r_max}, {d_max}"
            )
        return r_max, d_max

    def backward(self, dy: Array, saved: Any, need_dx: bool = True) -> Array | None:
        """Write the gradients of weight and bias; return dx."""
        if isinstance(saved, variants.Renormalised | list):
            return self._backward_variant(dy, saved, need_dx)
        weight, bias = self.weight, self.bias
        dweight = None if weight is None else weight.grad_out
        dbias = None if bias is None else bias.grad_out
        dx: Array | None
        backward: Any = F.batch_norm_backward
        if isinstance(saved, SyncedSaved):
            backward = synced_batch_norm_backward
        dx, dweight, dbias = backward(
            dy,
            saved,
            need_dx=need_dx,
            need_dweight=dweight is not None,
            need_dbias=dbias is not None,
            out=self._pool.take(dy.shape, dy.dtype) if need_dx else None,
            dweight=dweight,
            dbias=dbias,
        )
        if weight is not None and bias is not None:
            weight.grad, bias.grad = dweight, dbias
        return dx

    def _backward_variant(self, dy: Array, saved: Any, need_dx: bool) -> Array | None:
        weight, bias = self.weight, self.bias
        out = self._pool.take(dy.shape, dy.dtype) if need_dx else None
        if isinstance(saved, list):
            dx, dweight, dbias = variants.ghost_batch_norm_backward(dy, saved, out)
        else:
            dx, dweight, dbias = variants.batch_renorm_backward(dy, saved, out)
        if weight is not None and bias is not None:
            weight.grad = dweight if weight.grad_out is not None else None
            bias.grad = dbias if bias.grad_out is not None else None
        return dx

    def output_shape(self, input_shape: Shape) -> Shape:
        """Return the input's shape."""
        if not input_shape or input_shape[-1] != self.num_features:
            raise ValueError(
                f"{self.where}: expected input of shape (N, ..., {self.num_features}), "
                f"got {state.batch_of(input_shape)}; channels are the last axis here"
            )
        return input_shape

    def check_batch(self, shape: Shape) -> None:
        """Raise ValueError where the batch has no variance: fewer than two values per channel."""
        if self.is_synced and self.across is not None and not self.across.ghost:
            return  # the others have more rows; it is looked at when their number is known
        parts = variants.parts_of(shape[0], self.ghost_size or max(1, shape[0]))
        smallest = min((part.stop - part.start for part in parts), default=0)
        if self.uses_batch_statistics and smallest * int(np.prod(shape[1:-1])) < 2:
            raise ValueError(
                f"{self.where}: Expected more than 1 value per channel when training, "
                f"got input size {shape}"
            )

    def follow_order(self, found: Orders, *orders: Order) -> Order:
        """Permute everything: each feature has its own numbers."""
        (order,) = orders
        arrays = [parameter.data for _, parameter in self.own_parameters()]
        for array in [*arrays, *(buffer for _, buffer in self.own_buffers() if buffer.ndim)]:
            found.permute(array, 0, order)
        return order

    def onnx(self, build: Builder, flow: Flow) -> Flow:
        """Add BatchNormalization with the running statistics.

        ONNX's momentum is 1 − PyTorch's; it plays no part in inference.
        """
        if self.running_mean is None or self.running_var is None:
            raise ValueError(
                f"{self.where} normalises with the batch's own statistics "
                "(track_running_stats=False); such a network has no fixed function to export"
            )
        channels = self.num_features
        parameters = {
            "weight": np.ones(channels) if self.weight is None else self.weight.data,
            "bias": np.zeros(channels) if self.bias is None else self.bias.data,
            "running_mean": self.running_mean,
            "running_var": self.running_var,
        }
        inputs = [build.weight(name, values) for name, values in parameters.items()]
        unknown = self.momentum is None or callable(self.momentum)
        momentum = 0.9 if unknown else 1.0 - self.momentum  # type: ignore[operator]
        return flow.to(
            build.node(
                "BatchNormalization",
                [flow.value, *inputs],
                epsilon=float(self.eps),
                momentum=float(momentum),
            )
        )

    def extra_repr(self) -> str:
        """Return the arguments, as far as they are not the defaults."""
        text = f"{self.num_features}"
        if self.eps != 1e-5:
            text += f", eps={self.eps}"
        if self.momentum != 0.1:
            text += f", momentum={self.momentum}"
        if not self.affine:
            text += ", affine=False"
        if not self.track_running_stats:
            text += ", track_running_stats=False"
        if self.ghost_size is not None:
            text += f", ghost_size={self.ghost_size}"
        if self.renorm is not None:
            text += f", renorm={self.renorm}"
        return text + (", frozen" if self.frozen else "")
