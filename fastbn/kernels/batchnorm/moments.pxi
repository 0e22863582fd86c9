# The two halves of batch normalisation by themselves: included by batchnorm.pyx.

cdef int compute_moments(call_t *k) noexcept nogil:
    """Mean of every channel, and in k.var the sum of squares about it."""
    cdef const layout_t *l = &k.l
    if not l.nhwc:
        run_tasks(step_moments, k, steps_of(l), l.threads)
        return 0
    if take_memory(k, True):
        return -1
    find_moments(k)
    return 0


cdef void step_moments(const void *job, int64_t task) noexcept nogil:
    """Of the channels of one step."""
    cdef const call_t *k = <const call_t *>job
    cdef const layout_t *l = &k.l
    cdef const batchnorm_simd_t *simd = batchnorm_simd(l.element)
    cdef int64_t first = task * step_of(l), count = min(step_of(l), l.C - first)
    cdef planes_t planes = planes_of(l)
    if l.tile:
        simd.small_moments(k.t.x + first * l.inner * l.itemsize, l.outer, count, l.inner,
                           l.C * l.inner, k.mean + first, k.var + first)
    else:
        simd.nchw_forward(&k.t, &planes, first, 0, NULL, count, k.mean + first, k.var + first,
                          &k.act, l.prefetch, k.stream)


def moments(object x_, object axis_):
    """Count, mean and sum of squares about the mean of every channel, in float64."""
    cdef cnp.ndarray x = dense(x_, "x"), mean, m2
    cdef int axis = axis_of(x, axis_)
    cdef call_t k = call_on(layout_of(x, axis, element_of(x, "x"), 1, MOMENT_SMALL_BYTES), x,
                            None)
    cdef cnp.npy_intp C = k.l.C
    cdef int status
    k.stream = is_far(<double>cnp.PyArray_NBYTES(x), 1)
    if k.l.count < 1:
        raise ValueError(f"expected at least one value per channel, got input size {size_of(x)}")
    mean = cnp.PyArray_EMPTY(1, &C, cnp.NPY_FLOAT64, 0)
    m2 = cnp.PyArray_EMPTY(1, &C, cnp.NPY_FLOAT64, 0)
    k.mean, k.var = <double *>data(mean), <double *>data(m2)
    with nogil:
        status = compute_moments(&k)
    if status:
        raise MemoryError
    return k.l.count, mean, m2


def scale_shift(object x_, object scale, object shift, object centre, object axis_,
                object activation, object negative_slope, object residual_, object out):
    """Check the arguments of ``functional.scale_shift``, then compute it."""
    cdef cnp.ndarray x = dense(x_, "x"), y
    cdef object residual = residual_of(residual_, x)
    cdef int axis = axis_of(x, axis_), element = element_of(x, "x")
    cdef int number = cnp.NPY_FLOAT32 if element == BF16 else cnp.PyArray_TYPE(x)
    cdef int64_t C = cnp.PyArray_DIM(x, axis), c
    cdef layout_t l = layout_of(x, axis, element, 2 if residual is None else 3, SMALL_BYTES,
                                PIECE_BYTES)
    cdef call_t k = call_on(l, x, residual)
    cdef BatchNormSaved saved
    cdef arrays_t a
    k.act = activation_of(activation, negative_slope)
    scale = dense_vector(scale, "scale", C, number)
    shift = dense_vector(shift, "shift", C, number)
    centre = dense_vector(centre, "centre", C, cnp.NPY_FLOAT64)
    y = output(out, x, "out")
    a.count = 0
    writes(&a, y, b"out")
    reads(&a, x, b"x", True)
    reads(&a, residual, b"residual", True)
    reads(&a, scale, b"scale")
    reads(&a, shift, b"shift")
    reads(&a, centre, b"centre")
    check_arrays(&a)
    saved = saved_of(x, scale, shift, residual, axis, k.act, False)
    if out is not None:
        check_in_place(saved, y, False)
    for c in range(C):
        saved.mean[c] = parameter(data(centre), c, F64, 0.0)
        saved.invstd[c] = 1.0
    k.mean, k.invstd, k.weight, k.bias = saved.mean, saved.invstd, data(scale), data(shift)
    compute_forward(&k, y)
    return y, saved
