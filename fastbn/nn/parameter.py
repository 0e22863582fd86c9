"""A parameter: values that an optimizer moves, and their gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from fastbn.nn.arena import aligned_empty

Array = NDArray[Any]


class Parameter:
    """Values and gradient of one parameter, in PyTorch's shape.

    The memory behind them may have another order: ``Linear`` shows a weight of shape (out, in)
    and stores it as (in, out), which is how the matrix product reads it. Both `data` and `grad`
    stay where they are for good, so that an optimizer needs to look them up only once:
    assignments copy.

    Parameters
    ----------
    data : array_like
        Initial values; they are copied.
    order : tuple of int, optional
        The axes of `data` from the slowest to the fastest in memory. Default: C order.
    dtype : data-type, optional
        Element type, default that of `data`.

    Attributes
    ----------
    grad_memory : ndarray
        Where a backward writes the gradient, before it says so by ``grad = grad_memory``.
    grad_out : ndarray or None
        The same where the parameter is trained, else None: there is no gradient to write.

    Examples
    --------
    >>> import numpy as np
    >>> weight = Parameter([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], order=(1, 0))
    >>> weight.shape, weight.storage
    ((2, 3), array([1., 4., 2., 5., 3., 6.]))
    >>> weight.data = np.zeros((2, 3))
    >>> weight.storage
    array([0., 0., 0., 0., 0., 0.])
    """

    __slots__ = (
        "__weakref__",
        "_data",
        "_grad",
        "_order",
        "_requires_grad",
        "_storage",
        "_sum",
        "_sum_memory",
        "_written",
        "grad_memory",
        "grad_out",
    )

    def __init__(
        self,
        data: ArrayLike,
        *,
        order: tuple[int, ...] | None = None,
        dtype: DTypeLike | None = None,
    ) -> None:
        values = np.asarray(data, dtype=dtype)
        if not np.issubdtype(values.dtype, np.floating):
            raise TypeError(f"Parameter: expected floating point data, got {values.dtype}")
        self._order = tuple(range(values.ndim)) if order is None else order
        if sorted(self._order) != list(range(values.ndim)):
            raise ValueError(f"Parameter: order {order} does not name the axes of {values.shape}")
        self._requires_grad = True
        self._written: Callable[[Parameter], None] | None = None
        self._place(values, values.dtype)

    def _place(self, values: Array, dtype: np.dtype[Any]) -> None:
        self._data, self._storage = self._new(values.shape, dtype)
        self._data[...] = values
        self._grad: Array | None = None
        self.grad_memory, _ = self._new(values.shape, dtype)
        self.grad_out = self.grad_memory if self._requires_grad else None
        self._sum: Array | None = None  # what a backward adds to, while it runs
        self._sum_memory: Array | None = None  # where that backward writes

    def _new(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[Array, Array]:
        """Return an uninitialised array of `shape` stored in `order`, and its flat storage."""
        stored = aligned_empty(tuple(shape[axis] for axis in self._order), dtype)
        shown = tuple(self._order.index(axis) for axis in range(len(shape)))
        return stored.transpose(shown), stored.reshape(-1)

    @property
    def data(self) -> Array:
        """The values, in PyTorch's shape; assigning copies into them."""
        return self._data

    @data.setter
    def data(self, values: ArrayLike) -> None:
        self._data[...] = self._matching(values, "data")

    @property
    def grad(self) -> Array | None:
        """The gradient the last backward left, in PyTorch's shape; None before the first one.

        Assigning copies into it; assigning None makes optimizers pass this parameter over until
        the next backward. One that is not trained takes no gradient.
        """
        return self._grad

    @grad.setter
    def grad(self, values: ArrayLike | None) -> None:
        if values is not self.grad_out:
            if values is None or self.grad_out is None:
                values = None
            else:
                self.grad_out[...] = self._matching(values, "grad")
                values = self.grad_out
        self._grad = values
        if self._written is not None and values is not None and self._sum is None:
            self._written(self)

    def _matching(self, values: ArrayLike, what: str) -> Array:
        array = np.asarray(values)
        if array.shape != self._data.shape:
            raise ValueError(
                f"Parameter: expected {what} of shape {self._data.shape}, got {array.shape}"
            )
        return array

    @property
    def requires_grad(self) -> bool:
        """Whether this parameter is trained.

        False forgets its gradient, and no backward gives it one: optimizers pass it over.
        """
        return self._requires_grad

    @requires_grad.setter
    def requires_grad(self, trained: bool) -> None:
        self._requires_grad = bool(trained)
        self.grad_out = self.grad_memory if trained else None
        if not trained:
            self._grad = None

    def zero_grad(self) -> None:
        """Set the gradient to zeros."""
        self.grad_memory.fill(0)
        self.grad = self.grad_memory

    def place_grad(self, memory: Array | None, written: Callable[[Parameter], None] | None) -> None:
        """Let backwards write the gradient elsewhere, and say so.

        Parameters
        ----------
        memory : ndarray or None
            Flat, of `size` values, in the order of `storage`; a gradient that is there moves along.
            None leaves it where it is.
        written : callable or None
            Called with this parameter whenever it has got a gradient.
        """
        self._written = written
        if memory is None:
            return
        stored = memory.reshape([self.shape[axis] for axis in self._order])
        shown = stored.transpose([self._order.index(axis) for axis in range(len(self.shape))])
        if self._grad is not None:
            shown[...] = self._grad
            self._grad = shown
        self.grad_memory = shown
        self.grad_out = shown if self._requires_grad else None

    def begin_adding(self) -> bool:
        """Let a backward write elsewhere, if there is a gradient to add to; return whether."""
        if self._grad is None:
            return False
        if self._sum_memory is None:
            self._sum_memory, _ = self._new(self.shape, self.dtype)
        self._sum = self._grad
        self.grad_memory = self.grad_out = self._sum_memory
        self._grad = None
        return True

    def finish_adding(self) -> None:
        """Add what a backward wrote since `begin_adding`, and put the gradient in its place."""
        assert self._sum is not None
        if self._grad is not None:
            np.add(self._sum, self._grad, out=self._sum)
        self.grad_memory = self.grad_out = self._grad = self._sum
        self._sum = None

    def zeros(self) -> Array:
        """Return a new array of zeros with shape, dtype and order in memory of `data`."""
        array, _ = self._new(self._data.shape, self._data.dtype)
        array.fill(0)
        return array

    @property
    def storage(self) -> Array:
        """The values as a flat contiguous array, in the order of memory."""
        return self._storage

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of `data`."""
        return self._data.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Element type of `data` and `grad`."""
        return self._data.dtype

    @property
    def size(self) -> int:
        """Number of values."""
        return self._data.size

    def astype(self, dtype: DTypeLike) -> None:
        """Change the element type in place; the gradient is forgotten."""
        self._place(self._data, np.dtype(dtype))

    def __getstate__(self) -> tuple[Array, tuple[int, ...], Array | None, bool]:
        return self._data, self._order, self._grad, self._requires_grad

    def __setstate__(self, state: tuple[Array, tuple[int, ...], Array | None, bool]) -> None:
        data, self._order, grad, self._requires_grad = state
        self._written = None
        self._place(data, data.dtype)
        self.grad = grad

    def __repr__(self) -> str:
        return f"Parameter(shape={self.shape}, dtype={self.dtype})"
