# Channels side by side (channels-last and (N, C)): included by batchnorm.pyx.
#
# Rows are cut into chunks, whose moments are merged in the order of the chunks; then the chunks are
# normalised, the last one first, because the end of the array is what the caches still hold. With
# few channels, several rows are taken as one.

cdef inline int64_t width_of(const layout_t *l) noexcept nogil:
    return l.C * l.repeat


cdef inline int64_t first_row(const layout_t *l, int64_t chunk) noexcept nogil:
    return l.outer * chunk // l.chunks


cdef inline int64_t block_rows(const layout_t *l) noexcept nogil:
    return max(8, BLOCK_BYTES // (min(width_of(l), TILE) * l.itemsize))


cdef void chunk_moments(const layout_t *l, const char *x, double *parts, int64_t k) noexcept nogil:
    """Mean and sum of squares of every column over chunk k, into parts[k]."""
    cdef const bn_spans_t *spans = &spans_of(l.element).bn
    cdef int64_t ld = width_of(l), row, j, rows, columns
    cdef int64_t first = first_row(l, k), last = first_row(l, k + 1), block = block_rows(l)
    cdef double *mean = parts + 2 * k * ld
    cdef double *m2 = mean + ld
    memset(mean, 0, 2 * ld * sizeof(double))
    row = first
    while row < last:
        rows = min(block, last - row)
        j = 0
        while j < ld:
            columns = min(TILE, ld - j)
            spans.col_moments(x + (row * ld + j) * l.itemsize, rows, columns, ld,
                              <double>(row - first), mean + j, m2 + j)
            j = j + columns
        row = row + rows


cdef void merge_moments(const layout_t *l, const double *parts, double *mean, double *var,
                        int64_t c) noexcept nogil:
    """Merge channel c of all chunks, and of the rows that were taken as one, in their order."""
    cdef int64_t ld = width_of(l), k, r, j
    cdef double n, count = 0.0, delta
    mean[c] = var[c] = 0.0
    for k in range(l.chunks):
        n = <double>(first_row(l, k + 1) - first_row(l, k))
        for r in range(l.repeat):
            j = c + r * l.C
            delta = parts[2 * k * ld + j] - mean[c]
            mean[c] += delta * (n / (count + n))
            var[c] += parts[(2 * k + 1) * ld + j] + delta * delta * (count * (n / (count + n)))
            count += n
    var[c] /= count


cdef void store_affine(const layout_t *l, char *coefficients, const affine_t *f, int64_t c,
                       int terms) noexcept nogil:
    """Channel c's numbers into the arrays centre, a, b, k0, k1, once for every repetition."""
    cdef int64_t ld = width_of(l), r, j
    cdef int size = 8 if l.element == F64 else 4
    for r in range(l.repeat):
        j = c + r * l.C
        put(coefficients, j, l.element, f.centre)
        put(coefficients + ld * size, j, l.element, f.a)
        put(coefficients + 2 * ld * size, j, l.element, f.b)
        if terms:
            put(coefficients + 3 * ld * size, j, l.element, f.k0)
            put(coefficients + 4 * ld * size, j, l.element, f.k1)


cdef affines_t affines_at(const layout_t *l, const char *coefficients, int64_t j) noexcept nogil:
    cdef affines_t f
    cdef int size = 8 if l.element == F64 else 4
    cdef int64_t step = width_of(l) * size
    f.centre = coefficients + j * size
    f.a = coefficients + step + j * size
    f.b = coefficients + 2 * step + j * size
    f.k0 = coefficients + 3 * step + j * size
    f.k1 = coefficients + 4 * step + j * size
    return f


cdef void apply_chunk(const layout_t *l, const tensors_t *t, const char *coefficients,
                      const act_t *act, bint stream, int64_t k) noexcept nogil:
    cdef const bn_spans_t *spans = &spans_of(l.element).bn
    cdef int64_t ld = width_of(l), row, j, rows, columns, at
    cdef int64_t first = first_row(l, k), last = first_row(l, k + 1), block = block_rows(l)
    cdef affines_t f
    while last > first:
        rows = min(block, last - first)
        row = last - rows
        j = 0
        while j < ld:
            columns = min(TILE, ld - j)
            at = (row * ld + j) * l.itemsize
            f = affines_at(l, coefficients, j)
            spans.col_apply(t.x + at, t.residual + at if t.residual != NULL else NULL, t.y + at,
                            rows, columns, ld, &f, act, stream)
            j = j + columns
        last = row


cdef int forward_columns(const layout_t *l, const tensors_t *t, const void *weight,
                         const void *bias, double *mean, double *invstd, double *var, double eps,
                         bint batch, const act_t *act, bint stream) noexcept nogil:
    cdef int64_t ld = width_of(l), k, c
    cdef int64_t part_bytes = 2 * l.chunks * ld * sizeof(double) if batch else 0
    cdef char *memory = <char *>scratch(0, part_bytes + 3 * ld * sizeof(double))
    cdef affine_t f
    if memory == NULL:
        return -1
    if batch:
        for k in prange(l.chunks, schedule="static", num_threads=l.threads):
            chunk_moments(l, t.x, <double *>memory, k)
        for c in prange(l.C, schedule="static", num_threads=l.threads if l.C > 256 else 1):
            merge_moments(l, <double *>memory, mean, var, c)
            invstd[c] = 1.0 / sqrt(var[c] + eps)
    for c in range(l.C):
        f = affine_of(mean[c], invstd[c], parameter(weight, c, l.element, 1.0),
                      parameter(bias, c, l.element, 0.0), l.element)
        store_affine(l, memory + part_bytes, &f, c, 0)
    for k in prange(l.chunks, schedule="static", num_threads=l.threads):
        apply_chunk(l, t, memory + part_bytes, act, stream, l.chunks - 1 - k)
        store_fence()
    return 0


cdef void chunk_sums(const layout_t *l, const tensors_t *t, const char *coefficients,
                     const act_t *act, double *parts, int64_t k) noexcept nogil:
    """The sums of d and d * (x - centre) of every column over chunk k, into parts[k]."""
    cdef const bn_spans_t *spans = &spans_of(l.element).bn
    cdef int64_t ld = width_of(l), row, j, rows, columns, at
    cdef int64_t first = first_row(l, k), last = first_row(l, k + 1), block = block_rows(l)
    cdef double *sum_d = parts + 2 * k * ld
    cdef double *sum_dx = sum_d + ld
    cdef affines_t f
    memset(sum_d, 0, 2 * ld * sizeof(double))
    row = first
    while row < last:
        rows = min(block, last - row)
        j = 0
        while j < ld:
            columns = min(TILE, ld - j)
            at = (row * ld + j) * l.itemsize
            f = affines_at(l, coefficients, j)
            spans.col_grad_sums(t.x + at, t.dy + at,
                                t.residual + at if t.residual != NULL else NULL,
                                rows, columns, ld, &f, act, sum_d + j, sum_dx + j)
            j = j + columns
        row = row + rows


cdef void grad_chunk(const layout_t *l, const tensors_t *t, const char *coefficients,
                     const act_t *act, bint frozen, bint stream, int64_t k) noexcept nogil:
    cdef const bn_spans_t *spans = &spans_of(l.element).bn
    cdef int64_t ld = width_of(l), row, j, rows, columns, at
    cdef int64_t first = first_row(l, k), last = first_row(l, k + 1), block = block_rows(l)
    cdef affines_t f
    while last > first:
        rows = min(block, last - first)
        row = last - rows
        j = 0
        while j < ld:
            columns = min(TILE, ld - j)
            at = (row * ld + j) * l.itemsize
            f = affines_at(l, coefficients, j)
            spans.col_grad_apply(t.x + at, t.dy + at,
                                 t.residual + at if t.residual != NULL else NULL,
                                 t.y + at if t.y != NULL else NULL,
                                 t.dresidual + at if t.dresidual != NULL else NULL,
                                 rows, columns, ld, &f, act, frozen, stream)
            j = j + columns
        last = row


cdef int backward_columns(const layout_t *l, const tensors_t *t, const void *weight,
                          const void *bias, const double *mean, const double *invstd,
                          void *dweight, void *dbias, bint sums, bint frozen, const act_t *act,
                          bint stream) noexcept nogil:
    cdef int64_t ld = width_of(l), k, c, r, j
    cdef int64_t part_bytes = 2 * l.chunks * ld * sizeof(double) if sums else 0
    cdef char *memory = <char *>scratch(0, part_bytes + 5 * ld * sizeof(double))
    cdef char *coefficients = memory + part_bytes
    cdef double *parts = <double *>memory
    cdef double sum_d, sum_dx
    cdef affine_t f
    if memory == NULL:
        return -1
    for c in range(l.C):
        f = affine_of(mean[c], invstd[c], parameter(weight, c, l.element, 1.0),
                      parameter(bias, c, l.element, 0.0), l.element)
        store_affine(l, coefficients, &f, c, 1)
    if sums:
        for k in prange(l.chunks, schedule="static", num_threads=l.threads):
            chunk_sums(l, t, coefficients, act, parts, k)
        for c in range(l.C):
            sum_d = sum_dx = 0.0
            for k in range(l.chunks):
                for r in range(l.repeat):
                    j = c + r * l.C
                    sum_d = sum_d + parts[2 * k * ld + j]
                    sum_dx = sum_dx + parts[(2 * k + 1) * ld + j]
            f = affine_of(mean[c], invstd[c], parameter(weight, c, l.element, 1.0),
                          parameter(bias, c, l.element, 0.0), l.element)
            settle(l, &f, sum_d, sum_dx, mean, invstd, dweight, dbias, frozen, c)
            if not frozen:
                store_affine(l, coefficients, &f, c, 1)
    if t.y != NULL or t.dresidual != NULL:
        for k in prange(l.chunks, schedule="static", num_threads=l.threads):
            grad_chunk(l, t, coefficients, act, frozen, stream, l.chunks - 1 - k)
            store_fence()
    return 0
