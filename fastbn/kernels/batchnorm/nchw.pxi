# NCHW, planes of contiguous numbers: included by batchnorm.pyx.
#
# A thread takes a range of channels, group by group: while a group is written, the next one is read
# for its sums, so that memory is busy both ways all the time (nchw_forward.h). Without statistics
# to take, the array is walked as it lies. Where the spatial size is small (4 x 4), a tile of
# neighbouring channels is taken at a time, as NHWC whose coefficients repeat.

cdef inline planes_t planes_of(const layout_t *l) noexcept nogil:
    cdef planes_t planes
    planes.planes, planes.length, planes.stride = l.outer, l.inner, l.C * l.inner
    return planes


cdef inline int64_t step_of(const layout_t *l) noexcept nogil:
    """Channels that are taken at once."""
    return l.tile if l.tile else l.group


cdef inline int64_t steps_of(const layout_t *l) noexcept nogil:
    return (l.C + step_of(l) - 1) // step_of(l)


cdef inline int64_t range_of(const layout_t *l, int64_t task) noexcept nogil:
    """The first channel of a thread's range: of whole groups."""
    return min(l.C, steps_of(l) * task // l.threads * l.group)


cdef inline affine_t channel_affine(const call_t *k, int64_t c) noexcept nogil:
    cdef affine_t f = affine_of(k.mean[c], k.invstd[c], parameter(k.weight, c, k.l.element, 1.0),
                                parameter(k.bias, c, k.l.element, 0.0), k.l.element)
    if k.slope != NULL:
        f.k1 = k.slope[c]
        f.k0 = f.k1 * (f.centre - k.mean[c]) + k.constant[c]
    return f


cdef void sweep(const call_t *k, const tensors_t *t, const planes_t *planes, int64_t first,
                int64_t now, const affine_t *f, int64_t coming) noexcept nogil:
    """Normalise the channels first to first + now - 1, and take the moments of those coming."""
    cdef const batchnorm_simd_t *simd = batchnorm_simd(k.l.element)
    cdef int64_t c = first + now
    if k.act.kind == ACT_SMOOTH:
        simd.nchw_smooth(t, planes, first, now, f, &k.act)
        first, now = c, 0
    if now > 0 or coming > 0:
        simd.nchw_forward(t, planes, first, now, f, coming, k.mean + c, k.var + c, &k.act,
                          k.l.prefetch, k.stream)


cdef int forward_nchw(call_t *k) noexcept nogil:
    """Normalise the channels; with k.batch, mean, var and invstd are filled first."""
    cdef const layout_t *l = &k.l
    cdef int thread
    if l.tile:
        run_tasks(forward_small, k, steps_of(l), l.threads)
    elif k.batch:
        run_tasks(forward_range, k, l.threads, l.threads)
    else:
        k.affines = <char *>scratch(0, l.threads * affines_step(l))
        if k.affines == NULL:
            return -1
        for thread in range(l.threads):
            (k.affines + thread * affines_step(l))[0] = False
        k.pieces = min((l.C * l.inner * l.itemsize + PIECE_BYTES - 1) // PIECE_BYTES, steps_of(l))
        run_tasks(apply_piece, k, l.outer * k.pieces, l.threads)
    return 0


cdef void forward_range(const void *job, int64_t task) noexcept nogil:
    """A range of channels."""
    cdef const call_t *k = <const call_t *>job
    cdef const layout_t *l = &k.l
    cdef int64_t first = range_of(l, task), last = range_of(l, task + 1), c
    cdef int64_t now = 0, coming = min(l.group, last - first)
    cdef planes_t planes = planes_of(l)
    cdef affine_t f[GROUP]
    while now > 0 or coming > 0:
        sweep(k, &k.t, &planes, first, now, f, coming)
        first = first + now
        settle_moments(k, first, coming)
        for c in range(coming):
            f[c] = channel_affine(k, first + c)
        now = coming
        coming = min(l.group, last - first - now)
    store_fence()


cdef inline int64_t affines_step(const layout_t *l) noexcept nogil:
    """Bytes of one thread's coefficients, behind a line that tells whether they are there."""
    return LINE_BYTES + (l.C * sizeof(affine_t) + LINE_BYTES - 1) // LINE_BYTES * LINE_BYTES


cdef void find_affines(const call_t *k, int64_t thread, affine_t *f) noexcept nogil:
    cdef double *mean = own_statistics(k, thread, 0)
    cdef call_t own = k[0]
    cdef int64_t c
    if mean != NULL:
        own.mean, own.invstd = mean, mean + k.l.C
    for c in range(k.l.C):
        f[c] = channel_affine(&own, c)


cdef const affine_t *own_affines(const call_t *k) noexcept nogil:
    """The coefficients of all channels, the calling thread's own: found at its first task."""
    cdef int thread = this_thread() % k.l.threads
    cdef char *there = k.affines + thread * affines_step(&k.l)
    cdef affine_t *f = <affine_t *>(there + LINE_BYTES)
    if not there[0]:
        find_affines(k, thread, f)
        there[0] = True
    return f


cdef void apply_piece(const void *job, int64_t task) noexcept nogil:
    """Normalise a piece of a sample."""
    cdef const call_t *k = <const call_t *>job
    cdef const layout_t *l = &k.l
    cdef int64_t sample = task // k.pieces, piece = task % k.pieces, groups = steps_of(l)
    cdef int64_t first = groups * piece // k.pieces * l.group
    cdef int64_t last = min(l.C, groups * (piece + 1) // k.pieces * l.group)
    cdef int64_t at = sample * l.C * l.inner * l.itemsize
    cdef planes_t planes = planes_of(l)
    cdef tensors_t here = k.t
    cdef const affine_t *f = own_affines(k)
    planes.planes = 1
    here.x, here.y = k.t.x + at, k.t.y + at
    here.residual = moved(k.t.residual, at)
    while first < last:
        sweep(k, &here, &planes, first, min(l.group, last - first), f + first, 0)
        first = first + l.group
    store_fence()


cdef affines_t tile_affines(const char *y) noexcept nogil:
    """Room for the coefficients of the tile at y, in the calling thread's scratch."""
    cdef affines_t f
    cdef int64_t step = TILE * sizeof(double) + STAGGER_BYTES
    cdef char *memory = in_phase(<char *>scratch(1, affine_bytes(TILE)), y)
    f.centre, f.a, f.b, f.k0, f.k1 = (memory, memory + step, memory + 2 * step, memory + 3 * step,
                                      memory + 4 * step)
    return f


cdef void forward_small(const void *job, int64_t task) noexcept nogil:
    """A tile of channels."""
    cdef const call_t *k = <const call_t *>job
    cdef const layout_t *l = &k.l
    cdef const batchnorm_simd_t *simd = batchnorm_simd(l.element)
    cdef int64_t first = task * l.tile, channels = min(l.tile, l.C - first), ld = l.C * l.inner, c
    cdef int64_t at = first * l.inner * l.itemsize
    cdef affine_t f[TILE]
    cdef affines_t columns = tile_affines(k.t.y + at)
    if k.batch:
        simd.small_moments(k.t.x + at, l.outer, channels, l.inner, ld, k.mean + first,
                           k.var + first)
        settle_moments(k, first, channels)
    for c in range(channels):
        f[c] = channel_affine(k, first + c)
    columns.k0 = columns.k1 = NULL
    simd.small_spread(f, channels, l.inner, &columns)
    apply_rows(k, at, l.outer, channels * l.inner, ld, &columns)
    store_fence()


cdef void backward_nchw(const call_t *k) noexcept nogil:
    cdef const layout_t *l = &k.l
    if l.tile:
        run_tasks(backward_small, k, steps_of(l), l.threads)
    else:
        run_tasks(backward_range, k, l.threads, l.threads)


cdef void settle(const call_t *k, affine_t *f, double sum_d, double sum_dx,
                 int64_t c) noexcept nogil:
    """From the sums of channel c (about f.centre): its gradients, and the terms of dx."""
    sum_dx += (f.centre - k.mean[c]) * sum_d
    if k.dweight != NULL:
        put(k.dweight, c, k.l.element, sum_dx * k.invstd[c])
    if k.dbias != NULL:
        put(k.dbias, c, k.l.element, sum_d)
    if not k.frozen:
        gradient_terms(f, k.mean[c], k.invstd[c], <double>k.l.count, sum_d, sum_dx)


cdef void backward_range(const void *job, int64_t task) noexcept nogil:
    """A range of channels. Without sums, the first sweep over a group is left out; without dx and
    dresidual, the second one."""
    cdef const call_t *k = <const call_t *>job
    cdef const layout_t *l = &k.l
    cdef const batchnorm_simd_t *simd = batchnorm_simd(l.element)
    cdef int64_t first = range_of(l, task), last = range_of(l, task + 1), c
    cdef int64_t now = 0, coming = min(l.group, last - first)
    cdef bint apply = k.t.dx != NULL or k.t.dresidual != NULL
    cdef planes_t planes = planes_of(l)
    cdef affine_t f[GROUP]
    cdef affine_t g[GROUP]
    cdef double sum_d[GROUP]
    cdef double sum_dx[GROUP]
    while now > 0 or coming > 0:
        for c in range(coming):
            g[c] = channel_affine(k, first + now + c)
        if k.z.y != NULL:
            simd.nchw_smooth(&k.z, &planes, first + now, coming, g, &k.smooth)
        first = first if apply else first + now
        simd.nchw_backward(&k.t, &planes, first, now if apply else 0, f, coming if k.sums else 0, g,
                           sum_d, sum_dx, &k.act, without_terms(k), l.prefetch, k.stream)
        first = first + now if apply else first
        for c in range(coming):
            f[c] = g[c]
            if k.sums:
                settle(k, &f[c], sum_d[c], sum_dx[c], first + c)
        now = coming
        coming = min(l.group, last - first - now)
    store_fence()


cdef void backward_small(const void *job, int64_t task) noexcept nogil:
    """A tile of channels."""
    cdef const call_t *k = <const call_t *>job
    cdef const layout_t *l = &k.l
    cdef const batchnorm_simd_t *simd = batchnorm_simd(l.element)
    cdef int64_t first = task * l.tile, channels = min(l.tile, l.C - first), ld = l.C * l.inner
    cdef int64_t at = first * l.inner * l.itemsize, here, width = channels * l.inner, c, j, row = 0
    cdef double sum_d, sum_dx
    cdef double d_sums[TILE]
    cdef double dx_sums[TILE]
    cdef affine_t f[TILE]
    cdef affines_t columns = tile_affines(k.t.dx + at)
    for c in range(channels):
        f[c] = channel_affine(k, first + c)
    simd.small_spread(f, channels, l.inner, &columns)
    if k.z.y != NULL:
        smooth_rows(k, at, l.outer, width, ld, &columns)
    if k.sums:
        for j in range(width):
            d_sums[j] = dx_sums[j] = 0.0
        while row < l.outer:
            here = at + row * ld * l.itemsize
            simd.nhwc_sums(k.t.x + here, k.t.dy + here, moved(k.t.residual, here),
                           min(<int64_t>SUM_ROWS, l.outer - row), width, ld, False, &columns,
                           &k.act, d_sums, dx_sums)
            row = row + SUM_ROWS
        for c in range(channels):
            sum_d = sum_dx = 0.0
            for j in range(c * l.inner, (c + 1) * l.inner):
                sum_d = sum_d + d_sums[j]
                sum_dx = sum_dx + dx_sums[j]
            settle(k, &f[c], sum_d, sum_dx, first + c)
        simd.small_spread(f, channels, l.inner, &columns)
    if k.t.dx != NULL or k.t.dresidual != NULL:
        simd.nhwc_backward(k.t.x + at, k.t.dy + at, moved(k.t.residual, at), moved(k.t.dx, at),
                           moved(k.t.dresidual, at), l.outer, width, ld, &columns, &k.act,
                           without_terms(k), False, k.stream)
    store_fence()
