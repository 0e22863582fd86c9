# Channels whose values are runs of contiguous numbers (NCHW): included by batchnorm.pyx.
#
# A thread takes a range of channels, group by group: while a group is written, the next one is read
# for its sums, so that memory is busy both ways all the time (simd/batchnorm_runs.h). Without
# statistics to take, the array is walked as it lies. Very short runs (maps of 4 x 4) are taken a
# tile of neighbouring channels at a time, as columns whose coefficients repeat.

cdef inline runs_t runs_of(const layout_t *l) noexcept nogil:
    cdef runs_t runs
    runs.runs, runs.length, runs.stride = l.outer, l.inner, l.C * l.inner
    return runs


cdef void channel_affine(const layout_t *l, affine_t *f, const void *weight, const void *bias,
                         const double *mean, const double *invstd, int64_t c) noexcept nogil:
    f[0] = affine_of(mean[c], invstd[c], parameter(weight, c, l.element, 1.0),
                     parameter(bias, c, l.element, 0.0), l.element)


cdef int forward_channels(const layout_t *l, const tensors_t *t, const void *weight,
                          const void *bias, double *mean, double *invstd, double *var, double eps,
                          bint batch, const act_t *act, bint stream) noexcept nogil:
    """Normalise the channels; with `batch`, mean, var and invstd are filled first."""
    cdef int64_t k, tiles, groups
    cdef affine_t *f
    if l.maps:
        tiles = (l.C + l.maps - 1) // l.maps
        for k in prange(tiles, schedule="static", num_threads=l.threads):
            forward_maps(l, t, weight, bias, mean, invstd, var, eps, batch, act, stream,
                         k * l.maps)
            store_fence()
    elif batch:
        groups = (l.C + l.group - 1) // l.group
        for k in prange(l.threads, schedule="static", num_threads=l.threads):
            forward_range(l, t, weight, bias, mean, invstd, var, eps, act, stream,
                          groups * k // l.threads, groups * (k + 1) // l.threads)
            store_fence()
    else:
        f = <affine_t *>scratch(0, l.C * sizeof(affine_t))
        if f == NULL:
            return -1
        for k in prange(l.C, schedule="static", num_threads=l.threads if l.C > 256 else 1):
            channel_affine(l, f + k, weight, bias, mean, invstd, k)
        tiles = (l.C * l.inner * l.itemsize + PIECE_BYTES - 1) // PIECE_BYTES
        tiles = min(tiles, (l.C + l.group - 1) // l.group)
        for k in prange(l.outer * tiles, schedule="static", num_threads=l.threads):
            apply_piece(l, t, f, act, stream, k // tiles, k % tiles, tiles)
            store_fence()
    return 0


cdef void forward_range(const layout_t *l, const tensors_t *t, const void *weight,
                        const void *bias, double *mean, double *invstd, double *var, double eps,
                        const act_t *act, bint stream, int64_t begin, int64_t end) noexcept nogil:
    """Groups begin to end - 1 of the channels."""
    cdef const bn_spans_t *spans = &spans_of(l.element).bn
    cdef int64_t size = l.group, first = begin * size, last = min(l.C, end * size), c
    cdef int64_t now = 0, coming = min(size, last - first)
    cdef runs_t runs = runs_of(l)
    cdef affine_t f[GROUP]
    while now > 0 or coming > 0:
        c = first + now
        spans.run_forward(t, &runs, first, now, f, coming, mean + c, var + c, act, stream)
        first = c
        spans.col_invstd(coming, <double>l.count, eps, var + first, invstd + first)
        for c in range(first, first + coming):
            channel_affine(l, &f[c - first], weight, bias, mean, invstd, c)
        now = coming
        coming = min(size, last - first - now)


cdef void apply_piece(const layout_t *l, const tensors_t *t, const affine_t *f, const act_t *act,
                      bint stream, int64_t sample, int64_t piece, int64_t pieces) noexcept nogil:
    """Normalise a piece of a sample."""
    cdef const bn_spans_t *spans = &spans_of(l.element).bn
    cdef int64_t size = l.group, groups = (l.C + size - 1) // size
    cdef int64_t first = groups * piece // pieces * size
    cdef int64_t last = min(l.C, groups * (piece + 1) // pieces * size)
    cdef int64_t at = sample * l.C * l.inner * l.itemsize
    cdef runs_t runs = runs_of(l)
    cdef tensors_t here = t[0]
    runs.runs = 1
    here.x, here.y = t.x + at, t.y + at
    if t.residual != NULL:
        here.residual = t.residual + at
    while first < last:
        spans.run_forward(&here, &runs, first, min(size, last - first), f + first, 0, NULL, NULL,
                          act, stream)
        first = first + size


cdef affines_t tile_affines(const char *y) noexcept nogil:
    """Room for the coefficients of the tile at y, in the calling thread's scratch."""
    cdef affines_t f
    cdef int64_t step = TILE * sizeof(double) + STAGGER
    cdef char *memory = in_phase(<char *>scratch(1, affine_bytes(TILE)), y)
    f.centre, f.a, f.b, f.k0, f.k1 = (memory, memory + step, memory + 2 * step, memory + 3 * step,
                                      memory + 4 * step)
    return f


cdef void forward_maps(const layout_t *l, const tensors_t *t, const void *weight,
                       const void *bias, double *mean, double *invstd, double *var, double eps,
                       bint batch, const act_t *act, bint stream, int64_t first) noexcept nogil:
    """A tile of channels, from the first one on."""
    cdef const bn_spans_t *spans = &spans_of(l.element).bn
    cdef int64_t maps = min(l.maps, l.C - first), ld = l.C * l.inner, c
    cdef int64_t at = first * l.inner * l.itemsize
    cdef affine_t f[TILE]
    cdef affines_t columns = tile_affines(t.y + at)
    if batch:
        spans.map_moments(t.x + at, l.outer, maps, l.inner, ld, mean + first, var + first)
        spans.col_invstd(maps, <double>l.count, eps, var + first, invstd + first)
    for c in range(first, first + maps):
        f[c - first] = affine_of(mean[c], invstd[c], parameter(weight, c, l.element, 1.0),
                                 parameter(bias, c, l.element, 0.0), l.element)
    columns.k0 = columns.k1 = NULL
    spans.map_spread(f, maps, l.inner, &columns)
    spans.col_apply(t.x + at, t.residual + at if t.residual != NULL else NULL, t.y + at,
                    l.outer, maps * l.inner, ld, &columns, act, stream)


cdef void backward_channels(const layout_t *l, const tensors_t *t, const void *weight,
                            const void *bias, const double *mean, const double *invstd,
                            void *dweight, void *dbias, bint sums, bint frozen, const act_t *act,
                            bint stream) noexcept nogil:
    cdef int64_t k, step = l.maps if l.maps else l.group, tiles = (l.C + step - 1) // step
    if l.maps:
        for k in prange(tiles, schedule="static", num_threads=l.threads):
            backward_maps(l, t, weight, bias, mean, invstd, dweight, dbias, sums, frozen, act,
                          stream, k * step)
            store_fence()
    else:
        for k in prange(l.threads, schedule="static", num_threads=l.threads):
            backward_range(l, t, weight, bias, mean, invstd, dweight, dbias, sums, frozen, act,
                           stream, tiles * k // l.threads, tiles * (k + 1) // l.threads)
            store_fence()


cdef void settle(const layout_t *l, affine_t *f, double sum_d, double sum_dx, const double *mean,
                 const double *invstd, void *dweight, void *dbias, bint frozen,
                 int64_t c) noexcept nogil:
    """From the sums of channel c (about f.centre): its gradients, and the terms of dx."""
    sum_dx += (f.centre - mean[c]) * sum_d
    if dweight != NULL:
        put(dweight, c, l.element, sum_dx * invstd[c])
    if dbias != NULL:
        put(dbias, c, l.element, sum_d)
    if not frozen:
        gradient_terms(f, mean[c], invstd[c], <double>l.count, sum_d, sum_dx)


cdef void backward_range(const layout_t *l, const tensors_t *t, const void *weight,
                         const void *bias, const double *mean, const double *invstd,
                         void *dweight, void *dbias, bint sums, bint frozen, const act_t *act,
                         bint stream, int64_t begin, int64_t end) noexcept nogil:
    """Groups begin to end - 1 of the channels. Without sums, the first sweep over a group is
    left out; without dx and dresidual, the second one."""
    cdef const bn_spans_t *spans = &spans_of(l.element).bn
    cdef int64_t size = l.group, first = begin * size, last = min(l.C, end * size), c, k
    cdef int64_t now = 0, coming = min(size, last - first)
    cdef bint apply = t.y != NULL or t.dresidual != NULL
    cdef runs_t runs = runs_of(l)
    cdef affine_t f[GROUP]
    cdef affine_t g[GROUP]
    cdef double sum_d[GROUP]
    cdef double sum_dx[GROUP]
    while now > 0 or coming > 0:
        for k in range(coming):
            channel_affine(l, &g[k], weight, bias, mean, invstd, first + now + k)
        first = first if apply else first + now
        spans.run_backward(t, &runs, first, now if apply else 0, f, coming if sums else 0, g,
                           sum_d, sum_dx, act, frozen, stream)
        first = first + now if apply else first
        for k in range(coming):
            f[k] = g[k]
            if sums:
                settle(l, &f[k], sum_d[k], sum_dx[k], mean, invstd, dweight, dbias, frozen,
                       first + k)
        now = coming
        coming = min(size, last - first - now)


cdef void backward_maps(const layout_t *l, const tensors_t *t, const void *weight,
                        const void *bias, const double *mean, const double *invstd, void *dweight,
                        void *dbias, bint sums, bint frozen, const act_t *act, bint stream,
                        int64_t first) noexcept nogil:
    """A tile of channels, from the first one on."""
    cdef const bn_spans_t *spans = &spans_of(l.element).bn
    cdef int64_t maps = min(l.maps, l.C - first), ld = l.C * l.inner, c, j, row = 0
    cdef int64_t at = first * l.inner * l.itemsize, here, width = maps * l.inner
    cdef const char *residual = t.residual + at if t.residual != NULL else NULL
    cdef double sum_d, sum_dx
    cdef double d_sums[TILE]
    cdef double dx_sums[TILE]
    cdef affine_t f[TILE]
    cdef affines_t columns = tile_affines(t.y + at)
    for c in range(first, first + maps):
        f[c - first] = affine_of(mean[c], invstd[c], parameter(weight, c, l.element, 1.0),
                                 parameter(bias, c, l.element, 0.0), l.element)
    spans.map_spread(f, maps, l.inner, &columns)
    if sums:
        for j in range(width):
            d_sums[j] = dx_sums[j] = 0.0
        while row < l.outer:
            here = at + row * ld * l.itemsize
            spans.col_grad_sums(t.x + here, t.dy + here,
                                t.residual + here if t.residual != NULL else NULL,
                                min(<int64_t>MAP_ROWS, l.outer - row), width, ld, False, &columns,
                                act, d_sums, dx_sums)
            row = row + MAP_ROWS
        for c in range(maps):
            sum_d = sum_dx = 0.0
            for j in range(c * l.inner, (c + 1) * l.inner):
                sum_d = sum_d + d_sums[j]
                sum_dx = sum_dx + dx_sums[j]
            settle(l, &f[c], sum_d, sum_dx, mean, invstd, dweight, dbias, frozen, first + c)
        spans.map_spread(f, maps, l.inner, &columns)
    if t.y != NULL or t.dresidual != NULL:
        spans.col_grad_apply(t.x + at, t.dy + at, residual, t.y + at if t.y != NULL else NULL,
                             t.dresidual + at if t.dresidual != NULL else NULL, l.outer, width,
                             ld, &columns, act, frozen, stream)
