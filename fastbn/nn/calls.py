"""Calls of a module and their backwards: checks first, then what is saved and when it goes.

``net(x)`` checks the input, runs `forward`, and in training mode keeps what that has saved until
``net.backward(dy)`` takes it. Layers inside keep nothing: what they save is a part of what their
container saves, and goes, layer by layer, as the backward comes back to them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import wraps
from threading import get_ident
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
from numpy import ndarray
from numpy.typing import NDArray

from fastbn.nn.run import here
from fastbn.nn.symbol import Symbol, drawn
from fastbn.nn.tree import Node

if TYPE_CHECKING:
    from fastbn.nn.module import Module

Array = NDArray[Any]
Shape = tuple[int, ...]
Key = tuple[tuple[Shape, np.dtype[Any]], ...]  # shape and dtype of every input

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))
PENDING: Any = object()  # stands for what the last call has saved

# What a call in training mode leaves for its backward: what forward saved, shape and dtype of the
# outputs, the number of inputs, the thread.
Pending = tuple[Any, Key, int, int]


def as_called(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Let ``backward(dy, saved, need_dx)`` be called as ``backward(dy)``, too, after a call.

    Done to every layer's by itself; as a decorator it also tells type checkers.
    """
    if hasattr(backward, "plain"):
        return backward

    @wraps(backward)
    def of_last_call(
        self: Called,
        dy: Any,
        saved: Any = PENDING,
        need_dx: Any = None,
        *,
        accumulate: bool = False,
    ) -> Any:
        if saved is PENDING:
            return self._backward_of_last_call(backward, dy, need_dx, accumulate)
        if type(saved) is bool and self._pending is not None:  # backward(dy, need_dx)
            return self._backward_of_last_call(backward, dy, saved, accumulate)
        return backward(self, dy, saved, True if need_dx is None else need_dx)

    of_last_call.plain = backward  # type: ignore[attr-defined]
    return of_last_call


def any_signature(method: Callable[..., Any]) -> Callable[..., Any]:
    """Tell type checkers that subclasses take one input or several, as they like."""
    return method


def plain_backward(layer: Called) -> Callable[..., Any]:
    """Return ``layer.backward`` as its class has it: ``(dy, saved, need_dx)``."""
    backward: Any = type(layer).backward
    bound: Callable[..., Any] = backward.plain.__get__(layer)
    return bound


class Called(Node):
    """A node that is called: what `fastbn.nn.Module` has of calls and backwards."""

    transient = (*Node.transient, "_below", "_checked", "_pending", "_training_lock")

    # Whether what forward saves may be its output itself. Callers get a copy then, so that they may
    # write into theirs.
    saves_output: bool = True

    # Whether a backward gives dx by itself only inside another module; layers always do.
    is_container: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        self.input_shape: Any = None
        self._training = True
        self._pending: Pending | None = None
        self._training_lock = threading.Lock()
        self._checked: list[Key | None] = [None, None]  # inputs that passed, in training and not
        self._below: list[Module] = []  # all children and theirs, since that check

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "backward" in vars(cls):
            cls.backward = as_called(vars(cls)["backward"])  # type: ignore[method-assign]

    # --- forward ----------------------------------------------------------------------------

    def _check_mask(self, mask: Any, inputs: tuple[Any, ...]) -> None:
        """Let every BatchNorm check a mask before one of them changes its running statistics."""
        try:
            traced = list(cast("Module", self).trace(*(x.shape[1:] for x in inputs)))
        except NotImplementedError:  # a layer without output_shape: they check when it runs
            return
        for layer, shape, _ in traced:
            if (check := getattr(layer, "check_mask", None)) is not None:
                check(mask, (len(inputs[0]), *shape))

    def __call__(self, *inputs: Any, mask: Any = None) -> Any:
        """Return the output of `forward` after checks; see `fastbn.nn.Module`.

        Parameters
        ----------
        *inputs : ndarray
            Mostly one: ``(N, ...)``, channels-last, of the parameters' dtype. Called on symbolic
            values, a layer returns another one; see `fastbn.nn.Graph`.
        mask : ndarray of bool, optional
            Which positions count, of the shape of x without channels: BatchNorms take their
            statistics of those alone, and give 0 elsewhere. All have to see these positions.

        Returns
        -------
        ndarray
            Output ``(N, ...)``. It never changes as long as somebody keeps it.

        Raises
        ------
        ValueError
            If a layer cannot take the shape that reaches it; the message names the layer.
        TypeError
            If an input is not an array of the parameters' dtype.
        RuntimeError
            In training mode, if the backward of an earlier call is pending, or another thread is
            in such a call.
        """
        for x in inputs:
            if type(x) is not ndarray:
                if isinstance(x, Symbol):
                    return drawn(cast("Module", self), inputs)
                inputs = tuple(self._array(x) for x in inputs)
                break
        run = here.run
        if run.evaluated and not run.inference and self in run.evaluated:
            with run.inferring():
                return self(*inputs, mask=mask)
        if mask is not None:
            self._check_mask(mask, inputs)
            run.mask = mask
            try:
                return self(*inputs)
            finally:
                run.mask = None
        key: Key
        key = ((x.shape, x.dtype),) if len(inputs) == 1 else tuple(map(shape_and_dtype, inputs))
        checked = self._checked[run.inference]
        if checked != key:
            checked = self._check(key)
        nested = run.saving
        if nested is None:
            self._pool.start(checked)
            saving = self._training and not run.inference
        else:
            saving = nested
        if saving:
            self._begin_training()
        run.saving = saving
        try:
            pair = self.forward(*inputs)
            if type(pair) is not tuple or len(pair) != 2:
                raise self.no_pair_error(pair)
            y, saved = pair
            if saving:
                outputs: Key = (
                    ((y.shape, y.dtype),)
                    if type(y) is not tuple
                    else tuple(map(shape_and_dtype, y))
                )
                self._pending = saved, outputs, len(inputs), get_ident()
        except BaseException:
            if saving:
                self.discard()
            raise
        finally:
            run.saving = nested
            if saving:
                self._training_lock.release()
        return self._copied(y) if saving and self.saves_output else y

    def _begin_training(self) -> None:
        """Refuse a forward whose backward could not be told from another one's."""
        if not self._training_lock.acquire(False):
            raise self.threads_error()
        if self._pending is None:
            for module in self._below:
                if module._pending is not None:
                    break
            else:
                return
            error = module.pending_error()
        else:
            error = self.pending_error()
        self._training_lock.release()
        raise error

    def _copied(self, y: Any) -> Any:
        if type(y) is tuple:
            return tuple([self._copied(each) for each in y])
        copy = self._pool.take(y.shape, y.dtype)
        np.copyto(copy, y)
        return copy

    @any_signature
    def forward(self, *inputs: Any) -> tuple[Any, Any]:
        """Return the output, and what `backward` will need."""
        raise NotImplementedError(f"{type(self).__name__} does not define forward(x)")

    # --- backward ---------------------------------------------------------------------------

    @as_called
    def backward(self, dy: Any, saved: Any, need_dx: Any = True) -> Any:
        """Write the gradients of the parameters and return that of the input, if needed.

        A layer writes ``backward(dy, saved, need_dx)``; after a call in training mode, it is
        called as ``backward(dy, need_dx=..., accumulate=...)`` and takes what that call has saved.

        Parameters
        ----------
        dy : ndarray
            Gradient of the loss by this module's output.
        saved
            What `forward` returned; by default that of the last call.
        need_dx : bool
            Whether the gradient of the input is wanted; a tuple of bool where there are several
            inputs. A layer returns it by default; an outermost container only when asked, for
            nobody trains the data.
        accumulate : bool, default False
            Whether to add to the gradients that are there instead of replacing them.

        Returns
        -------
        ndarray, None, or a tuple of them

        Raises
        ------
        RuntimeError
            If there was no call in training mode since the last backward.
        ValueError, TypeError
            If `dy` has not the shape or dtype of the output; nothing was changed then.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define backward")

    def _backward_of_last_call(
        self, backward: Callable[..., Any], dy: Any, need_dx: Any, accumulate: bool
    ) -> Any:
        pending = self._pending
        if pending is None:
            raise self.no_forward_error()
        saved, outputs, inputs, _ = pending
        if type(dy) is not ndarray or ((dy.shape, dy.dtype),) != outputs:
            self._check_gradient(dy, outputs)
        if need_dx is None:
            need_dx = not self.is_container or (self._owner is not None and self.owner is not None)
        if inputs != 1 and type(need_dx) is bool:
            need_dx = (need_dx,) * inputs
        self._pending = None
        del pending  # what is saved goes as the backward comes to it
        adding = [p for p in self.parameters() if p.begin_adding()] if accumulate else ()
        try:
            return backward(self, dy, saved, need_dx)
        except BaseException:
            self.discard()
            raise
        finally:
            for parameter in adding:
                parameter.finish_adding()

    def _check_gradient(self, dy: Any, outputs: Key) -> None:
        """Raise unless dy fits the outputs of the call."""
        parts = dy if type(dy) is tuple else (dy,)
        if len(parts) != len(outputs):
            raise ValueError(
                f"{self.where}: expected dy for {len(outputs)} outputs, got {len(parts)}"
            )
        for part, (shape, dtype) in zip(parts, outputs, strict=True):
            if not isinstance(part, np.ndarray):
                raise TypeError(
                    f"{self.where}: expected dy to be a NumPy array, got {type(part).__name__}"
                )
            if part.shape != shape:
                raise ValueError(
                    f"{self.where}: expected dy of the output's shape {shape}, got {part.shape}"
                )
            if part.dtype != dtype:
                raise TypeError(f"{self.where}: expected dy of dtype {dtype}, got {part.dtype}")

    def no_pair_error(self, result: Any) -> TypeError:
        """Return the error of a forward that does not return ``(y, saved)``."""
        return TypeError(
            f"{self.where}: forward should return (y, saved), the second being what backward "
            f"needs, got {type(result).__name__}"
        )

    # --- what is pending --------------------------------------------------------------------

    def discard(self) -> None:
        """Forget what calls have saved, here and in all children: no backward will come."""
        for module in self.modules():
            module._pending = None

    def pending_error(self) -> RuntimeError:
        """Return the error of a call that would overwrite what an earlier one saved."""
        if self._pending is not None and self._pending[3] != get_ident():
            return self.threads_error()
        return RuntimeError(
            f"{self.ends()[0].where}: forward in training mode while a backward is pending; "
            "call backward() first, or discard() to give it up, or eval() for inference"
        )

    def threads_error(self) -> RuntimeError:
        """Return the error of a training step while another thread is in one."""
        return RuntimeError(
            f"{self.where}: another thread is training this network, its backward is pending; "
            "only one thread trains a network at a time (predict() works in all)"
        )

    def no_forward_error(self) -> RuntimeError:
        """Return the error of a backward for which nothing is saved."""
        return RuntimeError(
            f"{self.ends()[1].where}: backward without a forward in training mode; "
            "every backward needs a forward of its own"
        )

    # --- checks, before anything is changed -------------------------------------------------

    def _array(self, x: Any) -> Array:
        if not isinstance(x, np.ndarray):
            raise TypeError(f"{self.where}: expected a NumPy array, got {type(x).__name__}")
        return x.view(np.ndarray)

    def _check(self, key: Key) -> Key:
        """Raise what the call would raise half-way; remember the shapes and dtypes that pass."""
        expected = self.dtype
        if not key:
            raise TypeError(f"{self.where}: expected an input")
        rows = key[0][0][:1]
        for shape, dtype in key:
            if len(shape) < 2:
                raise ValueError(f"{self.where}: expected input of shape (N, ...), got {shape}")
            if shape[:1] != rows:
                raise ValueError(
                    f"{self.where}: expected inputs of one N, got {[each for each, _ in key]}"
                )
            if dtype not in (FLOATS if expected is None else (expected,)):
                raise TypeError(
                    f"{self.where}: expected input of dtype {expected or 'float32 or float64'}, "
                    f"got {dtype}"
                )
        self.adopt_children()
        shapes = [shape[1:] for shape, _ in key]
        try:
            for layer, input_shape, _ in self.trace(*shapes):
                layer.check_batch((*rows, *input_shape))
        except NotImplementedError:
            pass  # after a layer without output_shape the operations check for themselves
        self.input_shape = shapes[0] if len(shapes) == 1 else tuple(shapes)
        _, *self._below = self.modules()  # without itself: a cycle would keep the net alive
        self._checked[here.run.inference] = key
        return key

    def invalidate(self) -> None:
        """Check the input of the next call anew."""
        self._checked = [None, None]

    # --- modes, dtype, shapes ----------------------------------------------------------------

    @property
    def training(self) -> bool:
        """Whether this layer works as in training.

        That is the mode it is in, but False while `predict` runs it, and in `evaluating`.
        """
        run = here.run
        return self._training and not run.inference and self not in run.evaluated

    @training.setter
    def training(self, mode: bool) -> None:
        self._training = mode

    @property
    def dtype(self) -> np.dtype[Any] | None:
        """Element type of the parameters, None where there are none."""
        return next((parameter.dtype for _, parameter in self.named_parameters()), None)

    def ends(self) -> tuple[Called, Called]:
        """Return the layers that a call and a backward come to first."""
        return self, self

    trace: Callable[..., Iterator[Any]]


def shape_and_dtype(x: Array) -> tuple[Shape, np.dtype[Any]]:
    """Return both, by which inputs and outputs are checked."""
    return x.shape, x.dtype
