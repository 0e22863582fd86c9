"""Local response normalisation across channels, forward and backward, channels-last.

A row is the channels of one pixel. Rows do not depend on one another and are cut into chunks by
their size. Backward makes the squares and their sums again, so that x is all that is kept.
"""

from libc.math cimport isfinite
from libc.stdint cimport int64_t

cimport numpy as cnp

from fastbn.kernels.arguments cimport (
    check_apart, check_filled, data, dense, float_of, gradient_of, output, real_number,
    whole_number,
)
from fastbn.kernels.runtime cimport isa_level, run_tasks, scratch, team

cnp.import_array()

cdef enum:
    CHUNK_BYTES = 1 << 15


cdef struct work_t:
    const char *x
    const char *dy     # NULL: forward
    char *y            # or dx
    int64_t rows
    int64_t step       # rows in a chunk
    int64_t row_bytes
    int64_t room_bytes
    lrn_t f
    const lrn_simd_t *simd
    bint failed


cdef class LRNSaved:
    """What backward needs: x itself, and the constants."""

    cdef readonly object x
    cdef lrn_t f


cdef inline void fail(const work_t *w) noexcept nogil:
    (<work_t *>w).failed = True


cdef void run_chunk(const void *job, int64_t chunk) noexcept nogil:
    cdef const work_t *w = <const work_t *>job
    cdef int64_t first = chunk * w.step, at = first * w.row_bytes
    cdef int64_t rows = min(w.step, w.rows - first)
    cdef void *room = scratch(0, w.room_bytes)
    if room == NULL:
        fail(w)
    elif w.dy == NULL:
        w.simd.rows(w.x + at, w.y + at, rows, &w.f, room)
    else:
        w.simd.grad_rows(w.x + at, w.dy + at, w.y + at, rows, &w.f, room)


cdef int run(cnp.ndarray x, object dy, cnp.ndarray y, const lrn_t *f) except -1:
    cdef work_t w
    cdef double nbytes = <double>cnp.PyArray_NBYTES(x)
    cdef int itemsize = cnp.PyArray_ITEMSIZE(x)
    if cnp.PyArray_SIZE(x) == 0:
        return 0
    w.x, w.dy, w.y, w.f = <char *>data(x), <char *>data(dy), <char *>data(y), f[0]
    w.row_bytes, w.room_bytes = f.n * itemsize, LRN_ROWS * lrn_pitch(f) * itemsize
    w.rows = cnp.PyArray_SIZE(x) // f.n
    w.step = max(1, CHUNK_BYTES // w.row_bytes)
    w.simd, w.failed = lrn_table(isa_level(), float_of(x, "x")), False
    with nogil:
        run_tasks(run_chunk, &w, (w.rows + w.step - 1) // w.step,
                  team(nbytes * (2 if w.dy == NULL else 3)))
    if w.failed:
        raise MemoryError
    return 0


def forward(object x_, object size, object alpha, object beta, object k, object out):
    """Check the arguments of ``functional.local_response_norm``, then compute it."""
    cdef cnp.ndarray x = dense(x_, "x"), y
    cdef LRNSaved saved = LRNSaved.__new__(LRNSaved)
    cdef int64_t window = whole_number(size, "size", 1)
    float_of(x, "x")
    if cnp.PyArray_NDIM(x) == 0:
        raise ValueError("x: expected an axis of channels, got shape ()")
    saved.f.scale = real_number(alpha, "alpha") / window
    saved.f.beta, saved.f.k = real_number(beta, "beta"), real_number(k, "k")
    for value, what, least in ((saved.f.scale, "alpha", 0.0), (saved.f.beta, "beta", None),
                               (saved.f.k, "k", 0.0)):
        if not isfinite(value) or (least is not None and value < least):
            raise ValueError(f"{what} should be finite{'' if least is None else ' and >= 0'}")
    saved.f.n = cnp.PyArray_DIM(x, cnp.PyArray_NDIM(x) - 1)
    saved.f.before = min(window // 2, max(saved.f.n - 1, 0))
    saved.f.behind = min((window - 1) // 2, max(saved.f.n - 1, 0))
    y = output(out, x, "out")
    if out is not None:
        check_apart(y, x, "x", False)
    run(x, None, y, &saved.f)
    saved.x = x
    return y, saved


def backward(object dy_, LRNSaved saved not None, object out):
    """Check the arguments of ``functional.local_response_norm_backward``, then compute it."""
    check_filled(saved.x, "local_response_norm")
    cdef cnp.ndarray x = saved.x, dy = gradient_of(dy_, x, "dy")
    cdef cnp.ndarray dx = output(out, x, "out")
    if out is not None:
        check_apart(dx, x, "x", False)
        check_apart(dx, dy, "dy", True)
    run(x, dy, dx, &saved.f)
    return dx
