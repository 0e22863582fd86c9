"""Activations and softmax, forward and backward: who does what.

Element by element, an array is one run of numbers, cut into chunks of fixed size. Softmax cuts it
into chunks of whole rows. Small work runs on the calling thread, outside any parallel region.
Loops over numbers are in loops.h.
"""

from libc.stdint cimport int64_t

import numpy as np

cimport numpy as cnp

from fastbn.kernels.arguments cimport (
    check_apart, check_filled, data, dense, dense_vector, float_of, gradient_of, output, overlaps,
    real_number,
)
from fastbn.kernels.runtime cimport isa_level, run_tasks, streams, team

cnp.import_array()

cdef extern from "common/rounding.h" nogil:
    void store_fence()

cdef enum:
    CHUNK = 16384  # values
    SOFTMAX = -1   # an operation, beside MAP_RELU and its like


cdef inline const activation_simd_t *activation_simd(int element) noexcept nogil:
    return activation_table(isa_level(), element)


cdef class ActivationSaved:
    """What backward needs: y itself, or x, see `keeps_x`."""

    cdef readonly object values
    cdef readonly double negative_slope  # or another parameter
    cdef int operation


cdef struct work_t:
    const char *x      # or y
    const char *dy     # NULL: forward
    char *y            # or dx
    int64_t size
    int64_t columns    # softmax: values in a row
    int64_t step       # values in a chunk
    double slope
    int operation
    int itemsize
    bint stream
    const activation_simd_t *simd


cdef void run_chunk(const void *job, int64_t k) noexcept nogil:
    cdef const work_t *w = <const work_t *>job
    cdef int64_t first = k * w.step
    cdef int64_t n = min(w.step, w.size - first), at = first * w.itemsize
    if w.operation == SOFTMAX and w.dy == NULL:
        w.simd.softmax_rows(w.x + at, w.y + at, n // w.columns, w.columns)
    elif w.operation == SOFTMAX:
        w.simd.softmax_grad_rows(w.x + at, w.dy + at, w.y + at, n // w.columns, w.columns)
    elif w.operation >= MAP_ELU and w.dy == NULL:
        w.simd.smooth(w.x + at, w.y + at, n, w.operation, w.slope, w.stream)
    elif w.operation >= MAP_ELU:
        w.simd.smooth_grad(w.x + at, w.dy + at, w.y + at, n, w.operation, w.slope, w.stream)
    elif w.dy == NULL:
        w.simd.map(w.x + at, w.y + at, n, w.operation, w.slope, w.stream)
    else:
        w.simd.map_grad(w.x + at, w.dy + at, w.y + at, n, w.operation, w.slope, w.stream)
    if w.stream:
        store_fence()


cdef void run(const work_t *w, int threads) noexcept:
    with nogil:
        run_tasks(run_chunk, w, (w.size + w.step - 1) // w.step, threads)


cdef work_t work_on(cnp.ndarray x, object dy, cnp.ndarray y, int operation, double slope,
                    int element) noexcept:
    cdef work_t w
    cdef int ndim = cnp.PyArray_NDIM(x)
    w.x, w.dy, w.y = <char *>data(x), <char *>data(dy), <char *>data(y)
    w.size = cnp.PyArray_SIZE(x)
    w.columns = cnp.PyArray_DIM(x, ndim - 1) if ndim else 1
    w.step = CHUNK
    if operation == SOFTMAX and w.columns:
        w.step = max(1, CHUNK // w.columns) * w.columns
    w.slope, w.operation = slope, operation
    w.itemsize = cnp.PyArray_ITEMSIZE(x)
    w.simd = activation_simd(element)
    # What replaces an operand is in the cache already.
    w.stream = (streams(<double>w.size * w.itemsize, 2 if dy is None else 3)
                and w.y != w.x and w.y != w.dy)
    return w


cdef tuple forward(object x_, int operation, double slope, object out):
    cdef cnp.ndarray x = dense(x_, "x")
    cdef int element = float_of(x, "x")
    cdef bint needs_x = keeps_x(operation, slope)
    cdef cnp.ndarray y = output(out, x, "out")
    cdef ActivationSaved saved
    cdef work_t w
    if out is not None:
        if needs_x and overlaps(y, x):
            why = " where negative_slope is negative" if operation == MAP_LEAKY else ""
            raise ValueError(f"out must not overlap x{why}: backward needs x")
        check_apart(y, x, "x", True)
    w = work_on(x, None, y, operation, slope, element)
    run(&w, team(2.0 * w.size * w.itemsize))
    saved = ActivationSaved.__new__(ActivationSaved)
    saved.values = x if needs_x else y
    saved.operation, saved.negative_slope = operation, slope
    return y, saved


cdef cnp.ndarray backward(object dy_, ActivationSaved saved, int operation, str name, object out):
    if saved is None or saved.operation != operation:
        check_filled(None, name)
    check_filled(saved.values, name)
    cdef cnp.ndarray values = saved.values, dy = gradient_of(dy_, values, "dy")
    cdef cnp.ndarray dx = output(out, values, "out")
    cdef work_t w
    if out is not None:
        check_apart(dx, values, "x" if keeps_x(operation, saved.negative_slope) else "y", False)
        check_apart(dx, dy, "dy", True)
    w = work_on(values, dy, dx, operation, saved.negative_slope, float_of(values, "x"))
    run(&w, team(3.0 * w.size * w.itemsize))
    return dx


cdef bint keeps_x(int operation, double slope) noexcept:
    return operation >= MAP_ELU or (operation == MAP_LEAKY and slope < 0)


def relu(object x, object out):
    """Compute ``functional.relu``."""
    return forward(x, MAP_RELU, 0.0, out)


def relu_backward(object dy, ActivationSaved saved, object out):
    """Compute ``functional.relu_backward``."""
    return backward(dy, saved, MAP_RELU, "relu", out)


def leaky_relu(object x, object negative_slope, object out):
    """Compute ``functional.leaky_relu``."""
    cdef double slope = real_number(negative_slope, "negative_slope")
    return forward(x, MAP_LEAKY if slope != 0 else MAP_RELU, slope, out)


def leaky_relu_backward(object dy, ActivationSaved saved, object out):
    """Compute ``functional.leaky_relu_backward``."""
    cdef int operation = MAP_LEAKY
    if saved is not None and saved.operation == MAP_RELU:
        operation = MAP_RELU
    return backward(dy, saved, operation, "leaky_relu", out)


def sigmoid(object x, object out):
    """Compute ``functional.sigmoid``."""
    return forward(x, MAP_SIGMOID, 0.0, out)


def sigmoid_backward(object dy, ActivationSaved saved, object out):
    """Compute ``functional.sigmoid_backward``."""
    return backward(dy, saved, MAP_SIGMOID, "sigmoid", out)


def tanh(object x, object out):
    """Compute ``functional.tanh``."""
    return forward(x, MAP_TANH, 0.0, out)


def tanh_backward(object dy, ActivationSaved saved, object out):
    """Compute ``functional.tanh_backward``."""
    return backward(dy, saved, MAP_TANH, "tanh", out)


def softmax(object x, object out):
    """Compute ``functional.softmax``."""
    return forward(x, SOFTMAX, 0.0, out)


def softmax_backward(object dy, ActivationSaved saved, object out):
    """Compute ``functional.softmax_backward``."""
    return backward(dy, saved, SOFTMAX, "softmax", out)


cdef dict SMOOTH = {
    "elu": MAP_ELU,
    "selu": MAP_SELU,
    "silu": MAP_SILU,
    "gelu": MAP_GELU,
    "gelu_tanh": MAP_GELU_TANH,
    "hardsigmoid": MAP_HARDSIGMOID,
    "hardswish": MAP_HARDSWISH,
    "relu6": MAP_RELU6,
    "softplus": MAP_SOFTPLUS,
    "mish": MAP_MISH,
}


def smooth(object x, str name, object parameter, object out):
    """Compute the operation of ``functional`` that has this name."""
    return forward(x, SMOOTH[name], real_number(parameter, f"{name}: parameter"), out)


def smooth_backward(object dy, ActivationSaved saved, str name, object out):
    """Compute the backward of ``functional.name``."""
    return backward(dy, saved, SMOOTH[name], name, out)


def gelu_backward(object dy, ActivationSaved saved, object out):
    """Compute ``functional.gelu_backward``, of either form."""
    cdef int operation = MAP_GELU
    if saved is not None and saved.operation == MAP_GELU_TANH:
        operation = MAP_GELU_TANH
    return backward(dy, saved, operation, "gelu", out)


# ---- a slope for every channel ----

cdef enum:
    MOST_PARTS = 64  # of the sums for dweight: so many rows of float64


cdef class PreluSaved:
    """What backward needs: x, the slope of every channel, and how many there were."""

    cdef readonly object x, slopes, weight


cdef struct prelu_t:
    const char *x
    const char *w
    const char *dy
    char *y            # or dx
    double *sums       # of every chunk, for every channel; NULL: forward
    int64_t rows
    int64_t columns
    int64_t step       # rows in a chunk
    int itemsize
    const activation_simd_t *simd


cdef void run_prelu(const void *job, int64_t k) noexcept nogil:
    cdef const prelu_t *w = <const prelu_t *>job
    cdef int64_t first = k * w.step, at = first * w.columns * w.itemsize
    cdef int64_t n = min(w.step, w.rows - first)
    if w.sums == NULL:
        w.simd.prelu(w.x + at, w.w, w.y + at, n, w.columns)
    else:
        w.simd.prelu_grad(w.x + at, w.w, w.dy + at, w.y + at, w.sums + k * w.columns, n, w.columns)


cdef prelu_t prelu_on(cnp.ndarray x, object slopes, cnp.ndarray y) noexcept:
    cdef prelu_t w
    w.x, w.w, w.y = <char *>data(x), <char *>data(slopes), <char *>data(y)
    w.dy, w.sums = NULL, NULL
    w.columns = cnp.PyArray_DIM(x, cnp.PyArray_NDIM(x) - 1)
    w.rows = cnp.PyArray_SIZE(x) // w.columns if w.columns else 0
    w.step = max(1, max(CHUNK // max(1, w.columns), (w.rows + MOST_PARTS - 1) // MOST_PARTS))
    w.itemsize = cnp.PyArray_ITEMSIZE(x)
    w.simd = activation_simd(float_of(x, "x"))
    return w


def prelu(object x_, object weight, object out):
    """Compute ``functional.prelu``."""
    cdef cnp.ndarray x = dense(x_, "x"), y
    cdef PreluSaved saved
    cdef prelu_t w
    cdef int64_t channels
    float_of(x, "x")
    if cnp.PyArray_NDIM(x) == 0:
        raise ValueError("x: expected an axis of channels, got shape ()")
    channels = cnp.PyArray_DIM(x, cnp.PyArray_NDIM(x) - 1)
    one = isinstance(weight, cnp.ndarray) and weight.shape == (1,)
    weight = dense_vector(weight, "weight", 1 if one else channels, cnp.PyArray_TYPE(x))
    if weight is None:
        raise TypeError("weight: expected a numpy.ndarray, got NoneType")
    y = output(out, x, "out")
    if out is not None:
        check_apart(y, x, "x", False)
        check_apart(y, <cnp.ndarray>weight, "weight", False)
    saved = PreluSaved.__new__(PreluSaved)
    saved.x, saved.weight = x, weight
    saved.slopes = np.full(channels, weight[0]) if one else weight.copy()
    w = prelu_on(x, saved.slopes, y)
    with nogil:
        run_tasks(run_prelu, &w, (w.rows + w.step - 1) // w.step,
                  team(2.0 * w.rows * w.columns * w.itemsize))
    return y, saved


def prelu_backward(object dy_, PreluSaved saved not None, object out, object dweight):
    """Compute ``functional.prelu_backward``."""
    check_filled(saved.x, "prelu")
    cdef cnp.ndarray x = saved.x, dy = gradient_of(dy_, x, "dy")
    cdef cnp.ndarray dx = output(out, x, "out"), dw = output(dweight, saved.weight, "dweight")
    cdef prelu_t w
    cdef int64_t chunks
    if out is not None:
        check_apart(dx, x, "x", False)
        check_apart(dx, dy, "dy", False)
    if dweight is not None:
        check_apart(dw, x, "x", False)
        check_apart(dw, dy, "dy", False)
        check_apart(dw, dx, "dweight", False)
    w = prelu_on(x, saved.slopes, dx)
    w.dy = <char *>data(dy)
    chunks = (w.rows + w.step - 1) // w.step
    sums = np.zeros((chunks, w.columns))
    w.sums = <double *>data(sums)
    with nogil:
        run_tasks(run_prelu, &w, chunks, team(3.0 * w.rows * w.columns * w.itemsize))
    total = sums.sum(axis=0)
    (<object>dw)[...] = total if cnp.PyArray_SIZE(dw) == w.columns else total.sum()
    return dx, dw
