"""What all layers and containers are: a forward and a backward, modes, and state.

A layer writes ``forward(x, save)`` and ``backward(dy, need_dx)``. Where `save` is true, forward
puts what backward will need into ``self._saved``; backward releases it. Attributes that are
`Parameter` or `Module` objects are found by themselves, arrays that belong to the state are named
in ``buffer_names``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from fastbn.nn import state, table
from fastbn.nn.tree import Node

Array = NDArray[Any]
Shape = tuple[int, ...]

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


class Traced(NamedTuple):
    """A layer and the shapes, without the batch dimension, that it sees."""

    layer: Module
    input_shape: Shape
    output_shape: Shape


class Module(Node):
    """Base class of layers and containers.

    A subclass calls ``super().__init__()`` first, and defines `forward`, `backward` and
    `output_shape`.

    Attributes
    ----------
    training : bool
        Whether a call saves what a backward needs, and BatchNorm uses the batch's statistics; set
        by `train` and `eval`.
    input_shape : tuple of int or None
        Shape of one sample, from the last call or from `build`.
    factory : (str, dict) or None
        Name and arguments of the function in `fastbn.models` that made this network.

    Examples
    --------
    A layer of one's own:

    >>> import numpy as np
    >>> from fastbn.nn import Parameter
    >>> class Scale(Module):
    ...     def __init__(self, factor):
    ...         super().__init__()
    ...         self.factor = Parameter([factor])
    ...
    ...     def forward(self, x, save):
    ...         self.keep(x, save)
    ...         return x * self.factor.data
    ...
    ...     def backward(self, dy, need_dx=True):
    ...         x = self.release()
    ...         self.factor.grad = [(dy * x).sum()]
    ...         return dy * self.factor.data
    ...
    ...     def output_shape(self, input_shape):
    ...         return input_shape
    >>> layer = Scale(3.0)
    >>> layer(np.ones((1, 2)))
    array([[3., 3.]])
    >>> layer.backward(np.array([[1.0, 2.0]])), layer.factor.grad
    (array([[3., 6.]]), array([3.]))
    """

    transient = (*Node.transient, "_checked", "_below", "_saved")

    def __init__(self) -> None:
        super().__init__()
        self.training = True
        self.input_shape: Shape | None = None
        self.factory: tuple[str, dict[str, Any]] | None = None
        self._saved: Any = None
        self._checked: tuple[Shape, np.dtype[Any]] | None = None  # the input that passed last
        self._below: list[Module] = []  # all children and theirs, since that check

    def __setstate__(self, kept: dict[str, Any]) -> None:
        Module.__init__(self)
        super().__setstate__(kept)

    # --- forward and backward ---------------------------------------------------------------

    def __call__(self, x: Array) -> Array:
        """Return ``forward(x, save=self.training)`` after checks.

        Parameters
        ----------
        x : ndarray
            Input ``(N, ...)``, channels-last, of the parameters' dtype.

        Returns
        -------
        ndarray
            Output ``(N, ...)``. It never changes as long as somebody keeps it.

        Raises
        ------
        ValueError
            If a layer cannot take the shape that reaches it; the message names the layer.
        TypeError
            If `x` is not an array of the parameters' dtype.
        RuntimeError
            In training mode, if the backward of an earlier call is pending.
        """
        if type(x) is not np.ndarray:
            x = self._plain(x)
        checked = self._checked
        if checked is None or x.shape != checked[0] or x.dtype != checked[1]:
            checked = self._check(x)
        save = self.training
        if save:
            if self._saved is not None:
                raise self.pending_error()
            for module in self._below:
                if module._saved is not None:
                    raise module.pending_error()
        self._pool.start(checked)
        try:
            return self.forward(x, save)
        except BaseException:
            if save:
                self.discard()
            raise

    def forward(self, x: Array, save: bool) -> Array:
        """Return the output for x, keeping what `backward` needs if `save`."""
        raise NotImplementedError(f"{type(self).__name__} does not define forward(x, save)")

    def backward(self, dy: Array, need_dx: bool = True) -> Array | None:
        """Write the gradients of the parameters and return that of the input, if needed.

        Parameters
        ----------
        dy : ndarray
            Gradient of the loss by this module's output.
        need_dx : bool
            Whether the gradient by the input is wanted. A layer returns it by default; an
            outermost container only when asked, for nobody trains the data.

        Returns
        -------
        ndarray or None

        Raises
        ------
        RuntimeError
            If there was no forward in training mode since the last backward.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define backward(dy, need_dx)")

    def output_shape(self, input_shape: Shape) -> Shape:
        """Return the shape of one sample's output; ValueError if the layer cannot take it."""
        raise NotImplementedError(f"{type(self).__name__} does not define output_shape")

    def keep(self, saved: Any, save: bool) -> None:
        """Keep what backward needs, if `save`; RuntimeError while a backward is pending."""
        if save:
            if self._saved is not None:
                raise self.pending_error()
            self._saved = (saved,)

    def release(self) -> Any:
        """Return what `keep` was given, and forget it; RuntimeError if there is nothing."""
        if self._saved is None:
            raise self.no_forward_error()
        (saved,) = self._saved
        self._saved = None
        return saved

    def discard(self) -> None:
        """Forget what forwards have saved, here and in all children: no backward will come."""
        for module in self.modules():
            module._saved = None

    def pending_error(self) -> RuntimeError:
        """Return the error of a forward that would overwrite what an earlier one saved."""
        return RuntimeError(
            f"{self.where}: forward in training mode while a backward is pending; call backward() "
            "first, or discard() to give it up, or eval() for inference"
        )

    def no_forward_error(self) -> RuntimeError:
        """Return the error of a backward for which nothing is saved."""
        return RuntimeError(
            f"{self.where}: backward without a forward in training mode; "
            "every backward needs a forward of its own"
        )

    # --- checks, before anything is changed -------------------------------------------------

    def _plain(self, x: Any) -> Array:
        if not isinstance(x, np.ndarray):
            raise TypeError(f"{self.where}: expected a NumPy array, got {type(x).__name__}")
        return x.view(np.ndarray)

    def _check(self, x: Array) -> tuple[Shape, np.dtype[Any]]:
        """Raise what the call on x would raise half-way; remember the shape and dtype that pass."""
        if x.ndim < 2:
            raise ValueError(f"{self.where}: expected input of shape (N, ...), got {x.shape}")
        expected = self.dtype
        if x.dtype not in (FLOATS if expected is None else (expected,)):
            raise TypeError(
                f"{self.where}: expected input of dtype {expected or 'float32 or float64'}, "
                f"got {x.dtype}"
            )
        self.adopt_children()
        try:
            for layer, input_shape, _ in self.trace(x.shape[1:]):
                layer.check_batch((x.shape[0], *input_shape))
        except NotImplementedError:
            pass  # behind a layer without output_shape the operations check for themselves
        self.input_shape = x.shape[1:]
        _, *self._below = self.modules()  # without itself: a cycle would keep the net alive
        self._checked = (x.shape, x.dtype)
        return self._checked

    def check_batch(self, shape: Shape) -> None:
        """Raise ValueError if the layer cannot take a batch of this shape, rows included."""

    def trace(self, input_shape: Shape) -> Iterator[Traced]:
        """Yield the layers, in the order they run, with the shapes they see.

        Parameters
        ----------
        input_shape : tuple of int
            Shape of one sample at the input of this module.

        Yields
        ------
        Traced
            ``(layer, input_shape, output_shape)``. A Residual comes behind its layers, for its
            sum; a Sequential computes nothing and is not among them.

        Raises
        ------
        ValueError
            At the first layer that cannot take what reaches it.
        """
        yield Traced(self, input_shape, self.output_shape(input_shape))

    def build(self, input_shape: Shape) -> Self:
        """Check the network for samples of this shape and remember it as `input_shape`.

        Parameters
        ----------
        input_shape : tuple of int
            Shape of one sample, without the batch dimension.

        Returns
        -------
        Module
            This object.
        """
        self.adopt_children()
        self.output_shape(tuple(input_shape))
        self.input_shape = tuple(input_shape)
        return self

    def invalidate(self) -> None:
        """Check the input of the next call anew."""
        self._checked = None

    # --- modes and dtype --------------------------------------------------------------------

    def train(self, mode: bool = True) -> Self:
        """Set training mode, here and in all children, and return this object."""
        for module in self.modules():
            module.training = mode
            module.invalidate()
        self.invalidate_upwards()
        return self

    def eval(self) -> Self:
        """Set inference mode, here and in all children, and return this object."""
        return self.train(False)

    @contextmanager
    def evaluating(self) -> Iterator[Self]:
        """Set inference mode for a ``with`` block; behind it every layer has its own mode back."""
        training = [module for module in self.modules() if module.training]
        if training:
            self.eval()
        try:
            yield self
        finally:
            for module in training:
                module.training = True
                module.invalidate()
            if training:
                self.invalidate_upwards()

    def predict(self, x: Array, batch_size: int = 256) -> Array:
        """Return the outputs for any number of rows, none included, in inference mode.

        Modes, running statistics and a pending backward stay as they are.

        Parameters
        ----------
        x : ndarray
            Input ``(N, ...)``.
        batch_size : int
            Rows to go through the network at a time.

        Returns
        -------
        ndarray
            ``(N, ...)``, the caller's own.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size should be a positive integer, but got {batch_size}")
        if type(x) is not np.ndarray:
            x = self._plain(x)
        with self.evaluating():
            if not len(x):
                return np.empty((0, *self.output_shape(x.shape[1:])), dtype=x.dtype)
            y: Array | None = None
            for first in range(0, len(x), batch_size):
                rows = self(x[first : first + batch_size])
                if y is None:
                    y = np.empty((len(x), *rows.shape[1:]), dtype=rows.dtype)
                y[first : first + batch_size] = rows
            assert y is not None
            return y

    @property
    def dtype(self) -> np.dtype[Any] | None:
        """Element type of the parameters, None where there are none."""
        return next((parameter.dtype for _, parameter in self.named_parameters()), None)

    def astype(self, dtype: DTypeLike) -> Self:
        """Change the dtype of parameters and floating point buffers, and return this object.

        Parameters
        ----------
        dtype : data-type
            float32 or float64.

        Raises
        ------
        TypeError
            For any other dtype.
        RuntimeError
            While a backward is pending.
        """
        dtype = np.dtype(dtype)
        if dtype not in FLOATS:
            raise TypeError(f"{self.where}: expected dtype float32 or float64, got {dtype}")
        for module in self.modules():
            if module._saved is not None:
                raise module.pending_error()
        for module in self.modules():
            for _, parameter in module.own_parameters():
                parameter.astype(dtype)
            for name, buffer in module.own_buffers():
                if buffer.dtype in FLOATS:
                    setattr(module, name, buffer.astype(dtype))
            module.invalidate()
        self.invalidate_upwards()
        return self

    # --- state and description --------------------------------------------------------------

    def state_dict(self, layout: str = "NHWC") -> dict[str, Array]:
        """Return copies of all parameters and buffers by PyTorch's names, in PyTorch's shapes.

        Parameters
        ----------
        layout : {"NHWC", "NCHW"}
            The order in which a Flatten reads an image. "NHWC" is this library's own; "NCHW" is
            PyTorch's: the columns of a Linear behind a Flatten are permuted, which takes the
            shape of the network's input, from an earlier call or from `build`.

        Returns
        -------
        dict of str to ndarray

        Raises
        ------
        ValueError
            If the layout is unknown, or "NCHW" is asked for and the shape of the input is unknown
            or the order of the features cannot be followed through some layer.
        """
        return state.state_dict(self, layout)

    def load_state_dict(
        self, values: Mapping[str, ArrayLike], *, strict: bool = True, layout: str = "NHWC"
    ) -> tuple[list[str], list[str]]:
        """Copy values into parameters and buffers, all of them or none.

        Parameters
        ----------
        values : mapping of str to array_like
            As `state_dict` returns them; PyTorch's tensors will do.
        strict : bool, default True
            False passes over missing and unexpected names. Shapes must agree anyway.
        layout : {"NHWC", "NCHW"}
            Where the values come from; "NCHW" for PyTorch's.

        Returns
        -------
        missing, unexpected : list of str

        Raises
        ------
        ValueError
            Before anything is changed: names every missing and unexpected name and every shape
            that differs.
        TypeError
            If a value is not real numbers.
        """
        return state.load_state_dict(self, values, strict=strict, layout=layout)

    def follow_order(self, order: state.Order, found: state.Reordered) -> state.Order:
        """Say which own state `order` permutes, and return the order of the output's features.

        `order` is None for images and for features in their natural order; see `fastbn.nn.state`.
        """
        if order is None:
            return None
        raise ValueError(
            f"{self.where}: cannot tell how the order of flattened image features goes through "
            f"a {type(self).__name__}; only layout='NHWC' is possible"
        )

    def summary(self, input_shape: Shape | None = None) -> str:
        """Return a table of the layers: output shape, parameters, and what runs fused with what.

        The last column tells how a convolution of a batch of images is computed; see
        :func:`fastbn.functional.conv2d_way`.

        Parameters
        ----------
        input_shape : tuple of int, optional
            Shape of one sample; default that of the last call or of `build`.
        """
        return table.summary(self, input_shape)

    def fused(self) -> dict[Module, str]:
        """Return which layers run inside another one's operation, and what to call that."""
        return {}

    def way(self, input_shape: Shape) -> str:
        """Return how a convolution of images of this shape is computed; "" for other layers."""
        return ""

    def extra_repr(self) -> str:
        """Return the arguments that ``repr`` and `summary` show."""
        return ""

    def __repr__(self) -> str:
        children = [
            f"  ({name}): " + repr(child).replace("\n", "\n  ")
            for name, child in self.named_children()
        ]
        if not children:
            return f"{type(self).__name__}({self.extra_repr()})"
        return "\n".join([f"{type(self).__name__}(", *children, ")"])
