"""What all layers and containers are: a forward and a backward, modes, and state.

A layer writes ``forward(x) -> (y, saved)`` and ``backward(dy, saved, need_dx) -> dx``; `calls` says
who keeps what is saved. Attributes that are `Parameter` or `Module` objects are found by
themselves, arrays that belong to the state are named in ``buffer_names``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from fastbn.nn import state, table
from fastbn.nn.calls import FLOATS, Called, any_signature
from fastbn.nn.onnx import Builder, Flow
from fastbn.nn.order import Order, OrderError, Orders
from fastbn.nn.run import here
from fastbn.nn.state import shapes_of

Array = NDArray[Any]
Shape = tuple[int, ...]


class Traced(NamedTuple):
    """A layer and the shapes, without the batch dimension, that it sees."""

    layer: Module
    input_shape: Any  # a tuple of shapes where there are several inputs
    output_shape: Any


class Module(Called):
    """Base class of layers and containers.

    A subclass calls ``super().__init__()`` first, and defines `forward`, `backward` and
    `output_shape`. It keeps nothing itself: what backward needs, forward returns.

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
    A layer of one's own, which is trained, checked, and exported:

    >>> import numpy as np
    >>> from fastbn import export, nn
    >>> class Scale(nn.Module):
    ...     def __init__(self, factor):
    ...         super().__init__()
    ...         self.factor = nn.Parameter([factor], dtype="float32")
    ...
    ...     def forward(self, x):
    ...         return x * self.factor.data, x
    ...
    ...     def backward(self, dy, saved, need_dx=True):
    ...         self.factor.grad = [(dy * saved).sum()]
    ...         return dy * self.factor.data
    ...
    ...     def output_shape(self, input_shape):
    ...         return input_shape
    ...
    ...     def onnx(self, build, flow):
    ...         factor = build.weight("factor", self.factor.data)
    ...         return flow.to(build.node("Mul", [flow.value, factor]))
    >>> layer = Scale(3.0)
    >>> layer(np.ones((1, 2), "float32"))
    array([[3., 3.]], dtype=float32)
    >>> layer.backward(np.array([[1, 2]], "float32")), layer.factor.grad
    (array([[3., 6.]], dtype=float32), array([3.], dtype=float32))
    >>> nn.check_gradients(layer, (2,)) < 1e-8
    True
    >>> import tempfile
    >>> net = nn.Sequential(nn.Linear(2, 3, rng=0), Scale(2.0)).build((2,))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     report = export.to_onnx(net, folder + "/net.onnx")
    >>> report.argmax_agreement
    1.0
    """

    reorders: ClassVar[bool] = False  # whether images become features here, as in Flatten
    flops_per_value: ClassVar[int | None] = None  # see `own_flops`

    def __init__(self) -> None:
        super().__init__()
        self.factory: tuple[str, dict[str, Any]] | None = None

    def __setstate__(self, kept: dict[str, Any]) -> None:
        Module.__init__(self)
        super().__setstate__(kept)

    # --- shapes -----------------------------------------------------------------------------

    @any_signature
    def output_shape(self, *input_shapes: Shape) -> Any:
        """Return the shape of one sample's output; ValueError if the layer cannot take it."""
        raise NotImplementedError(f"{type(self).__name__} does not define output_shape")

    def check_batch(self, shape: Shape) -> None:
        """Raise ValueError if the layer cannot take a batch of this shape, rows included."""

    def trace(self, *input_shapes: Shape) -> Iterator[Traced]:
        """Yield the layers, in the order they run, with the shapes they see.

        Parameters
        ----------
        *input_shapes : tuple of int
            Shape of one sample at every input of this module.

        Yields
        ------
        Traced
            ``(layer, input_shape, output_shape)``. A Residual comes after its layers, for its
            sum; a Sequential computes nothing and is not among them.

        Raises
        ------
        ValueError
            At the first layer that cannot take what reaches it.
        """
        shapes: Any = input_shapes[0] if len(input_shapes) == 1 else input_shapes
        yield Traced(self, shapes, self.output_shape(*input_shapes))

    @any_signature
    def own_flops(self, *input_shapes: Shape) -> int | None:
        """Return the floating-point operations of a forward of one sample, without those inside.

        In inference mode. A multiplication with the addition after it counts as two, a bias as
        nothing, an activation of any kind as one for every number.

        Returns
        -------
        int or None
            `flops_per_value` for every number of the output, or what a subclass says; None where
            neither is known.
        """
        if self.flops_per_value is None:
            return None
        outputs = shapes_of(self.output_shape(*input_shapes))
        return self.flops_per_value * sum(map(math.prod, outputs))

    def flops(self, input_shape: Any = None) -> int:
        """Return the floating-point operations of a forward of one sample; see `own_flops`.

        Parameters
        ----------
        input_shape : tuple of int, optional
            Shape of one sample, or a tuple of them; default that of the last call or of `build`.

        Raises
        ------
        ValueError
            If the shape is not known, or the network cannot take it.
        """
        return table.flops(self, input_shape)

    def build(self, input_shape: Shape) -> Self:
        """Check the network for samples of this shape and remember it as `input_shape`.

        Parameters
        ----------
        input_shape : tuple of int
            Shape of one sample, without the batch dimension; a tuple of them where there are
            several inputs.

        Returns
        -------
        Module
            This object.
        """
        self.adopt_children()
        self.output_shape(*shapes_of(input_shape))
        self.input_shape = tuple(input_shape)
        return self

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

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Set whether all parameters, here and in all children, are trained; return this object.

        A backward gives no gradient to a parameter that is not, and goes no further than to the
        first layer that is trained. BatchNorm moves its running statistics as before; see
        `BatchNorm.freeze`.
        """
        for parameter in self.parameters():
            parameter.requires_grad = requires_grad
        return self

    @contextmanager
    def evaluating(self) -> Iterator[Self]:
        """Let this network work as in inference mode for a ``with`` block.

        Modes stay as they are, and other threads see nothing of it.
        """
        run = here.run
        before = run.evaluated
        run.evaluated = before | set(self.modules())
        try:
            yield self
        finally:
            run.evaluated = before

    def predict(self, x: Any, batch_size: int = 256) -> Any:
        """Return the outputs for any number of rows, none included, in inference mode.

        Modes, running statistics and a pending backward stay as they are, also for other threads
        that train or predict with this network meanwhile.

        Parameters
        ----------
        x : ndarray
            Input ``(N, ...)``; a tuple of them where there are several.
        batch_size : int
            Rows to go through the network at a time.

        Returns
        -------
        ndarray
            ``(N, ...)``, the caller's own; a tuple of them where there are several outputs.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size should be a positive integer, but got {batch_size}")
        inputs = x if type(x) is tuple else (x,)
        inputs = tuple([x if type(x) is np.ndarray else self._array(x) for x in inputs])
        rows = len(inputs[0]) if inputs else 0
        if any(len(x) != rows for x in inputs):
            shapes = [x.shape for x in inputs]
            raise ValueError(f"{self.where}: expected inputs of one N, got {shapes}")
        with here.run.inferring():
            if not rows:
                shapes = self.output_shape(*(x.shape[1:] for x in inputs))
                several = bool(shapes) and isinstance(shapes[0], tuple)
                empty = [np.empty((0, *s), inputs[0].dtype) for s in shapes_of(shapes)]
                return tuple(empty) if several else empty[0]
            results: list[Array] = []
            for first in range(0, rows, batch_size):
                part = slice(first, first + batch_size)
                found = self(*[x[part] for x in inputs])
                parts = found if type(found) is tuple else (found,)
                if not results:
                    results = [np.empty((rows, *y.shape[1:]), y.dtype) for y in parts]
                for result, y in zip(results, parts, strict=True):
                    result[part] = y
            return tuple(results) if type(found) is tuple else results[0]

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
            if module._pending is not None:
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
            PyTorch's: the columns of a Linear after a Flatten are permuted, which takes the
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

    def follow_order(self, found: Orders, *orders: Order) -> Order:
        """Say which own state the order of the input's features permutes; return the output's.

        See `fastbn.nn.order`. An order is None for images and for features in their natural order.

        Raises
        ------
        OrderError
            If the order cannot be followed through this layer.
        """
        if not any(module.reorders for module in self.modules()) and not any(
            order is not None for order in orders
        ):
            return None
        raise OrderError(
            f"{self.where}: cannot tell how the order of flattened image features goes through "
            f"a {type(self).__name__}; only layout='NHWC' is possible"
        )

    def trace_built(self) -> Iterator[Traced]:
        """Yield what `trace` yields, for the `input_shape` that is known."""
        yield from self.trace(*shapes_of(self.input_shape))

    @any_signature
    def onnx(self, build: Builder, *flows: Flow) -> Any:
        """Add this layer's nodes to an ONNX graph that `fastbn.export.to_onnx` builds.

        Parameters
        ----------
        build : Builder
            Makes nodes and weights; see `fastbn.nn.onnx.Builder`.
        *flows : Flow
            What comes in, mostly one: ``flow.value`` is an ONNX value (N, C, ...), ``flow.shape``
            the shape of one sample as the library has it, (..., C).

        Returns
        -------
        Flow
            What goes out: ``flow.to(value)``, or ``flow.to(value, shape)`` where the shape changes.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define onnx(build, flow)")

    def summary(self, input_shape: Shape | None = None) -> str:
        """Return a table of the layers: shapes, parameters, cost, and what runs fused with what.

        FLOP are those of a forward of one sample (see `own_flops`), the size of an output is that
        of one sample's. The last column tells how a convolution of a batch of images is computed;
        see :func:`fastbn.functional.conv2d_algorithm`.

        Parameters
        ----------
        input_shape : tuple of int, optional
            Shape of one sample; default that of the last call or of `build`.
        """
        return table.summary(self, input_shape)

    def chain(self) -> Iterator[Module]:
        """Yield the layers that run one after another in here: this one, if it is no Sequential."""
        yield self

    def fused(self) -> dict[Module, str]:
        """Return which layers run inside another one's operation, and what to call that."""
        return {}

    def algorithm(self, input_shape: Shape) -> str:
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
