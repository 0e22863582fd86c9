# Channels whose values are runs of contiguous numbers (NCHW): included by batchnorm.pyx.
#
# A thread takes whole channels: moments, then normalisation while the channel is still in cache.
# Each sweep fetches ahead what the next one will touch. Short runs (maps of 7 x 7) are taken a tile
# of neighbouring channels at a time, as columns whose coefficients repeat.

cdef void forward_channels(const layout_t *l, const tensors_t *t, const void *weight,
                           const void *bias, double *mean, double *invstd, double *var, double eps,
                           bint batch, const act_t *act, bint stream) noexcept nogil:
    """Normalise channel by channel; with `batch`, mean, var and invstd are filled first."""
    cdef int64_t k, step = max(<int64_t>1, l.maps), tiles = (l.C + step - 1) // step
    stream = stream and l.inner * l.itemsize * step >= RUN_BYTES
    for k in prange(tiles, schedule="static", num_threads=l.threads):
        if l.maps:
            forward_maps(l, t, weight, bias, mean, invstd, var, eps, batch, act, stream, k * step)
        else:
            forward_channel(l, t, weight, bias, mean, invstd, var, eps, batch, act, stream, k)
        store_fence()


cdef void forward_channel(const layout_t *l, const tensors_t *t, const void *weight,
                          const void *bias, double *mean, double *invstd, double *var, double eps,
                          bint batch, const act_t *act, bint stream, int64_t c) noexcept nogil:
    cdef const bn_spans_t *spans = &spans_of(l.element).bn
    cdef affine_t f
    cdef int64_t at = c * l.inner * l.itemsize, step = l.inner * l.itemsize
    cdef bint ahead = l.outer * step <= AHEAD_BYTES
    cdef runs_t runs = runs_of(l)
    if batch:
        if ahead and not stream:
            runs.ahead = t.y + at
        spans.run_moments(t.x + at, &runs, &mean[c], &var[c])
        var[c] /= l.count
        invstd[c] = 1.0 / sqrt(var[c] + eps)
    f = affine_of(mean[c], invstd[c], parameter(weight, c, l.element, 1.0),
                  parameter(bias, c, l.element, 0.0), l.element)
    runs.ahead = t.x + at + step if ahead and batch and c + 1 < l.C else NULL
    spans.run_apply(t.x + at, t.residual + at if t.residual != NULL else NULL, t.y + at, &runs,
                    &f, act, stream)


cdef inline runs_t runs_of(const layout_t *l) noexcept nogil:
    cdef runs_t runs
    runs.runs, runs.length, runs.stride = l.outer, l.inner, l.C * l.inner
    runs.ahead = runs.ahead2 = NULL
    return runs


cdef affines_t tile_affines(int itemsize) noexcept nogil:
    """Room for the coefficients of a tile, in the calling thread's scratch."""
    cdef affines_t f
    cdef char *memory = <char *>scratch(1, 5 * TILE * itemsize)
    f.centre, f.a, f.b = memory, memory + TILE * itemsize, memory + 2 * TILE * itemsize
    f.k0, f.k1 = memory + 3 * TILE * itemsize, memory + 4 * TILE * itemsize
    return f


cdef void forward_maps(const layout_t *l, const tensors_t *t, const void *weight,
                       const void *bias, double *mean, double *invstd, double *var, double eps,
                       bint batch, const act_t *act, bint stream, int64_t first) noexcept nogil:
    """A tile of channels, from the first one on."""
    cdef const bn_spans_t *spans = &spans_of(l.element).bn
    cdef int64_t maps = min(l.maps, l.C - first), ld = l.C * l.inner, c
    cdef int64_t at = first * l.inner * l.itemsize
    cdef affine_t f[TILE]
    cdef affines_t columns = tile_affines(8)
    if batch:
        spans.map_moments(t.x + at, l.outer, maps, l.inner, ld, mean + first, var + first)
    for c in range(first, first + maps):
        if batch:
            var[c] /= l.count
            invstd[c] = 1.0 / sqrt(var[c] + eps)
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
    cdef int64_t k, step = max(<int64_t>1, l.maps), tiles = (l.C + step - 1) // step
    stream = stream and l.inner * l.itemsize * step >= RUN_BYTES
    for k in prange(tiles, schedule="static", num_threads=l.threads):
        if l.maps:
            backward_maps(l, t, weight, bias, mean, invstd, dweight, dbias, sums, frozen, act,
                          stream, k * step)
        else:
            backward_channel(l, t, weight, bias, mean, invstd, dweight, dbias, sums, frozen, act,
                             stream, k)
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


cdef void backward_channel(const layout_t *l, const tensors_t *t, const void *weight,
                           const void *bias, const double *mean, const double *invstd,
                           void *dweight, void *dbias, bint sums, bint frozen, const act_t *act,
                           bint stream, int64_t c) noexcept nogil:
    cdef const bn_spans_t *spans = &spans_of(l.element).bn
    cdef double sum_d = 0.0, sum_dx = 0.0
    cdef int64_t at = c * l.inner * l.itemsize, step = l.inner * l.itemsize
    cdef bint ahead = 2 * l.outer * step <= AHEAD_BYTES
    cdef const char *residual = t.residual + at if t.residual != NULL else NULL
    cdef runs_t runs = runs_of(l)
    cdef affine_t f = affine_of(mean[c], invstd[c], parameter(weight, c, l.element, 1.0),
                                parameter(bias, c, l.element, 0.0), l.element)
    if sums:
        if ahead and not stream and t.y != NULL:
            runs.ahead = t.y + at
        spans.run_grad_sums(t.x + at, t.dy + at, residual, &runs, &f, act, &sum_d, &sum_dx)
        settle(l, &f, sum_d, sum_dx, mean, invstd, dweight, dbias, frozen, c)
    if t.y != NULL or t.dresidual != NULL:
        ahead = ahead and sums and c + 1 < l.C
        runs.ahead = t.x + at + step if ahead else NULL
        runs.ahead2 = t.dy + at + step if ahead else NULL
        spans.run_grad_apply(t.x + at, t.dy + at, residual, t.y + at if t.y != NULL else NULL,
                             t.dresidual + at if t.dresidual != NULL else NULL, &runs, &f, act,
                             frozen, stream)


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
    cdef affines_t columns = tile_affines(8)
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
                                min(<int64_t>MAP_ROWS, l.outer - row), width, ld, &columns, act,
                                d_sums, dx_sums)
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
