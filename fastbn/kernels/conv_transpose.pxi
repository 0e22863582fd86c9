# The transpose of a convolution: its forward is conv2d's dx, its dx is conv2d's forward, and dweight
# is conv2d's with x and dy exchanged. Geometry is that of the convolution from y to x: v.C channels
# of y, v.K of x.

cdef class ConvTransposeSaved:
    """What backward needs: x, weight and bias themselves, and the geometry."""

    cdef readonly object x, weight, bias
    cdef readonly tuple output_shape
    cdef conv_t v


cdef int64_t transposed_size(int64_t size, int64_t stride, int64_t padding, int64_t dilation,
                             int64_t kernel, int64_t more) noexcept:
    return (size - 1) * stride - 2 * padding + dilation * (kernel - 1) + more + 1


def transpose_forward(object x_, object weight, object bias, object stride, object padding,
                      object output_padding, int64_t groups, object dilation, object out):
    """Check the arguments of ``functional.conv_transpose2d``, then compute it."""
    cdef cnp.ndarray x = dense(x_, "x"), w, y
    cdef int64_t strides[4]
    cdef cnp.npy_intp shape[4]
    cdef int64_t more_h, more_w
    cdef conv_t v
    cdef ConvTransposeSaved saved
    cdef const char *bias_data
    cdef int status = 0
    v.element = product_element(x, "x")
    v.itemsize = cnp.PyArray_ITEMSIZE(x)
    if cnp.PyArray_NDIM(x) != 4:
        raise ValueError(f"expected 4D input (N, H, W, C), got {cnp.PyArray_NDIM(x)}D input")
    w = weight_of(weight, x, "weight", 4)
    v.N, v.OH, v.OW, v.K = x.shape[0], x.shape[1], x.shape[2], x.shape[3]
    v.kh, v.kw = w.shape[2], w.shape[3]
    v.groups = groups
    if groups < 1:
        raise ValueError(f"groups should be at least 1, got {groups}")
    if min(w.shape[1], v.kh, v.kw) < 1:
        raise ValueError(f"weight: no side may be 0, got shape {np.shape(w)}")
    if v.K % groups or v.K < 1:
        raise ValueError(f"x: {v.K} channels are not divisible by groups={groups}")
    if v.K != w.shape[0]:
        raise ValueError(f"given weight of shape {np.shape(w)}, expected an input of "
                         f"{w.shape[0]} channels, got shape {np.shape(x)}")
    v.C = w.shape[1] * groups
    v.sh, v.sw = pair(stride, "stride", 1)
    v.dh, v.dw = pair(dilation, "dilation", 1)
    v.ph, v.pw = pair(padding, "padding", 0)
    more_h, more_w = pair(output_padding, "output_padding", 0)
    if more_h >= max(v.sh, v.dh) or more_w >= max(v.sw, v.dw):
        raise ValueError("output padding must be smaller than either stride or dilation, but got "
                         f"output_padding={(more_h, more_w)}, stride={(v.sh, v.sw)}, "
                         f"dilation={(v.dh, v.dw)}")
    if min(v.OH, v.OW) < 1:
        raise ValueError(f"x: expected images of at least one pixel, got shape {np.shape(x)}")
    v.H = transposed_size(v.OH, v.sh, v.ph, v.dh, v.kh, more_h)
    v.W = transposed_size(v.OW, v.sw, v.pw, v.dw, v.kw, more_w)
    if min(v.H, v.W) < 1:
        raise ValueError(f"Given input size per channel: ({v.OH} x {v.OW}). Calculated output size "
                         f"per channel: ({v.H} x {v.W}). Output size is too small")
    check_vector(bias, "bias", v.C, cnp.PyArray_TYPE(x))
    shape[0], shape[1], shape[2], shape[3] = v.N, v.H, v.W, v.C
    if out is None:
        y = cnp.PyArray_EMPTY(4, shape, cnp.PyArray_TYPE(x), 0)
    else:
        y = output_of(out, 4, shape, cnp.PyArray_TYPE(x), "out")
        if overlaps(y, x) or overlaps(y, w):
            raise ValueError("out must overlap neither x nor weight")
    strides_of(w, strides)
    bias_data = <char *>data(bias)
    if v.N:
        with nogil:
            status = run_backward(&v, cnp.PyArray_BYTES(x), cnp.PyArray_BYTES(w), strides,
                                  bias_data, cnp.PyArray_BYTES(y))
    if status:
        raise MemoryError
    saved = ConvTransposeSaved.__new__(ConvTransposeSaved)
    saved.x, saved.weight, saved.bias, saved.v = x, w, bias, v
    saved.output_shape = (v.N, v.H, v.W, v.C)
    return y, saved


def transpose_backward(object dy_, ConvTransposeSaved saved, bint need_dx, bint need_dweight,
                       bint need_dbias, object out, object dweight, object dbias):
    """Check the arguments of ``functional.conv_transpose2d_backward``, then compute it."""
    cdef cnp.ndarray x = saved.x, w = saved.weight, dy = dense(dy_, "dy"), store = None
    cdef object dx = None, dw = None, db = None
    cdef conv_t v = saved.v
    cdef int64_t strides[4]
    cdef int status = 0
    if cnp.PyArray_TYPE(dy) != cnp.PyArray_TYPE(x):
        raise TypeError(f"dy: expected {x.dtype}, got {dy.dtype}")
    if (<object>dy).shape != saved.output_shape:
        raise ValueError(f"dy: expected shape {saved.output_shape}, got {np.shape(dy)}")
    if need_dx:
        dx = output(out, x, "out")
        if overlaps(dx, dy) or overlaps(dx, x):
            raise ValueError("out must overlap neither dy nor x")
    if need_dweight:
        dw, store = gradient_like(dweight, w)
    if need_dbias and saved.bias is not None:
        db = output(dbias, saved.bias, "dbias")
    strides_of(w, strides)
    if v.N == 0:
        if need_dweight:
            dw[...] = 0
        if db is not None:
            db[...] = 0
        return dx, dw, db
    if need_dx:
        with nogil:
            status = run_forward(&v, cnp.PyArray_BYTES(dy), cnp.PyArray_BYTES(w), strides, NULL,
                                 cnp.PyArray_BYTES(<cnp.ndarray>dx), NULL)
    if need_dweight and not status:
        with nogil:
            status = run_weights(&v, cnp.PyArray_BYTES(dy), cnp.PyArray_BYTES(x),
                                 cnp.PyArray_BYTES(store))
        if not cnp.PyArray_BYTES(store) == cnp.PyArray_BYTES(<cnp.ndarray>dw):
            dw[...] = np.transpose(store, (3, 2, 0, 1))
    if status:
        raise MemoryError
    if db is not None:
        with nogil:
            column_sums(cnp.PyArray_BYTES(dy), v.N * v.H * v.W, v.C, v.element, v.itemsize,
                        cnp.PyArray_DATA(<cnp.ndarray>db))
    return dx, dw, db
