"""Dropout: a mask that is a function of the seed and the element's index, never stored.

One 64-bit seed is drawn from NumPy's generator. Any thread can make any part of the mask from it
(loops.h), and backward makes it again. `reference.dropout_keep` is the same rule in NumPy.
"""

from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.stdint cimport int64_t, uint64_t

cimport numpy as cnp
from numpy.random cimport bitgen_t

from fastbn.kernels.arguments cimport (
    check_apart, check_filled, check_is, data, dense, float_of, output_of, real_number,
)
from fastbn.kernels.runtime cimport isa_level, run_tasks, streams, team

import numpy as np

cnp.import_array()

cdef extern from "common/rounding.h" nogil:
    void store_fence()

cdef enum:
    CHUNK = 16384  # elements, an even number
    MOST_AXES = 64  # NumPy's


cdef inline const dropout_simd_t *dropout_simd(int element) noexcept nogil:
    return dropout_table(isa_level(), element)


cdef struct work_t:
    const char *x
    char *y
    int64_t size
    int itemsize
    uint64_t seed, threshold
    double scale
    bint stream
    const dropout_simd_t *simd


cdef void run_chunk(const void *job, int64_t k) noexcept nogil:
    cdef const work_t *w = <const work_t *>job
    cdef int64_t first = k * CHUNK, at = first * w.itemsize
    w.simd.dropout(w.x + at, w.y + at, first, min(<int64_t>CHUNK, w.size - first), w.seed,
                   w.threshold, w.scale, w.stream)
    if w.stream:
        store_fence()


cdef class DropoutSaved:
    """What backward needs: the seed and the share, nothing of the size of x."""

    cdef readonly uint64_t seed
    cdef readonly double p
    cdef cnp.npy_intp shape[MOST_AXES]
    cdef int ndim, typenum, element
    cdef bint filled


cdef uint64_t drawn(object rng) except? 0:
    """The next 64 bits of a generator: ``rng.integers(0, 1 << 64, dtype=np.uint64)``, quickly."""
    if not isinstance(rng, np.random.Generator):
        raise TypeError(f"rng: expected a numpy.random.Generator, got {type(rng).__name__}")
    source = rng.bit_generator
    cdef bitgen_t *bits = <bitgen_t *>PyCapsule_GetPointer(source.capsule, "BitGenerator")
    with source.lock:
        return bits.next_uint64(bits.state)


cdef cnp.ndarray apply(cnp.ndarray x, DropoutSaved saved, object out, str what):
    """The mask and the scale of `saved`, on a new array or on `out`, which may be x."""
    cdef cnp.ndarray y = output_of(out, saved.ndim, saved.shape, saved.typenum, "out")
    cdef work_t w
    if out is not None:
        check_apart(y, x, what, True)
    w.x, w.y = <char *>data(x), <char *>data(y)
    w.size, w.itemsize = cnp.PyArray_SIZE(x), cnp.PyArray_ITEMSIZE(x)
    w.seed, w.threshold = saved.seed, <uint64_t>(saved.p * 4294967296.0 + 0.5)
    w.scale = 1.0 / (1.0 - saved.p) if saved.p < 1.0 else 0.0
    w.stream = w.x != w.y and streams(<double>cnp.PyArray_NBYTES(x), 2)
    w.simd = dropout_simd(saved.element)
    with nogil:
        run_tasks(run_chunk, &w, (w.size + CHUNK - 1) // CHUNK, team(2.0 * w.size * w.itemsize))
    return y


def forward(object x_, object p_, bint training, object rng, object out):
    """Check the arguments of ``functional.dropout``, then compute it."""
    cdef cnp.ndarray x = dense(x_, "x")
    cdef DropoutSaved saved = DropoutSaved.__new__(DropoutSaved)
    cdef double p = real_number(p_, "p")
    cdef int i
    saved.element, saved.typenum = float_of(x, "x"), cnp.PyArray_TYPE(x)
    saved.ndim, saved.filled = cnp.PyArray_NDIM(x), True
    for i in range(saved.ndim):
        saved.shape[i] = cnp.PyArray_DIM(x, i)
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
    if out is not None:  # before the generator moves on
        check_apart(output_of(out, saved.ndim, saved.shape, saved.typenum, "out"), x, "x", True)
    saved.p, saved.seed = 0.0, 0
    if training and p > 0.0:
        saved.seed = drawn(np.random.default_rng() if rng is None else rng)
        saved.p = p
    return apply(x, saved, out, "x"), saved


def backward(object dy_, DropoutSaved saved not None, object out):
    """Check the arguments of ``functional.dropout_backward``, then compute it."""
    if not saved.filled:
        check_filled(None, "dropout")
    cdef cnp.ndarray dy = dense(dy_, "dy")
    check_is(dy, saved.ndim, saved.shape, saved.typenum, "dy")
    return apply(dy, saved, out, "dy")
