"""Dropout: a mask that is a function of the seed and the element's index, never stored.

One 64-bit seed is drawn from NumPy's generator. Elements 2 k and 2 k + 1 take the low and the high
half of the k-th number of SplitMix64 (Steele, Lea & Flood 2014), so any thread can make any part of
the mask, and backward makes it again. `reference.dropout_keep` is the same rule in NumPy.
"""

from cython.parallel cimport prange
from libc.stdint cimport int64_t, uint32_t, uint64_t

cimport numpy as cnp

from fastbn.kernels.border cimport data, dense, output, overlaps, product_element
from fastbn.kernels.runtime cimport F64, team

import numpy as np

cnp.import_array()

cdef enum:
    BLOCK = 16384  # elements of a task, an even number

ctypedef fused real:
    float
    double


cdef inline uint64_t mixed(uint64_t seed, uint64_t k) noexcept nogil:
    cdef uint64_t z = seed + (k + 1) * <uint64_t>0x9E3779B97F4A7C15ULL
    z = (z ^ (z >> 30)) * <uint64_t>0xBF58476D1CE4E5B9ULL
    z = (z ^ (z >> 27)) * <uint64_t>0x94D049BB133111EBULL
    return z ^ (z >> 31)


cdef void block(const real *x, real *y, int64_t first, int64_t last, uint64_t seed,
                uint64_t threshold, real scale) noexcept nogil:
    """y = x * scale where the element's 32 bits reach the threshold, else 0; first is even."""
    cdef int64_t i = first
    cdef uint64_t bits
    while i < last:
        bits = mixed(seed, <uint64_t>i >> 1)
        y[i] = x[i] * scale if <uint32_t>bits >= threshold else <real>0.0
        if i + 1 < last:
            y[i + 1] = x[i + 1] * scale if (bits >> 32) >= threshold else <real>0.0
        i = i + 2


cdef void masked(const void *x, void *y, int64_t count, int element, uint64_t seed,
                 uint64_t threshold, double scale) noexcept nogil:
    cdef int64_t tasks = (count + BLOCK - 1) // BLOCK, task, last
    cdef int threads = team(<double>count * 16.0)
    for task in prange(tasks, schedule="static", num_threads=threads):
        last = min(count, (task + 1) * BLOCK)
        if element == F64:
            block[double](<const double *>x, <double *>y, task * BLOCK, last, seed, threshold,
                          scale)
        else:
            block[float](<const float *>x, <float *>y, task * BLOCK, last, seed, threshold,
                         <float>scale)


cdef class DropoutSaved:
    """What backward needs: the seed and the share, nothing of the size of x."""

    cdef readonly uint64_t seed
    cdef readonly double p
    cdef readonly tuple shape
    cdef readonly object dtype


cdef cnp.ndarray apply(cnp.ndarray x, DropoutSaved saved, object out):
    """The mask and the scale of `saved`, on a new array or on `out`, which may be x."""
    cdef cnp.ndarray y = output(out, x, "out")
    cdef int element = product_element(x, "x")
    cdef uint64_t threshold
    cdef double scale
    if overlaps(y, x) and data(y) != data(x):
        raise ValueError("out overlaps the input in part: use the same array or another one")
    threshold = <uint64_t>(saved.p * 4294967296.0 + 0.5)
    scale = 1.0 / (1.0 - saved.p) if saved.p < 1.0 else 0.0
    with nogil:
        masked(cnp.PyArray_DATA(x), cnp.PyArray_DATA(y), cnp.PyArray_SIZE(x), element,
               saved.seed, threshold, scale)
    return y


def forward(object x_, double p, bint training, object rng, object out):
    """Check the arguments of ``functional.dropout``, then compute it."""
    cdef cnp.ndarray x = dense(x_, "x")
    cdef DropoutSaved saved = DropoutSaved.__new__(DropoutSaved)
    product_element(x, "x")
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
    if out is not None:
        output(out, x, "out")
    saved.shape, saved.dtype, saved.p, saved.seed = np.shape(x), x.dtype, 0.0, 0
    if training and p > 0.0:
        generator = np.random.default_rng() if rng is None else rng
        saved.p = p
        saved.seed = generator.integers(0, 1 << 64, dtype=np.uint64)
    return apply(x, saved, out), saved


def backward(object dy_, DropoutSaved saved, object out):
    """Check the arguments of ``functional.dropout_backward``, then compute it."""
    cdef cnp.ndarray dy = dense(dy_, "dy")
    if dy.dtype != saved.dtype:
        raise TypeError(f"dy: expected {saved.dtype}, got {dy.dtype}")
    if np.shape(dy) != saved.shape:
        raise ValueError(f"dy: expected shape {saved.shape}, got {np.shape(dy)}")
    return apply(dy, saved, out)
