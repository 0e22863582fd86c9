"""Call public operations with random arguments, good and bad, between pages that nobody may touch.

Run by ``test_arguments.py`` in a process of its own, for what it looks for may end the process::

    python tests/fuzz/fuzz_arguments.py --seconds 7200 --seed 1

Every call follows from its number alone; ``--seed N --calls 1`` does that one again. What may
happen: a result, equal to that of ``fastbn.reference`` where all numbers are finite, or a
ValueError, TypeError or MemoryError that has changed no array.
"""

from __future__ import annotations

import argparse
import ctypes
import inspect
import mmap
import resource
import signal
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

import fastbn
from fastbn import functional as F
from fastbn import reference

Rng = np.random.Generator
PAGE = mmap.PAGESIZE
SIDES = (0, 1, 1, 2, 3, 4, 5, 7, 8, 13, 16, 17, 31, 33, 64, 67)
INTEGERS = (0, 1, 1, 2, 3, 5, -1, 1 << 15, 1 << 31, (1 << 62) + 1, (1 << 63) - 1, 1 << 64)
DTYPES = (np.float32, np.float32, np.float64, np.float64, ml_dtypes.bfloat16, np.float16, np.int32)
FLOATS = (0.0, 0.1, 0.5, 1.0, 1e-5, -1.0, 2.0, 1e30, float("nan"), float("inf"), 10**400)
ACTIVATIONS = (None, "relu", "leaky_relu", "gelu", "gelu_tanh", "silu", "mish")
REFUSALS = (ValueError, TypeError, MemoryError)
TOLERANCE = {"float32": 2e-4, "float64": 1e-10}
LARGEST = 1 << 26  # bytes of a result; a larger one was right to make, but shows no more than this
SECONDS = 10.0  # of processor time that a call may take
HANGS = 100  # seconds after which a call will never end, however busy the machine is

libc = ctypes.CDLL(None, use_errno=True)


def protected(nbytes: int, at_end: bool) -> np.ndarray:
    """Return so many bytes, in front of a page that cannot be touched or behind one."""
    size = -(-max(nbytes, 1) // PAGE) * PAGE
    try:
        memory = mmap.mmap(-1, size + PAGE)
    except OSError as error:
        raise MemoryError("an array of this call does not fit") from error
    whole = np.frombuffer(memory, np.uint8)
    guard = whole.ctypes.data + (size if at_end else 0)
    if libc.mprotect(ctypes.c_void_p(guard), ctypes.c_size_t(PAGE), 0):
        raise OSError(ctypes.get_errno(), "mprotect")
    return whole[size - nbytes : size] if at_end else whole[PAGE : PAGE + nbytes]


class Call:
    """The arrays and numbers of one call."""

    def __init__(self, rng: Rng) -> None:
        self.rng = rng
        self.arrays: list[np.ndarray] = []
        self.dtype = DTYPES[rng.integers(len(DTYPES))]
        self.wild = rng.random() < 0.4  # else arguments fit one another
        self.special = rng.random() < 0.1  # values that are not finite, or huge

    def chance(self, p: float) -> bool:
        return bool(self.rng.random() < p)

    def side(self) -> int:
        return int(self.rng.choice(SIDES if self.wild else SIDES[1:]))

    def number(self, *usual: Any) -> Any:
        """An integer; a usual one where arguments fit."""
        if self.wild and self.chance(0.3):
            return int(INTEGERS[self.rng.integers(len(INTEGERS))])
        return usual[self.rng.integers(len(usual))]

    def pair(self, *usual: Any) -> Any:
        return (
            (self.number(*usual), self.number(*usual)) if self.chance(0.3) else self.number(*usual)
        )

    def real(self, *usual: float) -> Any:
        values = FLOATS if self.wild else usual
        return values[self.rng.integers(len(values))]

    def array(self, shape: tuple[int, ...], dtype: Any = None) -> Any:
        """An array of this shape, or, if arguments need not fit, of another one or none at all."""
        if self.wild and self.chance(0.08):
            return [None, 1.0, "x", [1.0, 2.0], np.zeros(3)][self.rng.integers(5)]
        if self.wild and self.chance(0.1) and shape:
            axis = self.rng.integers(len(shape))
            shape = (*shape[:axis], self.side(), *shape[axis + 1 :])
        if self.wild and self.chance(0.04):
            shape = (*shape, 1) if self.chance(0.5) else shape[1:]
        dtype = np.dtype(
            self.dtype if dtype is None or (self.wild and self.chance(0.05)) else dtype
        )
        size = int(np.prod(shape, dtype=np.int64)) if shape else 1
        apart = 2 if self.chance(0.1) and shape else 1  # every second one along the last axis
        off = 1 if self.chance(0.08) else 0  # misaligned
        raw = protected(size * apart * dtype.itemsize + off, self.chance(0.7))[off:]
        a = raw.view(dtype).reshape((*shape[:-1], shape[-1] * apart) if shape else ())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            a[...] = self.rng.standard_normal(a.shape).astype(np.float32).astype(dtype)
            if self.special and size and dtype.kind == "f":
                a.flat[self.rng.integers(a.size)] = self.rng.choice([np.nan, np.inf, 1e30, 1e-30])
        if apart == 2:
            a = a[..., ::2]
        if self.chance(0.08) and a.ndim > 1:
            a = a.swapaxes(0, 1).copy().swapaxes(0, 1)
        if self.chance(0.05):
            a = a[..., ::-1] if a.ndim else a
        if self.chance(0.08):
            a = a[...]
            a.flags.writeable = False
        self.arrays.append(a)
        return a

    def out(self, like: Any) -> Any:
        """Where a result goes: nowhere, a fitting array, or one that shares memory with another."""
        if self.chance(0.5) or not isinstance(like, np.ndarray):
            return None
        others = [a for a in self.arrays if a.dtype == like.dtype and a.size >= like.size]
        if self.chance(0.3) and others and like.size:
            other = others[self.rng.integers(len(others))]
            if other.shape == like.shape:
                return other
            if other.flags.c_contiguous:
                start = int(self.rng.integers(other.size - like.size + 1))
                return other.reshape(-1)[start : start + like.size].reshape(like.shape)
        return self.array(like.shape, like.dtype)


Made = tuple[tuple[Any, ...], dict[str, Any]]


def _batch_norm(c: Call) -> Made:
    rank, axis = int(c.rng.integers(2, 5)), -1 if c.chance(0.5) else 1
    shape = tuple(c.side() for _ in range(rank))
    channels = shape[axis]
    parameters = np.float32 if c.dtype is ml_dtypes.bfloat16 else c.dtype
    vector = lambda: None if c.chance(0.2) else c.array((channels,), parameters)  # noqa: E731
    mean, var = (vector(), vector()) if c.wild else (c.array((channels,), parameters),) * 2
    if isinstance(var, np.ndarray) and not c.wild:
        var = c.array((channels,), parameters)
        if var.flags.writeable:
            np.abs(var, out=var)
    return (c.array(shape), vector(), vector(), mean, var), {
        "training": c.chance(0.6),
        "momentum": c.real(0.1, 1.0),
        "eps": c.real(1e-5, 1e-3),
        "axis": axis if not c.wild else c.number(axis, -1, 1, 2),
        "activation": ACTIVATIONS[c.rng.integers(len(ACTIVATIONS))],
        "residual": c.array(shape) if c.chance(0.3) else None,
    }


def _normalisation(c: Call, shape: tuple[int, ...], size: tuple[int, ...]) -> list[Any]:
    """x, weight and bias, of the dtypes that fit one another."""
    parameters = np.float32 if c.dtype is ml_dtypes.bfloat16 else c.dtype
    return [c.array(shape), c.array(size, parameters), c.array(size, parameters)]


def _layer_norm(c: Call) -> Made:
    size = (c.side(), c.side()) if c.chance(0.3) else (c.side(),)
    shape = (c.side(), *size)
    made = _normalisation(c, shape, size)
    options = {"normalized_shape": size, "eps": c.real(1e-5, 1e-3)}
    options["activation"] = ACTIVATIONS[c.rng.integers(len(ACTIVATIONS))]
    return tuple(made), {**options, "residual": c.array(shape) if c.chance(0.3) else None}


def _rms_norm(c: Call) -> Made:
    args, options = _layer_norm(c)
    return args[:2], options


def _instance_norm(c: Call) -> Made:
    axis = -1 if c.chance(0.5) else 1
    shape = (c.side() % 5, c.side(), c.side() % 12, c.side())
    made = _normalisation(c, shape, (shape[axis],))
    activation = ACTIVATIONS[c.rng.integers(len(ACTIVATIONS))]
    return tuple(made), {"axis": axis, "eps": c.real(1e-5), "activation": activation}


def _group_norm(c: Call) -> Made:
    args, options = _instance_norm(c)
    shape = np.shape(args[0]) if isinstance(args[0], np.ndarray) else (2,)
    channels = shape[options["axis"]] if len(shape) > 1 else 1
    groups = [n for n in range(1, channels + 1) if channels % n == 0] or [1]
    return (args[0], c.number(*groups), *args[1:]), options


def _scale_shift(c: Call) -> Made:
    shape = (c.side(), c.side(), c.side())
    parameters = np.float32 if c.dtype is ml_dtypes.bfloat16 else c.dtype
    vector = (shape[-1],)
    return (c.array(shape), c.array(vector, parameters), c.array(vector, parameters)), {}


def _linear(c: Call) -> Made:
    inside, outside = c.side(), c.side()
    lead = tuple(c.side() for _ in range(c.rng.integers(1, 3)))
    return (c.array((*lead, inside)), c.array((outside, inside)), c.array((outside,))), {}


def _window(c: Call) -> dict[str, Any]:
    return {"stride": c.pair(1, 1, 2, 3), "dilation": c.pair(1, 1, 2), "padding": c.pair(0, 1, 2)}


def _conv2d(c: Call) -> Made:
    groups, width, per = (int(n) for n in c.rng.choice([1, 1, 2, 3, 4], 3))
    k = int(c.rng.choice([1, 2, 3, 3, 5]))
    x = c.array((int(c.rng.integers(0, 4)), c.side() % 20, c.side() % 20, groups * width))
    weight = c.array((groups * per, width, k, k if c.chance(0.8) else 1))
    options = {**_window(c), "groups": c.number(groups), "moments": c.chance(0.3)}
    return (x, weight, c.array((groups * per,)) if c.chance(0.5) else None), options


def _winograd(c: Call) -> Made:
    a, b = (int(n) for n in c.rng.choice([16, 17, 24, 33], 2))
    x = c.array((int(c.rng.integers(1, 5)), c.side() % 24, c.side() % 24, a))
    return (x, c.array((b, a, 3, 3))), {"padding": c.pair(0, 1, 2)}


def _conv_transpose2d(c: Call) -> Made:
    groups, width, per = (int(n) for n in c.rng.choice([1, 1, 2, 3], 3))
    k = int(c.rng.choice([1, 2, 3, 4]))
    x = c.array((int(c.rng.integers(0, 3)), c.side() % 12, c.side() % 12, groups * width))
    weight = c.array((groups * width, per, k, k))
    options = {**_window(c), "groups": c.number(groups), "output_padding": c.pair(0, 0, 1)}
    return (x, weight, c.array((groups * per,)) if c.chance(0.5) else None), options


def _max_pool2d(c: Call) -> Made:
    x = c.array((int(c.rng.integers(0, 3)), c.side() % 20, c.side() % 20, c.side()))
    return (x, c.pair(1, 2, 3)), {**_window(c), "ceil_mode": c.chance(0.3)}


def _avg_pool2d(c: Call) -> Made:
    args, options = _max_pool2d(c)
    del options["dilation"]
    return args, {**options, "count_include_pad": c.chance(0.5)}


def _image(c: Call) -> Made:
    return (c.array((c.side() % 4, c.side() % 9, c.side() % 9, c.side())),), {}


def _any(c: Call) -> Made:
    return (c.array(tuple(c.side() for _ in range(c.rng.integers(0, 4)))),), {}


def _leaky_relu(c: Call) -> Made:
    return _any(c)[0], {"negative_slope": c.real(0.01, 0.5)}


def _prelu(c: Call) -> Made:
    x = _any(c)[0][0]
    channels = x.shape[-1] if isinstance(x, np.ndarray) and x.ndim else 1
    return (x, c.array((1 if c.chance(0.3) else channels,))), {}


def _local_response_norm(c: Call) -> Made:
    constants = {"alpha": c.real(1e-4, 1.0), "beta": c.real(0.75, 0.5), "k": c.real(1.0, 2.0)}
    return (*_any(c)[0], c.number(1, 2, 5, 9)), constants


def _dropout(c: Call) -> Made:
    rng = np.random.default_rng(int(c.rng.integers(100)))
    return (*_any(c)[0], c.real(0.1, 0.5)), {"training": c.chance(0.8), "rng": rng}


def _add(c: Call) -> Made:
    shape = tuple(c.side() for _ in range(2))
    return tuple(c.array(shape) for _ in range(c.rng.integers(1, 7))), {}


def _concat(c: Call) -> Made:
    rows = c.side()
    return tuple(c.array((rows, c.side())) for _ in range(c.rng.integers(1, 5))), {}


def _cross_entropy(c: Call) -> Made:
    rows, classes = c.side(), c.side()
    labels = c.rng.integers(-1 if c.wild else 0, max(1, classes), rows)
    return (c.array((rows, classes)), labels), {}


def _pair(c: Call) -> Made:
    shape = (c.side(), c.side())
    return (c.array(shape), c.array(shape)), {}


OPERATIONS: dict[str, list[Callable[[Call], Made]]] = {
    "batch_norm": [_batch_norm],
    "layer_norm": [_layer_norm],
    "rms_norm": [_rms_norm],
    "group_norm": [_group_norm],
    "instance_norm": [_instance_norm],
    "batch_moments": [_image],
    "scale_shift": [_scale_shift],
    "linear": [_linear],
    "conv2d": [_conv2d, _winograd],
    "conv_transpose2d": [_conv_transpose2d],
    "max_pool2d": [_max_pool2d],
    "avg_pool2d": [_avg_pool2d],
    "global_avg_pool2d": [_image],
    "relu": [_any],
    "leaky_relu": [_leaky_relu],
    "sigmoid": [_any],
    "tanh": [_any],
    "softmax": [_any],
    "elu": [_any],
    "gelu": [_any],
    "hardsigmoid": [_any],
    "hardswish": [_any],
    "mish": [_any],
    "local_response_norm": [_local_response_norm],
    "prelu": [_prelu],
    "relu6": [_any],
    "selu": [_any],
    "silu": [_any],
    "softplus": [_any],
    "flatten": [_image],
    "add": [_add],
    "concat": [_concat],
    "dropout": [_dropout],
    "cross_entropy": [_cross_entropy],
    "mse_loss": [_pair],
    "l1_loss": [_pair],
    "huber_loss": [_pair],
    "binary_cross_entropy_with_logits": [_pair],
}


def guarded(call: Call, f: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Call f; None where it refused, if that changed nothing."""
    before = [a.tobytes() for a in call.arrays]
    try:
        return f(*args, **options)
    except REFUSALS:
        for a, b in zip(call.arrays, before, strict=True):
            assert a.tobytes() == b, "a refused call has changed an array"
        return None


def finite(values: Any) -> bool:
    return all(np.isfinite(np.asarray(v, np.float64)).all() for v in values)


def compare(name: str, args: tuple[Any, ...], options: dict[str, Any], y: Any) -> None:
    """Hold y against the reference, where numbers are ordinary."""
    arrays = [a for a in (*args, *options.values()) if isinstance(a, np.ndarray)]
    dtypes = {a.dtype.name for a in arrays if a.dtype.kind == "f"}
    if not isinstance(y, np.ndarray) or dtypes != {y.dtype.name} or not dtypes <= set(TOLERANCE):
        return
    if not finite(a for a in arrays if a.dtype.kind == "f") or not 0 < y.size < 1 << 16:
        return
    if max(float(np.abs(a).max(initial=0.0)) for a in arrays) > 1e4:
        return
    known = inspect.signature(getattr(reference, name)).parameters
    options = {k: v for k, v in options.items() if k in known}
    with np.errstate(all="ignore"):
        found = getattr(reference, name)(*args, **options)
    wanted = np.asarray(found if name == "add" else found[0], np.float64)
    scale = np.abs(wanted[np.isfinite(wanted)]).max(initial=1e-30)
    wrong = np.abs(np.nan_to_num(y.astype(np.float64) - wanted)).max()
    assert wrong <= TOLERANCE[dtypes.pop()] * max(scale, 1.0), f"y is off by {wrong} of {scale}"


def run(seed: int) -> str:
    """Do call number `seed`; return what it was."""
    rng = np.random.default_rng(seed)
    call = Call(rng)
    name = sorted(OPERATIONS)[rng.integers(len(OPERATIONS))]
    make = OPERATIONS[name]
    args, options = make[rng.integers(len(make))](call)
    operation, backward = getattr(F, name), getattr(F, f"{name}_backward", None)
    fresh = [np.array(a) if isinstance(a, np.ndarray) else a for a in args]
    kept = {k: np.array(v) if isinstance(v, np.ndarray) else v for k, v in options.items()}
    has_out = "out" in inspect.signature(operation).parameters
    fastbn.set_num_threads(int(rng.integers(1, 3)))
    result = guarded(call, operation, *args, **options)
    if result is None:
        return f"{name}: refused"
    y, saved = (result, None) if name == "add" else result
    if isinstance(y, np.ndarray) and y.nbytes > LARGEST:
        return f"{name}: large"
    if name not in {"dropout", "batch_moments"} and not call.special:
        compare(name, tuple(fresh), kept, y)
    if has_out and (out := call.out(y)) is not None:
        again = guarded(call, operation, *args, **options, out=out)
        if again is not None and name not in {"add", "concat"}:
            y, saved = again
    if backward is None or name == "batch_moments":
        return name
    if call.wild and call.chance(0.2):
        others = (None, 3, "saved", object(), *(F.relu(np.ones(2))[1:]), type(saved))
        saved = others[rng.integers(len(others))]
        if saved is others[-1] and hasattr(saved, "__new__"):
            saved = guarded(call, saved.__new__, saved)
    dy = call.array(np.shape(y), y.dtype) if isinstance(y, np.ndarray) else call.real(1.0, 0.5)
    outs: dict[str, Any] = {}
    known = inspect.signature(backward).parameters
    if "out" in known and name != "concat":
        outs["out"] = call.out(args[0])
    for k, gradient in enumerate(("dweight", "dbias"), start=1):
        if gradient in known and len(args) > k:
            outs[gradient] = call.out(args[k])
    guarded(call, backward, dy, saved, **outs)
    return name


def main() -> int:
    """Run calls for so many seconds, or so many calls."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--calls", type=int, default=1 << 62)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))  # a huge result is a MemoryError
    begin, seed = time.monotonic(), options.seed
    while seed < options.seed + options.calls and time.monotonic() - begin < options.seconds:
        sys.stdout.write(f"\r{seed} ")  # the last one that is seen is the one that crashed
        sys.stdout.flush()
        signal.alarm(HANGS)
        started = time.process_time()
        try:
            what = run(seed)
        except MemoryError:  # of arrays that are made here; those of operations are refusals
            what = "nothing"
        except Exception as error:
            error.add_note(f"in call {seed}")
            raise
        if time.process_time() - started > SECONDS:
            raise RuntimeError(f"call {seed} ({what}) took more than {SECONDS:.0f} seconds")
        seed += 1
    print(f"\r{seed - options.seed} calls")
    return 0


if __name__ == "__main__":
    sys.exit(main())
