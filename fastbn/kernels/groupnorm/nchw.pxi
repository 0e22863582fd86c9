# NCHW: a sample's planes: included by groupnorm.pyx.

cdef affines_t row_affines(char *memory) noexcept nogil:
    """Room for the coefficients of a row of up to TILE values."""
    cdef affines_t f
    cdef int64_t step = TILE * sizeof(double) + STAGGER_BYTES
    f.centre, f.a, f.b = memory, memory + step, memory + 2 * step
    f.k0, f.k1 = memory + 3 * step, memory + 4 * step
    return f


cdef int64_t row_bytes(const call_t *k) noexcept nogil:
    return 5 * (TILE * sizeof(double) + STAGGER_BYTES) if k.inner < SMALL else 0


cdef inline int64_t channels_at_once(const call_t *k) noexcept nogil:
    if k.inner >= SMALL:
        return GROUP if k.inner <= MOST_TOGETHER else 1
    return TILE // k.inner


cdef void apply_channels(const call_t *k, const tensors_t *t, const affine_t *f, int64_t first,
                         int64_t channels, char *memory) noexcept nogil:
    """Normalise some channels of a sample."""
    cdef const batchnorm_simd_t *simd = batchnorm_simd(k.element)
    cdef planes_t planes
    cdef affines_t row
    cdef int64_t at = first * k.inner * k.itemsize
    if k.inner >= SMALL:
        planes.planes, planes.length, planes.stride = 1, k.inner, k.C * k.inner
        if k.act.kind == ACT_SMOOTH:
            simd.nchw_smooth(t, &planes, first, channels, f, &k.act)
        else:
            simd.nchw_forward(t, &planes, first, channels, f, 0, NULL, NULL, &k.act, False,
                              k.stream)
        return
    row = row_affines(memory)
    row.k0 = row.k1 = NULL
    simd.small_spread(f, channels, k.inner, &row)
    apply_rows(k, t, at, 1, channels * k.inner, channels * k.inner, &row, 0)


cdef void forward_nchw(const void *job, int64_t task) noexcept nogil:
    """Some groups of all samples of a block: a group is one plane, then its channels are."""
    cdef const call_t *k = <const call_t *>job
    cdef int64_t block = task // k.sets, n, g, c, now, last
    cdef int64_t first = task % k.sets * k.groups, groups = min(k.groups, k.G - first)
    cdef int64_t most = channels_at_once(k), together = 1
    cdef planes_t group
    cdef tensors_t t
    cdef double mean[GROUP]
    cdef double m2[GROUP]
    cdef char *memory = <char *>scratch(2, row_bytes(k) + most * sizeof(affine_t))
    cdef affine_t *f = <affine_t *>(memory + row_bytes(k))
    if memory == NULL:
        fail(k)
        return
    if SMALL <= k.count <= MOST_TOGETHER:
        together = groups
    memset(memory, 0, row_bytes(k))
    group.planes, group.length, group.stride = 1, k.count, k.G * k.count
    for n in range(first_of_block(k, block), first_of_block(k, block + 1)):
        t = sample(k, &k.t, n)
        g = 0
        while g < groups:
            batchnorm_simd(k.element).nchw_forward(&t, &group, first + g, 0, NULL, together,
                                                   mean + g, m2 + g, &k.act, False, 0)
            g = g + together
        for g in range(groups):
            settle_group(k, n * k.G + first + g, mean[g], m2[g])
        c, last = first * k.width, (first + groups) * k.width
        while c < last:
            now = min(most, last - c)
            for g in range(now):
                f[g] = channel_affine(k, n, c + g)
            apply_channels(k, &t, f, c, now, memory)
            c = c + now
    store_fence()


cdef void channel_sums(const call_t *k, const tensors_t *t, const tensors_t *z, const affine_t *f,
                       int64_t first, int64_t channels, char *memory, double *sum_d,
                       double *sum_dx) noexcept nogil:
    """The sums of d and d * (x - centre) of some channels of a sample; dz first, where it is to be
    computed."""
    cdef const batchnorm_simd_t *simd = batchnorm_simd(k.element)
    cdef planes_t planes
    cdef affines_t row
    cdef int64_t at = first * k.inner * k.itemsize, width = channels * k.inner, c, j
    cdef double *values
    if k.inner >= SMALL:
        planes.planes, planes.length, planes.stride = 1, k.inner, k.C * k.inner
        if z.y != NULL:
            simd.nchw_smooth(z, &planes, first, channels, f, &k.smooth)
        simd.nchw_backward(t, &planes, first, 0, NULL, channels, f, sum_d, sum_dx, &k.act, False,
                           False, 0)
        return
    row = row_affines(memory)
    simd.small_spread(f, channels, k.inner, &row)
    if z.y != NULL:
        smooth_rows(k, z, at, 1, width, width, &row)
    values = <double *>(memory + row_bytes(k))
    memset(values, 0, 2 * TILE * sizeof(double))
    simd.nhwc_sums(t.x + at, t.dy + at, NULL, 1, width, width, False, &row, &k.act, values,
                   values + TILE)
    for c in range(channels):
        sum_d[c] = sum_dx[c] = 0.0
        for j in range(c * k.inner, (c + 1) * k.inner):
            sum_d[c] += values[j]
            sum_dx[c] += values[TILE + j]


cdef void channel_gradients(const call_t *k, const tensors_t *t, const affine_t *f, int64_t first,
                            int64_t channels, char *memory) noexcept nogil:
    """dx of some channels of a sample."""
    cdef const batchnorm_simd_t *simd = batchnorm_simd(k.element)
    cdef planes_t planes
    cdef affines_t row
    cdef int64_t at = first * k.inner * k.itemsize, width = channels * k.inner
    if k.inner >= SMALL:
        planes.planes, planes.length, planes.stride = 1, k.inner, k.C * k.inner
        simd.nchw_backward(t, &planes, first, channels, f, 0, NULL, NULL, NULL, &k.act, False,
                           False, k.stream)
        return
    row = row_affines(memory)
    simd.small_spread(f, channels, k.inner, &row)
    simd.nhwc_backward(t.x + at, t.dy + at, NULL, t.dx + at, NULL, 1, width, width, &row, &k.act,
                       False, False, 0)


cdef void backward_nchw(const void *job, int64_t task) noexcept nogil:
    """Some groups of all samples of a block: sums of their channels, then dx."""
    cdef const call_t *k = <const call_t *>job
    cdef int64_t block = task // k.sets, n, g, c, i, now, most = channels_at_once(k)
    cdef int64_t first = task % k.sets * k.groups, groups = min(k.groups, k.G - first)
    cdef int64_t begin = first * k.width, channels = groups * k.width
    cdef double *part = k.parts + 2 * k.C * block
    cdef double *sum_d = <double *>scratch(1, 2 * channels * sizeof(double))
    cdef double *sum_dx = sum_d + channels
    cdef int64_t room = row_bytes(k) + 2 * TILE * sizeof(double)
    cdef char *memory = <char *>scratch(2, room + channels * sizeof(affine_t))
    cdef affine_t *f = <affine_t *>(memory + room)
    cdef tensors_t t, z
    cdef double k0, k1
    if sum_d == NULL or memory == NULL:
        fail(k)
        return
    memset(memory, 0, row_bytes(k))
    memset(part + begin, 0, channels * sizeof(double))
    memset(part + k.C + begin, 0, channels * sizeof(double))
    for n in range(first_of_block(k, block), first_of_block(k, block + 1)):
        t, z = sample(k, &k.t, n), sample(k, &k.z, n)
        for c in range(channels):
            f[c] = channel_affine(k, n, begin + c)
        c = 0
        while c < channels:
            now = min(most, channels - c)
            channel_sums(k, &t, &z, f + c, begin + c, now, memory, sum_d + c, sum_dx + c)
            c = c + now
        for g in range(groups):
            i = g * k.width
            group_terms(k, n, first + g, sum_d + i, sum_dx + i, part, &k0, &k1)
            for i in range(g * k.width, (g + 1) * k.width):
                f[i].k0, f[i].k1 = k0, k1
        c = 0 if t.dx != NULL else channels
        while c < channels:
            now = min(most, channels - c)
            channel_gradients(k, &t, f + c, begin + c, now, memory)
            c = c + now
    store_fence()
