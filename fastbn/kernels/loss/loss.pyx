"""Losses and their gradients: who does what.

Rows (cross-entropy) or values (squared error) are cut into chunks of fixed size; the chunks' sums
are float64 and added in their order, so that losses are the same for every number of threads.
Loops over numbers are in cross_entropy.h and pairs.h.
"""

from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.math cimport INFINITY
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memset

import numpy as np

cimport numpy as cnp

from fastbn.kernels.arguments cimport (
    MOST_SIZE, check_apart, check_filled, check_vector, data, dense, dense_vector, float_of,
    gradient_of, output, real_number, whole_number,
)
from fastbn.kernels.runtime cimport isa_level, run_tasks, streams, team

cnp.import_array()

cdef extern from "common/rounding.h" nogil:
    void store_fence()

cdef enum:
    CHUNK = 16384  # values


cdef inline const loss_simd_t *loss_simd(int element) noexcept nogil:
    return loss_table(isa_level(), element)


cdef struct work_t:
    const char *x       # logits, or pred
    const char *t       # target; NULL: cross-entropy
    char *dx            # NULL: forward
    ce_row_t *rows
    ce_share_t *shares  # NULL: a label a row, and nothing else
    const char *w       # weights of classes, or NULL
    const char *p       # probabilities, or NULL
    const double *each  # weights of the rows of pairs, or NULL
    double *parts       # the sum of every chunk
    int64_t size        # rows, or values
    int64_t columns     # classes, or values in a row, or 1
    int64_t step        # rows or values in a chunk
    int64_t chunks
    double factor
    double delta
    int op
    int itemsize
    bint stream
    const loss_simd_t *simd


cdef work_t work_on(cnp.ndarray x, object t, object dx, int64_t columns, int element) noexcept:
    cdef work_t w
    w.x, w.t, w.dx = <char *>data(x), <char *>data(t), <char *>data(dx)
    w.rows, w.shares, w.parts, w.each, w.w, w.p = NULL, NULL, NULL, NULL, NULL, NULL
    w.columns = columns
    w.size = cnp.PyArray_SIZE(x) // columns if columns else 0
    w.step = max(1, CHUNK // columns) if columns else 1
    w.chunks = (w.size + w.step - 1) // w.step
    w.factor, w.delta, w.op = 0.0, 0.0, 0
    w.itemsize = cnp.PyArray_ITEMSIZE(x)
    w.stream = dx is not None and t is not None and streams(<double>cnp.PyArray_NBYTES(x), 2)
    w.simd = loss_simd(element)
    return w


cdef void run_chunk(const void *job, int64_t k) noexcept nogil:
    cdef const work_t *w = <const work_t *>job
    cdef int64_t first = k * w.step
    cdef int64_t n = min(w.step, w.size - first), at = first * w.columns * w.itemsize
    cdef const char *p = w.p + at if w.p != NULL else NULL
    if w.t != NULL:
        run_pairs(w, k, first, n, at)
    elif w.dx == NULL and w.shares == NULL:
        w.parts[k] = w.simd.ce_rows(w.x + at, w.rows + first, n, w.columns)
    elif w.dx == NULL:
        w.parts[k] = w.simd.ce_shared_rows(w.x + at, w.w, p, w.rows + first, w.shares + first, n,
                                           w.columns)
    elif w.shares == NULL:
        w.simd.ce_grad_rows(w.x + at, w.dx + at, w.rows + first, n, w.columns, w.factor)
    else:
        w.simd.ce_shared_grad_rows(w.x + at, w.w, p, w.dx + at, w.rows + first, w.shares + first,
                                   n, w.columns, w.factor)


cdef inline void run_pairs(const work_t *w, int64_t k, int64_t first, int64_t n,
                           int64_t at) noexcept nogil:
    """One chunk of pairs: n values, or n rows that have weights."""
    cdef int64_t i, row = w.columns * w.itemsize
    cdef double total = 0.0
    if w.each == NULL and w.dx == NULL:
        w.parts[k] = w.simd.pairs(w.x + at, w.t + at, n, w.op, w.delta)
    elif w.each == NULL:
        w.simd.pairs_grad(w.x + at, w.t + at, w.dx + at, n, w.op, w.delta, w.factor, w.stream)
    elif w.dx == NULL:
        for i in range(n):
            if w.each[first + i] != 0:  # what weighs nothing may be NaN
                total += w.each[first + i] * w.simd.pairs(w.x + at + i * row, w.t + at + i * row,
                                                          w.columns, w.op, w.delta)
        w.parts[k] = total
    else:
        for i in range(n):
            if w.each[first + i] != 0:
                w.simd.pairs_grad(w.x + at + i * row, w.t + at + i * row, w.dx + at + i * row,
                                  w.columns, w.op, w.delta, w.factor * w.each[first + i],
                                  w.stream)
            else:
                memset(w.dx + at + i * row, 0, row)
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


cdef object checked_sample_weight(object weight, int64_t rows):
    """Copy the weights of rows; they are not negative."""
    cdef const double *p
    cdef int64_t i
    if weight is None:
        return None
    copy = np.array(weight, dtype=np.float64)
    check_vector(copy, "sample_weight", rows, cnp.NPY_FLOAT64)
    p = <const double *>data(copy)
    for i in range(rows):
        if not 0 <= p[i] < INFINITY:
            raise ValueError(f"sample_weight[{i}] should be finite and >= 0, but got {p[i]}")
    return copy


# ---- cross-entropy ----

cdef class CrossEntropySaved:
    """What backward needs: the arrays themselves, and some numbers a row."""

    cdef readonly object logits, probabilities, weight
    cdef ce_row_t *rows
    cdef ce_share_t *shares
    cdef double divisor

    def __dealloc__(self):
        PyMem_Free(self.rows)
        PyMem_Free(self.shares)


cdef cnp.ndarray checked_labels(object labels_, cnp.ndarray logits):
    if not isinstance(labels_, cnp.ndarray):
        raise TypeError(f"labels: expected a numpy.ndarray, got {type(labels_).__name__}")
    cdef cnp.ndarray labels = <cnp.ndarray>labels_
    if not cnp.PyArray_ISINTEGER(labels):
        raise TypeError(f"labels: expected integers, or probabilities of shape "
                        f"{np.shape(logits)}, got {labels.dtype}")
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


cdef int64_t take_labels(ce_row_t *rows, cnp.ndarray labels, int64_t classes,
                         int64_t ignored) except -1:
    """Copy the labels, so that backward is safe from what becomes of the array.

    Those to pass over become -1; their number is returned.
    """
    cdef const char *p = cnp.PyArray_BYTES(labels)
    cdef int64_t i, label, step = cnp.PyArray_STRIDE(labels, 0), count = 0
    cdef int itemsize = cnp.PyArray_ITEMSIZE(labels)
    cdef bint signed = cnp.PyArray_ISSIGNED(labels)
    for i in range(cnp.PyArray_DIM(labels, 0)):
        label = label_at(p + i * step, itemsize, signed)
        if label == ignored:
            label = -1
            count += 1
        elif not 0 <= label < classes:
            raise ValueError(f"Target {(<object>labels)[i]} is out of bounds: labels[{i}] should "
                             f"be in [0, {classes})")
        rows[i].label = label
    return count


cdef object checked_class_weight(object weight, cnp.ndarray logits):
    """The weights of the classes, of the logits' dtype; they are not negative."""
    cdef int64_t i, classes = cnp.PyArray_DIM(logits, 1)
    if weight is None:
        return None
    weight = dense_vector(weight, "weight", classes, cnp.PyArray_TYPE(logits))
    for i in range(classes):
        if not 0 <= weight[i] < INFINITY:
            raise ValueError(f"weight[{i}] should be finite and >= 0, but got {weight[i]}")
    return weight


cdef int take_shares(CrossEntropySaved saved, object each, double smoothing) except -1:
    """Fill in what every row is compared with, and what the sum is divided by for a mean."""
    cdef int64_t i, count = cnp.PyArray_DIM(<cnp.ndarray>saved.logits, 0)
    cdef int64_t label, classes = cnp.PyArray_DIM(<cnp.ndarray>saved.logits, 1)
    cdef const double *e = <const double *>data(each)
    cdef double own, row, total = 1.0 * classes
    cdef double[::1] w = None
    if saved.weight is not None:
        w = saved.weight.astype(np.float64)
        total = saved.weight.sum(dtype=np.float64)
    saved.shares = <ce_share_t *>PyMem_Malloc(count * sizeof(ce_share_t))
    if saved.shares == NULL:
        raise MemoryError
    saved.divisor = 0.0
    for i in range(count):
        label = saved.rows[i].label
        row = 1.0 if e == NULL else e[i]
        own = 1.0
        if saved.probabilities is None:
            own = 0.0 if label < 0 else 1.0 if w is None else w[label]
            row = 0.0 if label < 0 else row
        saved.shares[i].hit = row * own * (1.0 - smoothing)
        saved.shares[i].spread = row * smoothing / classes
        saved.shares[i].total = saved.shares[i].hit + saved.shares[i].spread * total
        saved.divisor += row * own
    return 0


cdef int check_logits(cnp.ndarray logits) except -1:
    if cnp.PyArray_NDIM(logits) != 2:
        raise ValueError(f"logits: expected shape (rows, classes), got {np.shape(logits)}")
    return 0


def cross_entropy(object logits_, object labels_, object weight, object label_smoothing_,
                  object ignore_index_, object sample_weight, bint mean):
    """Compute ``functional.cross_entropy``."""
    cdef double label_smoothing = real_number(label_smoothing_, "label_smoothing")
    cdef int64_t ignore_index = whole_number(ignore_index_, "ignore_index", -MOST_SIZE)
    cdef cnp.ndarray logits = dense(logits_, "logits"), labels = None
    cdef int element = float_of(logits, "logits")
    cdef int64_t count, classes, ignored = 0
    cdef CrossEntropySaved saved
    cdef work_t w
    cdef double loss
    check_logits(logits)
    count, classes = cnp.PyArray_DIM(logits, 0), cnp.PyArray_DIM(logits, 1)
    probabilities = None
    if isinstance(labels_, cnp.ndarray) and labels_.dtype.kind == "f" and labels_.ndim > 1:
        probabilities = gradient_of(labels_, logits, "labels")
    else:
        labels = checked_labels(labels_, logits)
    if count == 0 or classes == 0:
        raise ValueError(f"logits: expected at least one row and one class, got {logits_.shape}")
    if not 0.0 <= label_smoothing <= 1.0:
        raise ValueError(f"label_smoothing must be between 0.0 and 1.0. Got: {label_smoothing}")
    weight = checked_class_weight(weight, logits)
    each = checked_sample_weight(sample_weight, count)
    w = work_on(logits, None, None, classes, element)
    saved = CrossEntropySaved.__new__(CrossEntropySaved)
    saved.logits, saved.probabilities, saved.weight = logits, probabilities, weight
    saved.rows = <ce_row_t *>PyMem_Malloc(count * sizeof(ce_row_t) + w.chunks * sizeof(double))
    if saved.rows == NULL:
        raise MemoryError
    if labels is not None:
        ignored = take_labels(saved.rows, labels, classes, ignore_index)
    saved.divisor = <double>count
    if (ignored or label_smoothing or weight is not None or each is not None
            or probabilities is not None):
        take_shares(saved, each, label_smoothing)
    if not mean:
        saved.divisor = 1.0
    fill_in(&w, saved)
    w.parts = <double *>(saved.rows + count)
    loss = run(&w, team(2.0 * cnp.PyArray_NBYTES(logits)))
    return (loss / saved.divisor if saved.divisor else 0.0), saved


cdef void fill_in(work_t *w, CrossEntropySaved saved) noexcept:
    w.rows, w.shares = saved.rows, saved.shares
    w.w, w.p = <const char *>data(saved.weight), <const char *>data(saved.probabilities)


def cross_entropy_backward(object dloss, CrossEntropySaved saved not None, object out):
    """Compute ``functional.cross_entropy_backward``."""
    if saved.rows == NULL:
        check_filled(None, "cross_entropy")
    cdef double factor = real_number(dloss, "dloss")
    cdef cnp.ndarray logits = saved.logits
    cdef cnp.ndarray dlogits = output(out, logits, "out")
    cdef work_t w
    if out is not None:
        check_apart(dlogits, logits, "logits", True)
        if saved.probabilities is not None:
            check_apart(dlogits, <cnp.ndarray>saved.probabilities, "labels", True)
        if saved.weight is not None:
            check_apart(dlogits, <cnp.ndarray>saved.weight, "weight", False)
    w = work_on(logits, None, dlogits, cnp.PyArray_DIM(logits, 1), float_of(logits, "logits"))
    fill_in(&w, saved)
    w.factor = factor / saved.divisor if saved.divisor else 0.0
    run(&w, team(3.0 * cnp.PyArray_NBYTES(logits)))
    return dlogits


# ---- pairs: a prediction and a target of one shape ----

cdef tuple NAMES = ("mse_loss", "l1_loss", "huber_loss", "binary_cross_entropy_with_logits")


cdef class PairsSaved:
    """What backward needs: both arrays themselves, and the weights of their rows."""

    cdef readonly object pred, target, sample_weight
    cdef double delta, divisor
    cdef int op


cdef work_t work_on_pairs(PairsSaved saved, object dx) noexcept:
    cdef cnp.ndarray pred = <cnp.ndarray>saved.pred
    cdef int64_t columns = 1
    cdef work_t w
    if saved.sample_weight is not None:
        columns = cnp.PyArray_SIZE(pred) // cnp.PyArray_DIM(pred, 0)
    w = work_on(pred, saved.target, dx, columns, float_of(pred, "pred"))
    w.each = <const double *>data(saved.sample_weight)
    w.op, w.delta = saved.op, saved.delta
    return w


cdef tuple pairs(object pred_, object target_, int op, double delta, object sample_weight,
                 bint mean):
    cdef cnp.ndarray pred = dense(pred_, "pred"), target
    cdef PairsSaved saved
    cdef double few[64]
    cdef double loss
    cdef work_t w
    float_of(pred, "pred")
    target = gradient_of(target_, pred, "target")
    if cnp.PyArray_SIZE(pred) == 0:
        raise ValueError(f"pred: expected at least one value, got shape {pred_.shape}")
    if sample_weight is not None and cnp.PyArray_NDIM(pred) == 0:
        raise ValueError("sample_weight: pred has no rows")
    saved = PairsSaved.__new__(PairsSaved)
    saved.pred, saved.target, saved.op, saved.delta = pred, target, op, delta
    saved.divisor = cnp.PyArray_SIZE(pred) if mean else 1.0
    if sample_weight is not None:
        saved.sample_weight = checked_sample_weight(sample_weight, cnp.PyArray_DIM(pred, 0))
        if mean:
            saved.divisor *= saved.sample_weight.sum() / cnp.PyArray_DIM(pred, 0)
    w = work_on_pairs(saved, None)
    w.parts = &few[0]
    if w.chunks > 64:
        w.parts = <double *>PyMem_Malloc(w.chunks * sizeof(double))
    if w.parts == NULL:
        raise MemoryError
    loss = run(&w, team(2.0 * cnp.PyArray_NBYTES(pred)))
    if w.parts != &few[0]:
        PyMem_Free(w.parts)
    return (loss / saved.divisor if saved.divisor else 0.0), saved


cdef cnp.ndarray pairs_backward(object dloss, PairsSaved saved, int op, object out):
    if saved is None or saved.pred is None or saved.op != op:
        check_filled(None, NAMES[op])
    cdef double factor = real_number(dloss, "dloss")
    cdef cnp.ndarray pred = saved.pred
    cdef cnp.ndarray dpred = output(out, pred, "out")
    cdef work_t w
    if out is not None:
        check_apart(dpred, pred, "pred", True)
        check_apart(dpred, <cnp.ndarray>saved.target, "target", True)
    w = work_on_pairs(saved, dpred)
    w.factor = factor / saved.divisor if saved.divisor else 0.0
    run(&w, team(3.0 * cnp.PyArray_NBYTES(pred)))
    return dpred


def mse_loss(object pred, object target, object sample_weight, bint mean):
    """Compute ``functional.mse_loss``."""
    return pairs(pred, target, LOSS_SQUARED, 0.0, sample_weight, mean)


def mse_loss_backward(object dloss, PairsSaved saved, object out):
    """Compute ``functional.mse_loss_backward``."""
    return pairs_backward(dloss, saved, LOSS_SQUARED, out)


def l1_loss(object pred, object target, object sample_weight, bint mean):
    """Compute ``functional.l1_loss``."""
    return pairs(pred, target, LOSS_ABSOLUTE, 0.0, sample_weight, mean)


def l1_loss_backward(object dloss, PairsSaved saved, object out):
    """Compute ``functional.l1_loss_backward``."""
    return pairs_backward(dloss, saved, LOSS_ABSOLUTE, out)


def huber_loss(object pred, object target, object delta_, object sample_weight, bint mean):
    """Compute ``functional.huber_loss``."""
    cdef double delta = real_number(delta_, "delta")
    if not 0.0 < delta < INFINITY:
        raise ValueError(f"delta should be finite and > 0, but got {delta}")
    return pairs(pred, target, LOSS_HUBER, delta, sample_weight, mean)


def huber_loss_backward(object dloss, PairsSaved saved, object out):
    """Compute ``functional.huber_loss_backward``."""
    return pairs_backward(dloss, saved, LOSS_HUBER, out)


def binary_cross_entropy_with_logits(object pred, object target, object sample_weight, bint mean):
    """Compute ``functional.binary_cross_entropy_with_logits``."""
    return pairs(pred, target, LOSS_LOGISTIC, 0.0, sample_weight, mean)


def binary_cross_entropy_with_logits_backward(object dloss, PairsSaved saved, object out):
    """Compute ``functional.binary_cross_entropy_with_logits_backward``."""
    return pairs_backward(dloss, saved, LOSS_LOGISTIC, out)
