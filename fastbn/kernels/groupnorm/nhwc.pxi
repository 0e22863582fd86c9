# NHWC: a sample's rows of pixels, cut into chunks: included by groupnorm.pyx.

cdef inline affines_t tile_of(const affines_t *f, int64_t c, int size) noexcept nogil:
    """The coefficients from channel c on."""
    cdef affines_t part
    part.centre, part.a, part.b = f.centre + c * size, f.a + c * size, f.b + c * size
    part.k0, part.k1 = f.k0 + c * size, f.k1 + c * size
    return part


cdef affines_t ordered(const call_t *k, int64_t n, char *memory) noexcept nogil:
    """The coefficients in the order that the NHWC loops read them in."""
    cdef affines_t f = sample_affines(k, n, memory)
    batchnorm_simd(k.element).order_parts(k.C, &f, False)
    return f


cdef void chunk_moments(const call_t *k, int64_t n, int64_t chunk, double *part) noexcept nogil:
    """Mean of every channel over a chunk of rows, then sums of squares about it."""
    cdef const batchnorm_simd_t *simd = batchnorm_simd(k.element)
    cdef int64_t first = first_row(k, chunk), rows = first_row(k, chunk + 1) - first, c = 0, now
    cdef const char *x = k.t.x + n * sample_bytes(k) + first * k.C * k.itemsize
    while c < k.C:
        now = min(<int64_t>TILE, k.C - c)
        simd.nhwc_moments(x + c * k.itemsize, rows, now, k.C, False, part + c, part + k.C + c)
        c = c + now


cdef void settle_sample(const call_t *k, int64_t n, double *parts) noexcept nogil:
    """Merge the chunks' moments, in their order, into the first part, then channels into groups."""
    cdef int64_t chunk
    for chunk in range(1, k.chunks):
        batchnorm_simd(k.element).merge_moments(
            first_row(k, chunk), first_row(k, chunk + 1) - first_row(k, chunk),
            parts + 2 * k.C * chunk, parts + 2 * k.C * chunk + k.C, k.C, parts, parts + k.C)
    group_moments(k, n, parts, parts + k.C)


cdef void apply_rows(const call_t *k, const tensors_t *t, int64_t at, int64_t rows,
                     int64_t columns, int64_t ld, const affines_t *f, int stream) noexcept nogil:
    """Normalise some columns of rows whose first value is so many bytes from that of x."""
    cdef const batchnorm_simd_t *simd = batchnorm_simd(k.element)
    if k.act.kind == ACT_SMOOTH:
        simd.nhwc_smooth(t.x + at, NULL, NULL, t.y + at, rows, columns, ld, f, &k.act)
    else:
        simd.nhwc_forward(t.x + at, NULL, t.y + at, rows, columns, ld, f, &k.act, stream)


cdef void smooth_rows(const call_t *k, const tensors_t *z, int64_t at, int64_t rows,
                      int64_t columns, int64_t ld, const affines_t *f) noexcept nogil:
    """dz of the same."""
    batchnorm_simd(k.element).nhwc_smooth(z.x + at, z.dy + at, NULL, z.y + at, rows, columns, ld,
                                          f, &k.smooth)


cdef void apply_chunk(const call_t *k, int64_t n, int64_t chunk, const affines_t *f) noexcept nogil:
    cdef int64_t first = first_row(k, chunk), rows = first_row(k, chunk + 1) - first, c = 0, now
    cdef int64_t at = n * sample_bytes(k) + first * k.C * k.itemsize
    cdef affines_t part
    while c < k.C:
        now = min(<int64_t>TILE, k.C - c)
        part = tile_of(f, c, k.size)
        apply_rows(k, &k.t, at + c * k.itemsize, rows, now, k.C, &part, k.stream)
        c = c + now


cdef void forward_nhwc(const void *job, int64_t block) noexcept nogil:
    """All samples of a block."""
    cdef const call_t *k = <const call_t *>job
    cdef int64_t n, chunk
    cdef double *parts = <double *>scratch(1, 2 * k.C * k.chunks * sizeof(double))
    cdef char *memory = <char *>scratch(2, 5 * coefficients_step(k))
    cdef affines_t f
    if parts == NULL or memory == NULL:
        fail(k)
        return
    memset(memory, 0, 5 * coefficients_step(k))
    for n in range(first_of_block(k, block), first_of_block(k, block + 1)):
        for chunk in range(k.chunks):
            chunk_moments(k, n, chunk, parts + 2 * k.C * chunk)
        settle_sample(k, n, parts)
        f = ordered(k, n, memory)
        for chunk in range(k.chunks - 1, -1, -1):  # the last one is still in the caches
            apply_chunk(k, n, chunk, &f)
    store_fence()


cdef void moments_task(const void *job, int64_t task) noexcept nogil:
    cdef const call_t *k = <const call_t *>job
    chunk_moments(k, task // k.chunks, task % k.chunks, k.chunk_parts + 2 * k.C * task)


cdef void apply_task(const void *job, int64_t task) noexcept nogil:
    cdef const call_t *k = <const call_t *>job
    cdef char *memory = <char *>scratch(2, 5 * coefficients_step(k))
    cdef affines_t f
    if memory == NULL:
        fail(k)
        return
    memset(memory, 0, 5 * coefficients_step(k))
    f = ordered(k, task // k.chunks, memory)
    apply_chunk(k, task // k.chunks, task % k.chunks, &f)
    store_fence()


cdef void chunk_sums(const call_t *k, int64_t n, int64_t chunk, const affines_t *f,
                     double *part) noexcept nogil:
    cdef int64_t first = first_row(k, chunk), rows = first_row(k, chunk + 1) - first, c = 0, now
    cdef int64_t at = n * sample_bytes(k) + first * k.C * k.itemsize, here
    cdef affines_t tile
    memset(part, 0, 2 * k.C * sizeof(double))
    while c < k.C:
        now = min(<int64_t>TILE, k.C - c)
        tile = tile_of(f, c, k.size)
        here = at + c * k.itemsize
        if k.z.y != NULL:
            smooth_rows(k, &k.z, here, rows, now, k.C, &tile)
        batchnorm_simd(k.element).nhwc_sums(k.t.x + here, k.t.dy + here, NULL, rows, now, k.C,
                                            False, &tile, &k.act, part + c, part + k.C + c)
        c = c + now


cdef void settle_sums(const call_t *k, int64_t n, double *sums, double *part, char *memory,
                      affines_t *f) noexcept nogil:
    """Add the chunks' sums in their order, then find the terms of dx for every channel."""
    cdef int64_t chunk, c, g
    cdef double k0, k1
    for chunk in range(1, k.chunks):
        for c in range(2 * k.C):
            sums[c] += sums[2 * k.C * chunk + c]
    f[0] = sample_affines(k, n, memory)
    for g in range(k.G):
        group_terms(k, n, g, sums + g * k.width, sums + k.C + g * k.width, part, &k0, &k1)
        for c in range(g * k.width, (g + 1) * k.width):
            put(f.k0, c, k.element, k0)
            put(f.k1, c, k.element, k1)
    batchnorm_simd(k.element).order_parts(k.C, f, False)


cdef void gradient_chunk(const call_t *k, int64_t n, int64_t chunk,
                         const affines_t *f) noexcept nogil:
    cdef int64_t first = first_row(k, chunk), rows = first_row(k, chunk + 1) - first, c = 0, now
    cdef int64_t at = n * sample_bytes(k) + first * k.C * k.itemsize, here
    cdef affines_t tile
    while c < k.C:
        now = min(<int64_t>TILE, k.C - c)
        tile = tile_of(f, c, k.size)
        here = at + c * k.itemsize
        batchnorm_simd(k.element).nhwc_backward(
            k.t.x + here, k.t.dy + here, NULL, k.t.dx + here, NULL, rows, now, k.C, &tile, &k.act,
            False, False, k.stream)
        c = c + now


cdef void backward_nhwc(const void *job, int64_t block) noexcept nogil:
    """All samples of a block."""
    cdef const call_t *k = <const call_t *>job
    cdef int64_t n, chunk
    cdef double *sums = <double *>scratch(1, 2 * k.C * k.chunks * sizeof(double))
    cdef char *memory = <char *>scratch(2, 5 * coefficients_step(k))
    cdef double *part = k.parts + 2 * k.C * block
    cdef affines_t f
    if sums == NULL or memory == NULL:
        fail(k)
        return
    memset(memory, 0, 5 * coefficients_step(k))
    memset(part, 0, 2 * k.C * sizeof(double))
    for n in range(first_of_block(k, block), first_of_block(k, block + 1)):
        f = ordered(k, n, memory)
        for chunk in range(k.chunks):
            chunk_sums(k, n, chunk, &f, sums + 2 * k.C * chunk)
        settle_sums(k, n, sums, part, memory, &f)
        if k.t.dx != NULL:
            for chunk in range(k.chunks - 1, -1, -1):
                gradient_chunk(k, n, chunk, &f)
    store_fence()


cdef void sums_task(const void *job, int64_t task) noexcept nogil:
    cdef const call_t *k = <const call_t *>job
    cdef char *memory = <char *>scratch(2, 5 * coefficients_step(k))
    cdef affines_t f
    if memory == NULL:
        fail(k)
        return
    memset(memory, 0, 5 * coefficients_step(k))
    f = ordered(k, task // k.chunks, memory)
    chunk_sums(k, task // k.chunks, task % k.chunks, &f, k.chunk_parts + 2 * k.C * task)


cdef void gradient_task(const void *job, int64_t task) noexcept nogil:
    """A chunk of a sample; its coefficients are behind the sums of all chunks."""
    cdef const call_t *k = <const call_t *>job
    cdef int64_t n = task // k.chunks, step = coefficients_step(k)
    cdef char *memory = <char *>(k.chunk_parts + 2 * k.C * k.N * k.chunks) + 5 * step * n
    cdef affines_t f
    f.centre, f.a, f.b = memory, memory + step, memory + 2 * step
    f.k0, f.k1 = memory + 3 * step, memory + 4 * step
    gradient_chunk(k, n, task % k.chunks, &f)
    store_fence()
