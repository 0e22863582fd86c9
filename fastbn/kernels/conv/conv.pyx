"""Two-dimensional convolution, channels-last: products on the tile kernels of kernels/matmul.

rows        what forward and dx share: how a window is read, what is copied      conv_rows.pxi
forward     rows are output pixels, columns output channels                      conv_forward.pxi
dx          rows are input pixels, columns input channels; the taps that reach a pixel depend on
            its position modulo the stride, so that each such phase is a product of its own
                                                                                 conv_backward.pxi
dweight     rows are (tap, input channel), columns output channels, the sum runs over output
            pixels; long sums are cut into chunks of pixels, added up in their order
                                                                                 conv_weights.pxi
3x3         all three with 36 products instead of 144, or 16 instead of 36    conv_winograd.pxi
depthwise   all three without products, narrow groups too                      conv_depthwise.pxi
transposed  the same three in other roles                                      conv_transpose.pxi

conv_ways.pxi chooses. Cuts come from the shapes alone: threads never change a result.
"""

from cython cimport floating
from libc.stdint cimport int64_t
from libc.string cimport memcpy, memset

cimport numpy as cnp

from fastbn.kernels.add cimport MOST_TERMS, add_simd
from fastbn.kernels.arguments cimport (
    MOST_SIZE, arrays_t, check_arrays, check_filled, check_vector, data, dense, output, output_of,
    product_element, reads, weight_of, whole_number, whole_pair, writes,
)
from fastbn.kernels.batchnorm cimport TILE, batchnorm_simd
from fastbn.kernels.matmul cimport (
    DOT_COLUMNS, ahead_t, column_sums, matmul_simd, matmul_simd_t,
)
from fastbn.kernels.runtime cimport is_far, isa_level, run_tasks, scratch, team

import numpy as np

cnp.import_array()

cdef enum:
    MOST_TILES = 32      # of rows in a task, fewer where its pixels leave the second-level cache
    FEWEST_TILES = 8
    BLOCK_BYTES = 327680
    PANEL_BYTES = 24576  # of the part of a panel that a chunk of the window needs, at most
    DOT_RUN = 1          # few columns are made by dot_rows if a run of the window is so many panels
    PIXELS = 224         # output pixels that dweight's tiles run through at a time, at most
    GROUP = 16           # tiles that run through the same pixels for one panel after the other
    FEW_TILES = 4        # of dweight's rows, for which several panels of dy need not be copied
    AHEAD_BYTES = 196608  # of a block of dweight at most, if the next one is fetched meanwhile
    CHUNK_PIXELS = 384   # of a chunk of dweight, at least
    MOST_CHUNKS = 16
    FEWEST_TASKS = 8     # of dweight: fewer chunks are cut into pieces of its rows
    DEPTH_ROWS = 4       # rows of a task of a depthwise convolution
    NARROW = 4           # channels of a group that is treated likewise, at most
    TURN_GAP = 32        # elements between its turned copies, for other lines of the first cache
    PARTIAL_BYTES = 8388608
    SLICE = 4096         # numbers of a task that adds up what chunks have come to


cdef inline const conv_simd_t *conv_simd(int element) noexcept nogil:
    return conv_table(isa_level(), element)


cdef struct conv_t:
    int64_t N, H, W, C, OH, OW, K, kh, kw, sh, sw, ph, pw, dh, dw, groups
    int element, itemsize


include "moments.pxi"
include "rows.pxi"
include "forward.pxi"
include "backward.pxi"
include "weights.pxi"
include "winograd.pxi"
include "winograd_weights.pxi"
include "depthwise.pxi"


# ---- arguments are checked, arrays go in and out ----

cdef class Saved:
    """What backward needs: x, weight and bias themselves, and the geometry."""

    cdef readonly object x, weight, bias
    cdef readonly tuple output_shape
    cdef conv_t v


cdef class ConvSaved(Saved):
    """Of `forward`."""

    cdef readonly object moments  # of y: count, mean, m2; None if not asked for


cdef int check_sides(int64_t height, int64_t width, str what) except -1:
    """So that products of two of what is about as large fit int64."""
    if max(height, width) > MOST_SIZE:
        raise ValueError(f"{what}: sides of more than {MOST_SIZE} are not supported, got "
                         f"{(height, width)}")
    return 0


cdef int pads(conv_t *v, object padding) except -1:
    """Padding before and the output's size; "same" pads more behind where it is odd."""
    cdef int64_t reach_h, reach_w, after_h, after_w
    check_sides(v.H, v.W, "x")
    check_sides(v.kh, v.kw, "weight")
    reach_h, reach_w = v.dh * (v.kh - 1), v.dw * (v.kw - 1)
    if padding == "valid":
        v.ph = v.pw = after_h = after_w = 0
    elif padding == "same":
        if v.sh != 1 or v.sw != 1:
            raise ValueError("padding='same' is not supported for strided convolutions")
        v.ph, v.pw = reach_h // 2, reach_w // 2
        after_h, after_w = reach_h - v.ph, reach_w - v.pw
    elif isinstance(padding, str):
        raise ValueError(f"padding should be an int, a pair, 'same' or 'valid', got {padding!r}")
    else:
        whole_pair(padding, "padding", 0, &v.ph, &v.pw)
        after_h, after_w = v.ph, v.pw
    if v.H + v.ph + after_h <= reach_h or v.W + v.pw + after_w <= reach_w:
        raise ValueError(
            f"Calculated padded input size per channel: ({v.H + v.ph + after_h} x "
            f"{v.W + v.pw + after_w}). Kernel size: ({reach_h + 1} x {reach_w + 1}). Kernel size "
            "can't be greater than actual input size")
    v.OH = (v.H + v.ph + after_h - reach_h - 1) // v.sh + 1
    v.OW = (v.W + v.pw + after_w - reach_w - 1) // v.sw + 1
    check_sides(v.OH, v.OW, "y")
    return 0


cdef int strides_of(cnp.ndarray w, int64_t *strides) except -1:
    cdef int i
    for i in range(4):
        strides[i] = cnp.PyArray_STRIDE(w, i) // cnp.PyArray_ITEMSIZE(w)
    return 0


cdef cnp.ndarray images_of(object x_, conv_t *v):
    """x, an array of images, whose element type v gets."""
    cdef cnp.ndarray x = dense(x_, "x")
    v.element = product_element(x, "x")
    v.itemsize = cnp.PyArray_ITEMSIZE(x)
    if cnp.PyArray_NDIM(x) != 4:
        raise ValueError(f"expected 4D input (N, H, W, C), got {cnp.PyArray_NDIM(x)}D input")
    return x


cdef cnp.ndarray filters_of(object weight, cnp.ndarray x, object groups, conv_t *v):
    """weight, whose window and groups v gets."""
    cdef cnp.ndarray w = weight_of(weight, x, "weight", 4)
    v.kh, v.kw = w.shape[2], w.shape[3]
    v.groups = whole_number(groups, "groups", 1)
    return w


cdef cnp.ndarray result_of(object out, tuple shape, cnp.ndarray x, cnp.ndarray w, object bias):
    """Where y goes: a new array, or out."""
    cdef cnp.npy_intp sizes[4]
    cdef cnp.ndarray y
    cdef arrays_t a
    cdef int i
    for i in range(4):
        sizes[i] = shape[i]
    y = output_of(out, 4, sizes, cnp.PyArray_TYPE(x), "out")
    a.count = 0
    writes(&a, y, b"out")
    reads(&a, x, b"x")
    reads(&a, w, b"weight")
    reads(&a, bias, b"bias")
    check_arrays(&a)
    return y


cdef int keep(Saved saved, cnp.ndarray x, cnp.ndarray w, object bias, tuple output_shape,
              const conv_t *v) except -1:
    saved.x, saved.weight, saved.bias, saved.output_shape = x, w, bias, output_shape
    saved.v = v[0]
    return 0


def forward(object x_, object weight, object bias, object stride, object padding, object dilation,
            object groups_, object out, bint moments):
    """Check the arguments of ``functional.conv2d``, then compute it."""
    cdef conv_t v
    cdef cnp.ndarray x = images_of(x_, &v), w = filters_of(weight, x, groups_, &v), y, sums
    cdef int64_t groups = v.groups
    cdef int64_t strides[4]
    cdef cnp.npy_intp shape[2]
    cdef ConvSaved saved = ConvSaved.__new__(ConvSaved)
    cdef const char *bias_data
    cdef double *sums_data = NULL
    cdef int status = 0
    v.N, v.H, v.W, v.C, v.K = x.shape[0], x.shape[1], x.shape[2], x.shape[3], w.shape[0]
    if min(v.K, w.shape[1], v.kh, v.kw) < 1:
        raise ValueError(f"weight: no side may be 0, got shape {np.shape(w)}")
    if v.K % groups:
        raise ValueError(f"weight: {v.K} output channels are not divisible by groups={groups}")
    if v.C % groups or v.C // groups != w.shape[1]:
        raise ValueError(f"given groups={groups}, weight of shape {np.shape(w)}, expected an input "
                         f"of {w.shape[1] * groups} channels, got shape {np.shape(x)}")
    whole_pair(stride, "stride", 1, &v.sh, &v.sw)
    whole_pair(dilation, "dilation", 1, &v.dh, &v.dw)
    pads(&v, padding)
    check_vector(bias, "bias", v.K, cnp.PyArray_TYPE(x))
    y = result_of(out, (v.N, v.OH, v.OW, v.K), x, w, bias)
    keep(saved, x, w, bias, (v.N, v.OH, v.OW, v.K), &v)
    strides_of(w, strides)
    bias_data = <char *>data(bias)
    if moments:
        if v.N * v.OH * v.OW < 1:
            raise ValueError(f"moments need a value per channel, got input size {np.shape(x)}")
        shape[0], shape[1] = 2, v.K
        sums = cnp.PyArray_EMPTY(2, shape, cnp.NPY_FLOAT64, 0)
        sums_data = <double *>cnp.PyArray_DATA(sums)
    if v.N:
        with nogil:
            status = run_forward(&v, cnp.PyArray_BYTES(x), cnp.PyArray_BYTES(w), strides,
                                 bias_data, cnp.PyArray_BYTES(y), sums_data)
    if status:
        raise MemoryError
    if moments:
        saved.moments = (v.N * v.OH * v.OW, sums[0], sums[1])
    return y, saved


def backward(object dy_, ConvSaved saved not None, bint need_dx, bint need_dweight, bint need_dbias,
             object out, object dweight, object dbias):
    """Check the arguments of ``functional.conv2d_backward``, then compute it."""
    return gradients(dy_, saved, False, need_dx, need_dweight, need_dbias, out, dweight, dbias)


cdef tuple gradients(object dy_, Saved saved, bint transposed, bint need_dx, bint need_dweight,
                     bint need_dbias, object out, object dweight, object dbias):
    """dx, dweight, dbias of a convolution or a transposed one, after checks."""
    check_filled(saved.x, "conv_transpose2d" if transposed else "conv2d")
    cdef cnp.ndarray x = saved.x, w = saved.weight, dy = dense(dy_, "dy"), store = None
    cdef object dx = None, dw = None, db = None
    cdef conv_t v = saved.v
    cdef int64_t strides[4]
    cdef int status = 0
    cdef arrays_t a
    if cnp.PyArray_TYPE(dy) != cnp.PyArray_TYPE(x):
        raise TypeError(f"dy: expected {x.dtype}, got {dy.dtype}")
    if (<object>dy).shape != saved.output_shape:
        raise ValueError(f"dy: expected shape {saved.output_shape}, got {np.shape(dy)}")
    if need_dx:
        dx = output(out, x, "out")
    if need_dweight:
        dw, store = gradient_like(dweight, w)
    if need_dbias and saved.bias is not None:
        db = output(dbias, saved.bias, "dbias")
    a.count = 0
    writes(&a, dx, b"out")
    writes(&a, dw, b"dweight")
    writes(&a, db, b"dbias")
    reads(&a, dy, b"dy")
    reads(&a, x, b"x")
    reads(&a, w, b"weight")
    check_arrays(&a)
    strides_of(w, strides)
    if v.N == 0:
        if need_dweight:
            dw[...] = 0
        if db is not None:
            db[...] = 0
        return dx, dw, db
    if need_dx:
        with nogil:
            if transposed:
                status = run_forward(&v, cnp.PyArray_BYTES(dy), cnp.PyArray_BYTES(w), strides, NULL,
                                     cnp.PyArray_BYTES(<cnp.ndarray>dx), NULL)
            else:
                status = run_backward(&v, cnp.PyArray_BYTES(dy), cnp.PyArray_BYTES(w), strides,
                                      NULL, cnp.PyArray_BYTES(<cnp.ndarray>dx))
    if need_dweight and not status:
        with nogil:
            if transposed:
                status = run_weights(&v, cnp.PyArray_BYTES(dy), cnp.PyArray_BYTES(x),
                                     cnp.PyArray_BYTES(store))
            else:
                status = run_weights(&v, cnp.PyArray_BYTES(x), cnp.PyArray_BYTES(dy),
                                     cnp.PyArray_BYTES(store))
        if not cnp.PyArray_BYTES(store) == cnp.PyArray_BYTES(<cnp.ndarray>dw):
            dw[...] = np.transpose(store, (3, 2, 0, 1))
    if status:
        raise MemoryError
    if db is not None:
        with nogil:
            column_sums(cnp.PyArray_BYTES(dy), dy.shape[0] * dy.shape[1] * dy.shape[2],
                        dy.shape[3], v.element, v.itemsize, cnp.PyArray_DATA(<cnp.ndarray>db))
    return dx, dw, db


cdef tuple gradient_like(object destination, cnp.ndarray w):
    """dweight (O, I, kh, kw), and the dense (kh, kw, I, O) storage it is computed in."""
    O, I, kh, kw = np.shape(w)
    if destination is None:
        store = np.empty((kh, kw, I, O), dtype=w.dtype)
        return store.transpose(3, 2, 0, 1), store
    if not isinstance(destination, cnp.ndarray):
        raise TypeError(f"dweight: expected a numpy.ndarray, got {type(destination).__name__}")
    if destination.dtype != w.dtype:
        raise TypeError(f"dweight: expected {w.dtype}, got {destination.dtype}")
    if destination.shape != (O, I, kh, kw):
        raise ValueError(f"dweight: expected shape {(O, I, kh, kw)}, got {destination.shape}")
    if not destination.flags.writeable:
        raise ValueError("dweight is read-only")
    view = destination.transpose(2, 3, 1, 0)
    if view.flags.c_contiguous and view.flags.aligned:
        return destination, view
    return destination, np.empty((kh, kw, I, O), dtype=w.dtype)


include "algorithms.pxi"
include "transpose.pxi"
