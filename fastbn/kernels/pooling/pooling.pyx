"""Pooling of channels-last images, forward and backward: who does what.

Rows of pixels are shared by the threads: rows of y in forward, rows of dx in backward, to which the
windows that see them add in one order. So each value is written by one thread and is the same for
every number of threads. Loops over windows and numbers are in loops.h.
"""

from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Malloc
from libc.stdint cimport int32_t, int64_t
from libc.string cimport memset

cimport numpy as cnp

from fastbn.kernels.arguments cimport (
    MOST_SIZE, check_apart, check_filled, check_is, check_size, data, dense, float_of, output_of,
    whole_pair,
)
from fastbn.kernels.runtime cimport isa_level, run_tasks, scratch, streams, team

cnp.import_array()

cdef extern from "common/rounding.h" nogil:
    void store_fence()

cdef enum:
    CHUNK_BYTES = 65536  # of input that a chunk of rows is about
    TILE = 512           # channels


cdef inline const pooling_simd_t *pooling_simd(int element) noexcept nogil:
    return pooling_table(isa_level(), element)


# ---- windows ----

cdef class PoolSaved:
    """What backward needs: the shapes, and the tap that won for every value of a maximum."""

    cdef readonly str operation
    cdef pool_t g
    cdef cnp.npy_intp x_shape[4]
    cdef cnp.npy_intp y_shape[4]
    cdef int element, typenum, itemsize
    cdef void *winners
    cdef int32_t *counts
    cdef int32_t *lists

    def __dealloc__(self):
        PyMem_Free(self.winners)
        PyMem_Free(self.counts)
        PyMem_Free(self.lists)


cdef int check_window(const pool_t *g) except -1:
    if g.kh <= 0 or g.kw <= 0:
        raise ValueError("kernel size should be greater than zero, but got "
                         f"kH: {g.kh} kW: {g.kw}")
    if g.sh <= 0 or g.sw <= 0:
        raise ValueError(f"stride should be greater than zero, but got dH: {g.sh} dW: {g.sw}")
    if g.dh <= 0 or g.dw <= 0:
        raise ValueError("dilation should be greater than zero, but got "
                         f"dilationH: {g.dh} dilationW: {g.dw}")
    if g.ph < 0 or g.pw < 0:
        raise ValueError(f"padding must be non-negative, but got padH: {g.ph} padW: {g.pw}")
    for p, k, d in ((g.ph, g.kh, g.dh), (g.pw, g.kw, g.dw)):
        if 2 * p > d * (k - 1) + 1:
            raise ValueError("pad should be at most half of effective kernel size, but got "
                             f"pad={p}, kernel_size={k} and dilation={d}")
    return 0


cdef int64_t windows(int64_t size, int64_t k, int64_t stride, int64_t padding, int64_t dilation,
                     bint ceil_mode) noexcept:
    """The number of windows along an axis, 0 where none fits."""
    cdef int64_t room = size + 2 * padding - dilation * (k - 1) - 1, count
    if ceil_mode:
        room += stride - 1
    if room < 0:
        return 0
    count = room // stride + 1
    if ceil_mode and (count - 1) * stride >= size + padding:
        count -= 1  # as in PyTorch: a window begins in the input or in front of it
    return count


cdef PoolSaved window_of(cnp.ndarray x, object kernel_size, object stride, object padding,
                         object dilation, bint ceil_mode, str operation):
    cdef PoolSaved saved = PoolSaved.__new__(PoolSaved)
    cdef pool_t *g = &saved.g
    cdef int i
    saved.element, saved.typenum = float_of(x, "x"), cnp.PyArray_TYPE(x)
    saved.itemsize = cnp.PyArray_ITEMSIZE(x)
    saved.operation = operation
    if cnp.PyArray_NDIM(x) != 4:
        raise ValueError(f"x: expected shape (N, H, W, C), got {(<object>x).shape}")
    whole_pair(kernel_size, "kernel_size", -MOST_SIZE, &g.kh, &g.kw)
    whole_pair(kernel_size if stride is None else stride, "stride", -MOST_SIZE, &g.sh, &g.sw)
    whole_pair(padding, "padding", -MOST_SIZE, &g.ph, &g.pw)
    whole_pair(dilation, "dilation", -MOST_SIZE, &g.dh, &g.dw)
    check_window(g)
    for i in range(4):
        saved.x_shape[i] = saved.y_shape[i] = cnp.PyArray_DIM(x, i)
    g.in_h, g.in_w, g.channels = saved.x_shape[1], saved.x_shape[2], saved.x_shape[3]
    if min(g.in_h, g.in_w) < 1:
        raise ValueError(f"x: expected at least one pixel, got shape {(<object>x).shape}")
    if max(g.in_h, g.in_w) >= MOST_SIZE:
        raise ValueError(f"x is too large for pooling: shape {(<object>x).shape}")
    g.out_h = windows(g.in_h, g.kh, g.sh, g.ph, g.dh, ceil_mode)
    g.out_w = windows(g.in_w, g.kw, g.sw, g.pw, g.dw, ceil_mode)
    if g.out_h == 0 or g.out_w == 0:
        raise ValueError(f"Given input size: ({g.channels}x{g.in_h}x{g.in_w}). Calculated output "
                         f"size: ({g.channels}x{g.out_h}x{g.out_w}). Output size is too small")
    if max(<double>g.out_h * g.kh, <double>g.out_w, <double>g.kh * g.kw) >= MOST_SIZE:
        raise ValueError(f"x is too large for such windows: shape {(<object>x).shape}, kernel size "
                         f"{(g.kh, g.kw)}")
    check_size(<double>saved.x_shape[0] * g.out_h * g.out_w * g.channels, "y")
    saved.y_shape[1], saved.y_shape[2] = g.out_h, g.out_w
    g.wide = g.kh * g.kw >= NARROW_TAPS
    return saved


cdef void count_places(int32_t *count, int64_t size, int64_t outs, int64_t taps, int64_t stride,
                       int64_t padding, bint include_pad) noexcept:
    """How many of the places of each window along an axis a mean divides by."""
    cdef int64_t margin = padding if include_pad else 0, o, start
    for o in range(outs):
        start = o * stride - padding
        count[o] = <int32_t>(min(start + taps, size + margin) - max(start, -margin))


cdef void list_rows(int32_t *first, int32_t *out, int32_t *tap, const pool_t *g) noexcept:
    """Which windows see each row of x; `first` is zero."""
    cdef int64_t o, k, i
    for o in range(g.out_h):
        for k in range(g.kh):
            i = o * g.sh - g.ph + k * g.dh
            if 0 <= i < g.in_h:
                first[i + 1] += 1
    for i in range(g.in_h):
        first[i + 1] += first[i]
    for o in range(g.out_h):  # first[i] moves to the end of i's windows, where i + 1's begin
        for k in range(g.kh):
            i = o * g.sh - g.ph + k * g.dh
            if 0 <= i < g.in_h:
                out[first[i]], tap[first[i]] = <int32_t>o, <int32_t>k
                first[i] += 1
    for i in range(g.in_h, 0, -1):
        first[i] = first[i - 1]
    first[0] = 0


cdef int build_counts(PoolSaved saved, bint include_pad) except -1:
    cdef pool_t *g = &saved.g
    saved.counts = <int32_t *>PyMem_Malloc((g.out_h + g.out_w) * sizeof(int32_t))
    if saved.counts == NULL:
        raise MemoryError
    g.row_count, g.column_count = saved.counts, saved.counts + g.out_h
    count_places(saved.counts, g.in_h, g.out_h, g.kh, g.sh, g.ph, include_pad)
    count_places(saved.counts + g.out_h, g.in_w, g.out_w, g.kw, g.sw, g.pw, include_pad)
    return 0


cdef int build_lists(PoolSaved saved) except -1:
    cdef pool_t *g = &saved.g
    cdef int64_t pairs = g.out_h * g.kh
    if saved.lists != NULL:
        return 0
    saved.lists = <int32_t *>PyMem_Calloc(g.in_h + 1 + 2 * pairs, sizeof(int32_t))
    if saved.lists == NULL:
        raise MemoryError
    g.first = saved.lists
    g.out = saved.lists + g.in_h + 1
    g.tap = saved.lists + g.in_h + 1 + pairs
    list_rows(saved.lists, saved.lists + g.in_h + 1, saved.lists + g.in_h + 1 + pairs, g)
    return 0


# ---- rows ----

cdef struct work_t:
    const pool_t *g
    const pooling_simd_t *simd
    const char *x        # or dy
    char *y              # or dx
    char *winners        # NULL: a mean
    bint backward
    bint stream
    int64_t rows         # of all images: those of y, or of dx
    int64_t rows_each
    int64_t step         # rows in a chunk
    int64_t x_image, y_row, winners_image, winners_row  # bytes


cdef void run_chunk(const void *job, int64_t chunk) noexcept nogil:
    cdef const work_t *w = <const work_t *>job
    cdef int64_t k, n, row
    cdef const char *x
    cdef char *y
    cdef char *near = <char *>scratch(3, w.y_row) if w.stream else NULL
    for k in range(chunk * w.step, min(w.rows, (chunk + 1) * w.step)):
        n = k // w.rows_each
        row = k - n * w.rows_each
        x = w.x + n * w.x_image
        y = w.y + k * w.y_row
        if not w.backward:
            if w.winners == NULL:
                w.simd.avg_row(w.g, x, y, row)
            else:
                w.simd.max_row(w.g, x, y, w.winners + k * w.winners_row, row)
            continue
        # What is added to stays in the cache, and leaves it once.
        if near != NULL:
            y = near
        memset(y, 0, w.y_row)
        if w.winners == NULL:
            w.simd.avg_grad_row(w.g, x, y, row)
        else:
            w.simd.max_grad_row(w.g, x, w.winners + n * w.winners_image, y, row)
        if near != NULL:
            w.simd.stream_copy(near, w.y + k * w.y_row, w.y_row)
    if near != NULL:
        store_fence()


cdef void run(PoolSaved saved, cnp.ndarray x, cnp.ndarray y, bint backward) noexcept:
    """Forward, or with dy and dx backward, over all rows."""
    cdef pool_t *g = &saved.g
    cdef work_t w
    cdef int64_t in_row = g.in_w * g.channels * saved.itemsize
    cdef int64_t out_row = g.out_w * g.channels * saved.itemsize
    cdef int64_t winners_size = 4 if g.wide else 1
    cdef double nbytes = <double>cnp.PyArray_NBYTES(x) + cnp.PyArray_NBYTES(y)
    cdef int threads = team(nbytes)
    if cnp.PyArray_SIZE(y) == 0:
        return
    w.g, w.simd, w.backward = g, pooling_simd(saved.element), backward
    w.x, w.y, w.winners = <char *>data(x), <char *>data(y), <char *>saved.winners
    w.rows_each = g.in_h if backward else g.out_h
    w.rows = saved.x_shape[0] * w.rows_each
    w.x_image = out_row * g.out_h if backward else in_row * g.in_h
    w.y_row = in_row if backward else out_row
    w.winners_row = g.out_w * g.channels * winners_size
    w.winners_image = w.winners_row * g.out_h
    w.step = max(1, CHUNK_BYTES // (in_row if backward else in_row * min(g.sh, g.in_h)))
    w.stream = backward and streams(<double>cnp.PyArray_NBYTES(y), 2)
    with nogil:
        run_tasks(run_chunk, &w, (w.rows + w.step - 1) // w.step, threads)


cdef tuple forward(cnp.ndarray x, PoolSaved saved, object out):
    cdef cnp.ndarray y = output_of(out, 4, saved.y_shape, saved.typenum, "out")
    if out is not None:
        check_apart(y, x, "x", False)
    run(saved, x, y, False)
    return y, saved


cdef cnp.ndarray backward(object dy_, PoolSaved saved, str operation, object out):
    if saved is None or saved.operation != operation:
        raise TypeError(f"saved is not what {operation} returned")
    cdef cnp.ndarray dy = dense(dy_, "dy"), dx
    check_is(dy, 4, saved.y_shape, saved.typenum, "dy")
    dx = output_of(out, 4, saved.x_shape, saved.typenum, "out")
    if out is not None:
        check_apart(dx, dy, "dy", False)
    build_lists(saved)
    run(saved, dy, dx, True)
    return dx


def max_pool2d(object x_, object kernel_size, object stride, object padding, object dilation,
               bint ceil_mode, object out):
    """Compute ``functional.max_pool2d``."""
    cdef cnp.ndarray x = dense(x_, "x")
    cdef PoolSaved saved = window_of(x, kernel_size, stride, padding, dilation, ceil_mode,
                                     "max_pool2d")
    cdef int64_t size = (saved.x_shape[0] * saved.g.out_h * saved.g.out_w * saved.g.channels
                         * (4 if saved.g.wide else 1))
    saved.winners = PyMem_Malloc(max(1, size))
    if saved.winners == NULL:
        raise MemoryError
    return forward(x, saved, out)


def max_pool2d_backward(object dy, PoolSaved saved, object out):
    """Compute ``functional.max_pool2d_backward``."""
    return backward(dy, saved, "max_pool2d", out)


def avg_pool2d(object x_, object kernel_size, object stride, object padding, bint ceil_mode,
               bint count_include_pad, object out):
    """Compute ``functional.avg_pool2d``."""
    cdef cnp.ndarray x = dense(x_, "x")
    cdef PoolSaved saved = window_of(x, kernel_size, stride, padding, 1, ceil_mode, "avg_pool2d")
    build_counts(saved, count_include_pad)
    return forward(x, saved, out)


def avg_pool2d_backward(object dy, PoolSaved saved, object out):
    """Compute ``functional.avg_pool2d_backward``."""
    return backward(dy, saved, "avg_pool2d", out)


# ---- all pixels ----

cdef class GlobalAvgPoolSaved:
    """What backward needs: the shape of x."""

    cdef cnp.npy_intp x_shape[4]
    cdef int element, typenum, itemsize


cdef struct image_t:
    const pooling_simd_t *simd
    const char *x       # or dy
    char *y             # or dx
    int64_t pixels, channels, itemsize
    int64_t pieces      # of an image: of channels in forward, of pixels in backward
    int64_t piece
    bint stream


cdef void means_piece(const void *job, int64_t k) noexcept nogil:
    cdef const image_t *w = <const image_t *>job
    cdef int64_t n = k // w.pieces
    cdef int64_t c = (k - n * w.pieces) * w.piece
    w.simd.pixel_means(w.x + (n * w.pixels * w.channels + c) * w.itemsize,
                       w.y + (n * w.channels + c) * w.itemsize, w.pixels,
                       min(w.piece, w.channels - c), w.channels)


cdef void shares_piece(const void *job, int64_t k) noexcept nogil:
    cdef const image_t *w = <const image_t *>job
    cdef int64_t n = k // w.pieces
    cdef int64_t pixel = (k - n * w.pieces) * w.piece
    w.simd.pixel_shares(w.x + n * w.channels * w.itemsize,
                        w.y + (n * w.pixels + pixel) * w.channels * w.itemsize,
                        min(w.piece, w.pixels - pixel), w.channels, w.pixels, w.stream)
    if w.stream:
        store_fence()


def global_avg_pool2d(object x_, object out):
    """Compute ``functional.global_avg_pool2d``."""
    cdef cnp.ndarray x = dense(x_, "x"), y
    cdef GlobalAvgPoolSaved saved = GlobalAvgPoolSaved.__new__(GlobalAvgPoolSaved)
    cdef cnp.npy_intp y_shape[2]
    cdef image_t w
    cdef int i, threads = team(<double>cnp.PyArray_NBYTES(x))
    saved.element, saved.typenum = float_of(x, "x"), cnp.PyArray_TYPE(x)
    saved.itemsize = cnp.PyArray_ITEMSIZE(x)
    if cnp.PyArray_NDIM(x) != 4:
        raise ValueError(f"x: expected shape (N, H, W, C), got {x_.shape}")
    for i in range(4):
        saved.x_shape[i] = cnp.PyArray_DIM(x, i)
    if saved.x_shape[1] == 0 or saved.x_shape[2] == 0:
        raise ValueError(f"x: expected at least one pixel, got shape {x_.shape}")
    y_shape[0], y_shape[1] = saved.x_shape[0], saved.x_shape[3]
    y = output_of(out, 2, y_shape, saved.typenum, "out")
    if out is not None:
        check_apart(y, x, "x", False)
    w.simd, w.itemsize = pooling_simd(saved.element), saved.itemsize
    w.x, w.y, w.stream = <char *>data(x), <char *>data(y), False
    w.pixels, w.channels = saved.x_shape[1] * saved.x_shape[2], saved.x_shape[3]
    w.piece = TILE
    w.pieces = (w.channels + w.piece - 1) // w.piece
    with nogil:
        run_tasks(means_piece, &w, saved.x_shape[0] * w.pieces, threads)
    return y, saved


def global_avg_pool2d_backward(object dy_, GlobalAvgPoolSaved saved not None, object out):
    """Compute ``functional.global_avg_pool2d_backward``."""
    if saved.itemsize == 0:
        check_filled(None, "global_avg_pool2d")
    cdef cnp.ndarray dy = dense(dy_, "dy"), dx
    cdef cnp.npy_intp y_shape[2]
    cdef image_t w
    cdef int threads
    y_shape[0], y_shape[1] = saved.x_shape[0], saved.x_shape[3]
    check_is(dy, 2, y_shape, saved.typenum, "dy")
    dx = output_of(out, 4, saved.x_shape, saved.typenum, "out")
    if out is not None:
        check_apart(dx, dy, "dy", False)
    if cnp.PyArray_SIZE(dx) == 0:
        return dx
    threads = team(<double>cnp.PyArray_NBYTES(dx))
    w.simd, w.itemsize = pooling_simd(saved.element), saved.itemsize
    w.x, w.y = <char *>data(dy), <char *>data(dx)
    w.stream = streams(<double>cnp.PyArray_NBYTES(dx), 2)
    w.pixels, w.channels = saved.x_shape[1] * saved.x_shape[2], saved.x_shape[3]
    w.piece = max(1, CHUNK_BYTES // (w.channels * w.itemsize))
    w.pieces = (w.pixels + w.piece - 1) // w.piece
    with nogil:
        run_tasks(shares_piece, &w, saved.x_shape[0] * w.pieces, threads)
    return dx
