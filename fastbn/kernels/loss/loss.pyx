"""Losses and their gradients: who does what.

Rows (cross-entropy) or values (squared error) are cut into chunks of fixed size; the chunks' sums
are float64 and added in their order, so that losses are the same for every number of threads.
Loops over numbers are in loops.h.
"""

from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t

cimport numpy as cnp

from fastbn.kernels.arguments cimport check_apart, data, dense, float_of, gradient_of, output
from fastbn.kernels.runtime cimport isa_level, run_tasks, streams, team

cnp.import_array()

cdef extern from "common/rounding.h" nogil:
    void store_fence()

cdef enum:
    CHUNK = 16384  # values


cdef inline const loss_simd_t *loss_simd(int element) noexcept nogil:
    return loss_table(isa_level(), element)


cdef struct work_t:
    const char *x      # logits, or pred
    const char *t      # target; NULL: cross-entropy
    char *dx           # NULL: forward
    ce_row_t *rows
    double *parts      # the sum of every chunk
    int64_t size       # rows, or values
    int64_t columns    # classes, or 1
    int64_t step       # rows or values in a chunk
    int64_t chunks
    double factor
    int itemsize
    bint stream
    const loss_simd_t *simd


cdef work_t work_on(cnp.ndarray x, object t, object dx, int64_t columns, int element) noexcept:
    cdef work_t w
    w.x, w.t, w.dx = <char *>data(x), <char *>data(t), <char *>data(dx)
    w.rows, w.parts = NULL, NULL
    w.columns = columns
    w.size = cnp.PyArray_SIZE(x) // columns
    w.step = max(1, CHUNK // columns)
    w.chunks = (w.size + w.step - 1) // w.step
    w.factor = 0.0
    w.itemsize = cnp.PyArray_ITEMSIZE(x)
    w.stream = dx is not None and t is not None and streams(<double>cnp.PyArray_NBYTES(x), 2)
    w.simd = loss_simd(element)
    return w


cdef void run_chunk(const void *job, int64_t k) noexcept nogil:
    cdef const work_t *w = <const work_t *>job
    cdef int64_t first = k * w.step
    cdef int64_t n = min(w.step, w.size - first), at = first * w.columns * w.itemsize
    if w.t == NULL and w.dx == NULL:
        w.parts[k] = w.simd.ce_rows(w.x + at, w.rows + first, n, w.columns)
    elif w.t == NULL:
        w.simd.ce_grad_rows(w.x + at, w.dx + at, w.rows + first, n, w.columns, w.factor)
    elif w.dx == NULL:
        w.parts[k] = w.simd.squares(w.x + at, w.t + at, n)
    else:
        w.simd.difference(w.x + at, w.t + at, w.dx + at, n, w.factor, w.stream)
        if w.stream:
            store_fence()


cdef double run(const work_t *w, int threads) noexcept:
    """Run all chunks; return the sum of their sums, in their order, if there are any."""
    cdef int64_t k
    cdef double total = 0.0
    with nogil:
        run_tasks(run_chunk, w, w.chunks, threads)
    if w.parts != NULL:
        for k in range(w.chunks):
            total += w.parts[k]
    return total


# ---- cross-entropy ----

cdef class CrossEntropySaved:
    """What backward needs: the logits themselves, and three numbers a row."""

    cdef readonly object logits
    cdef ce_row_t *rows

    def __dealloc__(self):
        PyMem_Free(self.rows)


cdef cnp.ndarray checked_labels(object labels_, cnp.ndarray logits):
    if not isinstance(labels_, cnp.ndarray):
        raise TypeError(f"labels: expected a numpy.ndarray, got {type(labels_).__name__}")
    cdef cnp.ndarray labels = <cnp.ndarray>labels_
    if not cnp.PyArray_ISINTEGER(labels):
        raise TypeError(f"labels: expected integers, got {labels.dtype}")
    if cnp.PyArray_NDIM(labels) != 1:
        raise ValueError(f"labels: expected shape ({cnp.PyArray_DIM(logits, 0)},), "
                         f"got {labels_.shape}")
    if cnp.PyArray_DIM(labels, 0) != cnp.PyArray_DIM(logits, 0):
        raise ValueError(f"Expected input batch_size ({cnp.PyArray_DIM(logits, 0)}) to match "
                         f"target batch_size ({cnp.PyArray_DIM(labels, 0)})")
    if not cnp.PyArray_ISBEHAVED_RO(labels):
        labels = labels.astype(labels.dtype.newbyteorder("="))
    return labels


cdef int64_t label_at(const char *p, int itemsize, bint signed) noexcept nogil:
    """An integer of any type; what int64 cannot hold is negative."""
    if itemsize == 8:
        return (<const int64_t *>p)[0]
    if itemsize == 4:
        return (<const int32_t *>p)[0] if signed else <int64_t>(<const uint32_t *>p)[0]
    if itemsize == 2:
        return (<const int16_t *>p)[0] if signed else (<const uint16_t *>p)[0]
    return (<const int8_t *>p)[0] if signed else (<const uint8_t *>p)[0]


cdef int take_labels(ce_row_t *rows, cnp.ndarray labels, int64_t classes) except -1:
    """Copy the labels, so that backward is safe from what becomes of the array."""
    cdef const char *p = cnp.PyArray_BYTES(labels)
    cdef int64_t i, label, step = cnp.PyArray_STRIDE(labels, 0)
    cdef int itemsize = cnp.PyArray_ITEMSIZE(labels)
    cdef bint signed = cnp.PyArray_ISSIGNED(labels)
    for i in range(cnp.PyArray_DIM(labels, 0)):
        label = label_at(p + i * step, itemsize, signed)
        if not 0 <= label < classes:
            raise ValueError(f"Target {(<object>labels)[i]} is out of bounds: labels[{i}] should "
                             f"be in [0, {classes})")
        rows[i].label = label
    return 0


def cross_entropy(object logits_, object labels_):
    """Compute ``functional.cross_entropy``."""
    cdef cnp.ndarray logits = dense(logits_, "logits"), labels
    cdef int element = float_of(logits, "logits")
    cdef int64_t count, classes
    cdef CrossEntropySaved saved
    cdef work_t w
    if cnp.PyArray_NDIM(logits) != 2:
        raise ValueError(f"logits: expected shape (rows, classes), got {logits_.shape}")
    count, classes = cnp.PyArray_DIM(logits, 0), cnp.PyArray_DIM(logits, 1)
    labels = checked_labels(labels_, logits)
    if count == 0 or classes == 0:
        raise ValueError(f"logits: expected at least one row and one class, got {logits_.shape}")
    w = work_on(logits, None, None, classes, element)
    saved = CrossEntropySaved.__new__(CrossEntropySaved)
    saved.logits = logits
    saved.rows = <ce_row_t *>PyMem_Malloc(count * sizeof(ce_row_t) + w.chunks * sizeof(double))
    if saved.rows == NULL:
        raise MemoryError
    take_labels(saved.rows, labels, classes)
    w.rows, w.parts = saved.rows, <double *>(saved.rows + count)
    return run(&w, team(2.0 * cnp.PyArray_NBYTES(logits))) / count, saved


def cross_entropy_backward(double dloss, CrossEntropySaved saved not None, object out):
    """Compute ``functional.cross_entropy_backward``."""
    cdef cnp.ndarray logits = saved.logits
    cdef cnp.ndarray dlogits = output(out, logits, "out")
    cdef work_t w
    if out is not None:
        check_apart(dlogits, logits, "logits", True)
    w = work_on(logits, None, dlogits, cnp.PyArray_DIM(logits, 1), float_of(logits, "logits"))
    w.rows, w.factor = saved.rows, dloss / w.size
    run(&w, team(3.0 * cnp.PyArray_NBYTES(logits)))
    return dlogits


# ---- squared error ----

cdef class MSESaved:
    """What backward needs: both arguments themselves."""

    cdef readonly object pred, target


def mse_loss(object pred_, object target_):
    """Compute ``functional.mse_loss``."""
    cdef cnp.ndarray pred = dense(pred_, "pred")
    cdef int element = float_of(pred, "pred")
    cdef cnp.ndarray target = gradient_of(target_, pred, "target")
    cdef MSESaved saved
    cdef double few[64]
    cdef double loss
    cdef work_t w
    if cnp.PyArray_SIZE(pred) == 0:
        raise ValueError(f"pred: expected at least one value, got shape {pred_.shape}")
    w = work_on(pred, target, None, 1, element)
    w.parts = &few[0]
    if w.chunks > 64:
        w.parts = <double *>PyMem_Malloc(w.chunks * sizeof(double))
    if w.parts == NULL:
        raise MemoryError
    loss = run(&w, team(2.0 * cnp.PyArray_NBYTES(pred))) / w.size
    if w.parts != &few[0]:
        PyMem_Free(w.parts)
    saved = MSESaved.__new__(MSESaved)
    saved.pred, saved.target = pred, target
    return loss, saved


def mse_loss_backward(double dloss, MSESaved saved not None, object out):
    """Compute ``functional.mse_loss_backward``."""
    cdef cnp.ndarray pred = saved.pred
    cdef cnp.ndarray dpred = output(out, pred, "out")
    cdef work_t w
    if out is not None:
        check_apart(dpred, pred, "pred", True)
        check_apart(dpred, <cnp.ndarray>saved.target, "target", True)
    w = work_on(pred, saved.target, dpred, 1, float_of(pred, "pred"))
    w.factor = 2.0 * dloss / w.size
    run(&w, team(3.0 * cnp.PyArray_NBYTES(pred)))
    return dpred
