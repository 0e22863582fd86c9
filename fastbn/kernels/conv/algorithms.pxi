# Which algorithm a convolution takes: its shape alone decides (see conv.pyx).

cdef int run_forward(const conv_t *v, const char *x, const char *w, const int64_t *sw,
                     const char *bias, char *y, double *moments) noexcept nogil:
    cdef int status
    if is_depthwise(v):
        return depth_forward(v, x, w, sw, bias, y) or whole_moments(v, y, moments)
    if is_winograd(v):
        status = winograd_forward(v, x, w, sw, bias, y, moments)
        if status <= 0:
            return status
    return forward_rows(v, x, w, sw, bias, y, moments)


cdef int run_backward(const conv_t *v, const char *dy, const char *w, const int64_t *sw,
                      const char *bias, char *dx) noexcept nogil:
    cdef int status
    if is_depthwise(v):
        return depth_backward(v, dy, w, sw, bias, dx)
    if is_winograd(v):
        status = winograd_backward(v, dy, w, sw, bias, dx)
        if status <= 0:
            return status
    return backward_rows(v, dy, w, sw, bias, dx)


cdef int run_weights(const conv_t *v, const char *x, const char *dy, char *dweight) noexcept nogil:
    cdef int status
    if is_depthwise(v):
        return depth_weights(v, x, dy, dweight)
    if is_winograd(v):
        status = winograd_weights(v, x, dy, dweight)
        if status <= 0:
            return status
    return backward_weights(v, x, dy, dweight)


def algorithm(tuple x_shape, tuple weight_shape, object stride, object padding, object dilation,
              object groups):
    """See ``functional.conv2d_algorithm``."""
    cdef conv_t v
    v.N, v.H, v.W, v.C = [whole_number(size, "x_shape", 0) for size in x_shape]
    v.K, _, v.kh, v.kw = [whole_number(size, "weight_shape", 0) for size in weight_shape]
    whole_pair(stride, "stride", 1, &v.sh, &v.sw)
    whole_pair(dilation, "dilation", 1, &v.dh, &v.dw)
    v.groups = whole_number(groups, "groups", 1)
    pads(&v, padding)
    if is_depthwise(&v):
        return "depthwise" if v.groups == v.C else "narrow groups"
    return "Winograd" if is_winograd(&v) else "direct"
