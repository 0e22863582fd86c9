# The transpose of a convolution: its forward is conv2d's dx, its dx is conv2d's forward, and
# dweight is conv2d's with x and dy exchanged. Geometry is that of the convolution from y to x: v.C
# channels of y, v.K of x.

cdef class ConvTransposeSaved(Saved):
    """Of `transpose_forward`."""


cdef int64_t transposed_size(int64_t size, int64_t stride, int64_t padding, int64_t dilation,
                             int64_t kernel, int64_t more) noexcept:
    return (size - 1) * stride - 2 * padding + dilation * (kernel - 1) + more + 1


def transpose_forward(object x_, object weight, object bias, object stride, object padding,
                      object output_padding, object groups_, object dilation, object out):
    """Check the arguments of ``functional.conv_transpose2d``, then compute it."""
    cdef conv_t v
    cdef cnp.ndarray x = images_of(x_, &v), w = filters_of(weight, x, groups_, &v), y
    cdef int64_t groups = v.groups
    cdef int64_t strides[4]
    cdef int64_t more_h, more_w
    cdef ConvTransposeSaved saved = ConvTransposeSaved.__new__(ConvTransposeSaved)
    cdef const char *bias_data
    cdef int status = 0
    v.N, v.OH, v.OW, v.K = x.shape[0], x.shape[1], x.shape[2], x.shape[3]
    if min(w.shape[1], v.kh, v.kw) < 1:
        raise ValueError(f"weight: no side may be 0, got shape {np.shape(w)}")
    if v.K % groups or v.K < 1:
        raise ValueError(f"x: {v.K} channels are not divisible by groups={groups}")
    if v.K != w.shape[0]:
        raise ValueError(f"given weight of shape {np.shape(w)}, expected an input of "
                         f"{w.shape[0]} channels, got shape {np.shape(x)}")
    v.C = w.shape[1] * groups
    whole_pair(stride, "stride", 1, &v.sh, &v.sw)
    whole_pair(dilation, "dilation", 1, &v.dh, &v.dw)
    whole_pair(padding, "padding", 0, &v.ph, &v.pw)
    whole_pair(output_padding, "output_padding", 0, &more_h, &more_w)
    check_sides(v.OH, v.OW, "x")
    check_sides(v.kh, v.kw, "weight")
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
    check_sides(v.H, v.W, "y")
    check_vector(bias, "bias", v.C, cnp.PyArray_TYPE(x))
    y = result_of(out, (v.N, v.H, v.W, v.C), x, w, bias)
    keep(saved, x, w, bias, (v.N, v.H, v.W, v.C), &v)
    strides_of(w, strides)
    bias_data = <char *>data(bias)
    if v.N:
        with nogil:
            status = run_backward(&v, cnp.PyArray_BYTES(x), cnp.PyArray_BYTES(w), strides,
                                  bias_data, cnp.PyArray_BYTES(y))
    if status:
        raise MemoryError
    return y, saved


def transpose_backward(object dy_, ConvTransposeSaved saved not None, bint need_dx,
                       bint need_dweight, bint need_dbias, object out, object dweight,
                       object dbias):
    """Check the arguments of ``functional.conv_transpose2d_backward``, then compute it."""
    return gradients(dy_, saved, True, need_dx, need_dweight, need_dbias, out, dweight, dbias)
