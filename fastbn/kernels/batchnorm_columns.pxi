# Channels side by side (channels-last and (N, C)): included by batchnorm.pyx.
#
# Rows are cut into chunks, whose moments are merged in the order of the chunks; then the chunks are
# normalised. A thread normalises the chunks that it has read, the last one first, because that is
# what its caches still hold. With few channels, several rows are taken as one. One thread starts no
# team: that costs as much as a small array.

cdef inline int64_t width_of(const layout_t *l) noexcept nogil:
    return l.C * l.repeat


cdef inline int64_t first_row(const layout_t *l, int64_t chunk) noexcept nogil:
    return l.outer * chunk // l.chunks


cdef inline int64_t block_rows(const layout_t *l) noexcept nogil:
    return max(8, BLOCK_BYTES // (min(width_of(l), TILE) * l.itemsize))


cdef inline int64_t affine_step(const layout_t *l) noexcept nogil:
    return width_of(l) * (8 if l.element == F64 else 4) + STAGGER


cdef inline int64_t affine_bytes(int64_t columns) noexcept nogil:
    """Room for the coefficients, wherever `in_phase` puts them."""
    return 5 * (columns * sizeof(double) + STAGGER) + 4096


cdef inline char *in_phase(char *memory, const char *y) noexcept nogil:
    """Move on to where y stands within its page. Coefficients are read there or STAGGER bytes
    further on, ahead of what is written: a load waits for a store before it whose address differs
    by a multiple of 4096."""
    return memory + ((<int64_t>y - <int64_t>memory + 63) & 4032)


cdef affines_t affines_at(const layout_t *l, char *coefficients, int64_t j) noexcept nogil:
    """The five coefficients of column j on."""
    cdef affines_t f
    cdef int64_t step = affine_step(l)
    cdef char *first = coefficients + j * (8 if l.element == F64 else 4)
    f.centre, f.a, f.b, f.k0, f.k1 = (first, first + step, first + 2 * step, first + 3 * step,
                                      first + 4 * step)
    return f


cdef void lay_out(const layout_t *l, char *coefficients) noexcept nogil:
    """Copy the C coefficients to the columns of the rows that are taken as one, and bring them into
    the order that the spans read them in."""
    cdef int64_t i, r, n = l.C * (8 if l.element == F64 else 4)
    cdef char *first
    cdef affines_t f = affines_at(l, coefficients, 0)
    for i in range(5):
        first = coefficients + i * affine_step(l)
        for r in range(1, l.repeat):
            memcpy(first + r * n, first, n)
    spans_of(l.element).bn.col_order(width_of(l), &f, False)


cdef inline int64_t share(const layout_t *l, int64_t thread) noexcept nogil:
    """The first chunk that is a thread's."""
    return l.chunks * thread // l.threads


cdef void chunk_moments(const layout_t *l, const char *x, double *parts, int64_t k) noexcept nogil:
    """Mean and sum of squares of every column over chunk k, into parts[k]."""
    cdef const bn_spans_t *spans = &spans_of(l.element).bn
    cdef int64_t ld = width_of(l), j = 0, columns
    cdef int64_t first = first_row(l, k), last = first_row(l, k + 1)
    cdef double *mean = parts + 2 * k * ld
    while j < ld:
        columns = min(TILE, ld - j)
        spans.col_moments(x + (first * ld + j) * l.itemsize, last - first, columns, ld, l.ask,
                          mean + j, mean + ld + j)
        j = j + columns


cdef void moments_of_chunks(const layout_t *l, const char *x, double *parts, int64_t first,
                            int64_t last) noexcept nogil:
    cdef int64_t k
    for k in range(first, last):
        chunk_moments(l, x, parts, k)


cdef void merge_moments(const layout_t *l, const double *parts, double *mean,
                        double *m2) noexcept nogil:
    """Merge all chunks, and the rows that were taken as one, in their order."""
    cdef const bn_spans_t *spans = &spans_of(l.element).bn
    cdef int64_t ld = width_of(l), k, r
    cdef double n, count = 0.0
    memset(mean, 0, l.C * sizeof(double))
    memset(m2, 0, l.C * sizeof(double))
    for k in range(l.chunks):
        n = <double>(first_row(l, k + 1) - first_row(l, k))
        for r in range(l.repeat):
            spans.col_merge(count, n, parts + 2 * k * ld + r * l.C,
                            parts + (2 * k + 1) * ld + r * l.C, l.C, mean, m2)
            count += n


cdef void apply_chunk(const layout_t *l, const tensors_t *t, char *coefficients,
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
            columns = min(<int64_t>(STREAM_TILE if stream else TILE), ld - j)
            at = (row * ld + j) * l.itemsize
            f = affines_at(l, coefficients, j)
            spans.col_apply(t.x + at, t.residual + at if t.residual != NULL else NULL, t.y + at,
                            rows, columns, ld, &f, act, stream)
            j = j + columns
        last = row


cdef void apply_chunks(const layout_t *l, const tensors_t *t, char *coefficients,
                       const act_t *act, bint stream, int64_t first, int64_t last) noexcept nogil:
    cdef int64_t k
    for k in range(last - 1, first - 1, -1):
        apply_chunk(l, t, coefficients, act, stream, k)
    store_fence()


cdef int forward_columns(const layout_t *l, const tensors_t *t, const void *weight,
                         const void *bias, double *mean, double *invstd, double *var, double eps,
                         bint batch, const act_t *act, bint stream) noexcept nogil:
    cdef const bn_spans_t *spans = &spans_of(l.element).bn
    cdef int64_t ld = width_of(l), k
    cdef int64_t part_bytes = 2 * l.chunks * ld * sizeof(double) if batch else 0
    cdef char *memory = <char *>scratch(0, part_bytes + affine_bytes(ld))
    cdef char *coefficients = in_phase(memory + part_bytes, t.y)
    cdef affines_t f
    if memory == NULL:
        return -1
    if batch:
        if l.threads == 1:
            moments_of_chunks(l, t.x, <double *>memory, 0, l.chunks)
        else:
            for k in prange(l.threads, schedule="static", num_threads=l.threads):
                moments_of_chunks(l, t.x, <double *>memory, share(l, k), share(l, k + 1))
        merge_moments(l, <double *>memory, mean, var)
        spans.col_invstd(l.C, <double>l.count, eps, var, invstd)
    f = affines_at(l, coefficients, 0)
    spans.col_affine(l.C, mean, invstd, weight, bias, &f)
    lay_out(l, coefficients)
    if l.threads == 1:
        apply_chunks(l, t, coefficients, act, stream, 0, l.chunks)
    else:
        for k in prange(l.threads, schedule="static", num_threads=l.threads):
            apply_chunks(l, t, coefficients, act, stream, share(l, k), share(l, k + 1))
    return 0


cdef void chunk_sums(const layout_t *l, const tensors_t *t, char *coefficients,
                     const act_t *act, double *parts, int64_t k) noexcept nogil:
    """The sums of d and d * (x - centre) of every column over chunk k, into parts[k]."""
    cdef const bn_spans_t *spans = &spans_of(l.element).bn
    cdef int64_t ld = width_of(l), j = 0, columns, at
    cdef int64_t first = first_row(l, k), last = first_row(l, k + 1)
    cdef double *sum_d = parts + 2 * k * ld
    cdef affines_t f
    memset(sum_d, 0, 2 * ld * sizeof(double))
    while j < ld:
        columns = min(TILE, ld - j)
        at = (first * ld + j) * l.itemsize
        f = affines_at(l, coefficients, j)
        spans.col_grad_sums(t.x + at, t.dy + at, t.residual + at if t.residual != NULL else NULL,
                            last - first, columns, ld, l.ask, &f, act, sum_d + j, sum_d + ld + j)
        j = j + columns


cdef void sums_of_chunks(const layout_t *l, const tensors_t *t, char *coefficients,
                         const act_t *act, double *parts, int64_t first,
                         int64_t last) noexcept nogil:
    cdef int64_t k
    for k in range(first, last):
        chunk_sums(l, t, coefficients, act, parts, k)


cdef void add_sums(const layout_t *l, double *parts) noexcept nogil:
    """Add all chunks, and the rows that were taken as one, to the sums of the first C columns."""
    cdef int64_t ld = width_of(l), k, r, c
    cdef double *part
    for k in range(l.chunks):
        for r in range(l.repeat):
            part = parts + 2 * k * ld + r * l.C
            if k + r:
                for c in range(l.C):
                    parts[c] += part[c]
                for c in range(l.C):
                    parts[ld + c] += part[ld + c]


cdef void grad_chunk(const layout_t *l, const tensors_t *t, char *coefficients,
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
            columns = min(<int64_t>(STREAM_TILE if stream else TILE), ld - j)
            at = (row * ld + j) * l.itemsize
            f = affines_at(l, coefficients, j)
            spans.col_grad_apply(t.x + at, t.dy + at,
                                 t.residual + at if t.residual != NULL else NULL,
                                 t.y + at if t.y != NULL else NULL,
                                 t.dresidual + at if t.dresidual != NULL else NULL,
                                 rows, columns, ld, &f, act, frozen, stream)
            j = j + columns
        last = row


cdef void grad_chunks(const layout_t *l, const tensors_t *t, char *coefficients,
                      const act_t *act, bint frozen, bint stream, int64_t first,
                      int64_t last) noexcept nogil:
    cdef int64_t k
    for k in range(last - 1, first - 1, -1):
        grad_chunk(l, t, coefficients, act, frozen, stream, k)
    store_fence()


cdef int backward_columns(const layout_t *l, const tensors_t *t, const void *weight,
                          const void *bias, const double *mean, const double *invstd,
                          void *dweight, void *dbias, bint sums, bint frozen, const act_t *act,
                          bint stream) noexcept nogil:
    cdef const bn_spans_t *spans = &spans_of(l.element).bn
    cdef int64_t ld = width_of(l), k
    cdef int64_t part_bytes = 2 * l.chunks * ld * sizeof(double)
    cdef char *memory = <char *>scratch(0, part_bytes + affine_bytes(ld))
    cdef char *coefficients = in_phase(memory + part_bytes, t.y)
    cdef double *parts = <double *>memory
    cdef affines_t f
    if memory == NULL:
        return -1
    f = affines_at(l, coefficients, 0)
    spans.col_affine(l.C, mean, invstd, weight, bias, &f)
    memset(<void *>f.k0, 0, 2 * affine_step(l))
    lay_out(l, coefficients)
    if sums:
        if l.threads == 1:
            sums_of_chunks(l, t, coefficients, act, parts, 0, l.chunks)
        else:
            for k in prange(l.threads, schedule="static", num_threads=l.threads):
                sums_of_chunks(l, t, coefficients, act, parts, share(l, k), share(l, k + 1))
        add_sums(l, parts)
        spans.col_order(ld, &f, True)
        spans.col_terms(l.C, <double>l.count, mean, invstd, parts, parts + ld, &f, dweight, dbias,
                        frozen)
        lay_out(l, coefficients)
    if t.y != NULL or t.dresidual != NULL:
        if l.threads == 1:
            grad_chunks(l, t, coefficients, act, frozen, stream, 0, l.chunks)
        else:
            for k in prange(l.threads, schedule="static", num_threads=l.threads):
                grad_chunks(l, t, coefficients, act, frozen, stream, share(l, k),
                            share(l, k + 1))
    return 0
