# The two halves of batch normalisation by themselves: included by batchnorm.pyx.

cdef int compute_moments(const layout_t *l, const char *x, double *mean, double *m2) noexcept nogil:
    """Mean and sum of squares about it, of every channel."""
    cdef int64_t k, tiles, part_bytes = 2 * l.chunks * width_of(l) * sizeof(double)
    cdef double *parts
    if l.columns:
        parts = <double *>scratch(0, part_bytes)
        if parts == NULL:
            return -1
        for k in prange(l.chunks, schedule="static", num_threads=l.threads):
            chunk_moments(l, x, parts, k)
        merge_moments(l, parts, mean, m2)
        return 0
    tiles = (l.C + moments_step(l) - 1) // moments_step(l)
    for k in prange(tiles, schedule="static", num_threads=l.threads):
        channel_moments(l, x, k * moments_step(l), mean, m2)
    return 0


cdef inline int64_t moments_step(const layout_t *l) noexcept nogil:
    return l.maps if l.maps else l.group


cdef void channel_moments(const layout_t *l, const char *x, int64_t first, double *mean,
                          double *m2) noexcept nogil:
    """Of the channels of one step, from the first one on."""
    cdef const bn_spans_t *spans = &spans_of(l.element).bn
    cdef int64_t count = min(moments_step(l), l.C - first)
    cdef runs_t runs = runs_of(l)
    cdef tensors_t t
    cdef act_t none
    if l.maps:
        spans.map_moments(x + first * l.inner * l.itemsize, l.outer, count, l.inner,
                          l.C * l.inner, mean + first, m2 + first)
        return
    t.x, t.y, t.dy, t.residual, t.dresidual = x, NULL, NULL, NULL, NULL
    none.kind, none.slope = ACT_NONE, 0.0
    spans.run_forward(&t, &runs, first, 0, NULL, count, mean + first, m2 + first, &none, False)


def moments(object x_, object axis_):
    """Count, mean and sum of squares about the mean of every channel, in float64."""
    cdef cnp.ndarray x = dense(x_, "x"), mean, m2
    cdef int axis = axis_of(x, axis_)
    cdef layout_t l = layout_of(x, axis, element_of(x, "x"), 1)
    cdef cnp.npy_intp C = l.C
    cdef const char *values = <const char *>data(x)
    cdef double *mean_data
    cdef double *m2_data
    cdef int status = 0
    if l.count < 1:
        raise ValueError(f"expected at least one value per channel, got input size {size_of(x)}")
    mean = cnp.PyArray_EMPTY(1, &C, cnp.NPY_FLOAT64, 0)
    m2 = cnp.PyArray_EMPTY(1, &C, cnp.NPY_FLOAT64, 0)
    mean_data, m2_data = <double *>data(mean), <double *>data(m2)
    with nogil:
        status = compute_moments(&l, values, mean_data, m2_data)
    if status:
        raise MemoryError
    return l.count, mean, m2


def scale_shift(object x_, object scale, object shift, object centre, object axis_,
                object activation, object negative_slope, object residual_, object out):
    """Check the arguments of ``functional.scale_shift``, then compute it."""
    cdef cnp.ndarray x = dense(x_, "x"), y
    cdef object residual = residual_of(residual_, x)
    cdef int axis = axis_of(x, axis_), element = element_of(x, "x")
    cdef act_t act = activation_of(activation, negative_slope)
    cdef int number = cnp.NPY_FLOAT32 if element == BF16 else cnp.PyArray_TYPE(x)
    cdef int64_t C = cnp.PyArray_DIM(x, axis), c
    cdef layout_t l = layout_of(x, axis, element, 2 if residual is None else 3, True)
    cdef BatchNormSaved saved
    scale = dense_vector(scale, "scale", C, number)
    shift = dense_vector(shift, "shift", C, number)
    centre = dense_vector(centre, "centre", C, cnp.NPY_FLOAT64)
    y = output(out, x, "out")
    saved = saved_of(x, scale, shift, residual, axis, act, False)
    if out is not None:
        check_in_place(saved, y, False)
    for c in range(C):
        saved.mean[c] = parameter(data(centre), c, F64, 0.0)
        saved.invstd[c] = 1.0
    if cnp.PyArray_SIZE(x) and compute_forward(&l, x, residual, y, data(scale), data(shift),
                                               saved.mean, saved.invstd, NULL, 0.0, False, &act):
        raise MemoryError
    return y, saved
