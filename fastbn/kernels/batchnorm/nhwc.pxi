# NHWC and (N, C), channels side by side: included by batchnorm.pyx.
#
# Rows are cut into chunks, whose moments are merged in the order of the chunks; then the chunks are
# normalised. A thread normalises the chunks that it has read, the last one first, because that is
# what its caches still hold. With few channels, several rows are taken as one.

cdef inline int64_t width_of(const layout_t *l) noexcept nogil:
    return l.C * l.repeat


cdef inline int64_t first_row(const layout_t *l, int64_t chunk) noexcept nogil:
    return l.outer * chunk // l.chunks


cdef inline int64_t block_rows(const layout_t *l) noexcept nogil:
    return max(8, BLOCK_BYTES // (min(width_of(l), TILE) * l.itemsize))


cdef inline int64_t affine_step(const layout_t *l) noexcept nogil:
    return width_of(l) * (8 if l.element == F64 else 4) + STAGGER_BYTES


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
    the order that loops read them in."""
    cdef int64_t i, r, n = l.C * (8 if l.element == F64 else 4)
    cdef char *first
    cdef affines_t f = affines_at(l, coefficients, 0)
    for i in range(5):
        first = coefficients + i * affine_step(l)
        for r in range(1, l.repeat):
            memcpy(first + r * n, first, n)
    batchnorm_simd(l.element).order_parts(width_of(l), &f, False)


cdef inline int64_t share(const layout_t *l, int64_t task) noexcept nogil:
    """The first chunk that is a thread's."""
    return l.chunks * task // l.threads


cdef inline int64_t owner(const layout_t *l, int64_t chunk) noexcept nogil:
    """The thread that has this chunk in its share."""
    return ((chunk + 1) * l.threads - 1) // l.chunks


cdef inline double *part_of(const call_t *k, int64_t chunk) noexcept nogil:
    """Two numbers for every column: first those of one kind, then the others."""
    return k.parts + 2 * chunk * width_of(&k.l)


ctypedef void (*take_t)(const call_t *k, int64_t chunk) noexcept nogil
ctypedef void (*join_t)(const call_t *k, int64_t first, int64_t middle, int64_t last) noexcept nogil

cdef enum:
    REST = -1  # instead of a thread's number: what no thread could join


cdef void reduce_chunks(const call_t *k, take_t take, join_t join, int64_t first, int64_t last,
                        int64_t task) noexcept nogil:
    """Take the parts of the chunks `first` to `last`, and join halves with halves, into the part of
    the first one: as far as all of them are in the share of `task`, or, for REST, as far as they
    are in several.

    The halves are the same for every number of threads. A thread joins what it has just taken, and
    what others see of it, over a bus between caches, is little."""
    cdef int64_t low = owner(&k.l, first), high = owner(&k.l, last - 1)
    cdef int64_t middle = (first + last) // 2
    if task == REST:
        if low == high:
            return
    elif task < low or high < task:
        return
    if last - first == 1:
        take(k, first)
        return
    reduce_chunks(k, take, join, first, middle, task)
    reduce_chunks(k, take, join, middle, last, task)
    if low == high or task == REST:
        join(k, first, middle, last)


cdef void take_moments(const call_t *k, int64_t chunk) noexcept nogil:
    """Mean and sum of squares about it of every column."""
    cdef const layout_t *l = &k.l
    cdef int64_t ld = width_of(l), j = 0, columns
    cdef int64_t first = first_row(l, chunk), last = first_row(l, chunk + 1)
    cdef double *mean = part_of(k, chunk)
    while j < ld:
        columns = min(TILE, ld - j)
        batchnorm_simd(l.element).nhwc_moments(k.t.x + (first * ld + j) * l.itemsize, last - first,
                                               columns, ld, l.prefetch, mean + j, mean + ld + j)
        j = j + columns


cdef void join_moments(const call_t *k, int64_t first, int64_t middle, int64_t last) noexcept nogil:
    cdef const layout_t *l = &k.l
    cdef int64_t ld = width_of(l), cut = first_row(l, middle)
    cdef double *mean = part_of(k, first)
    cdef const double *other = part_of(k, middle)
    batchnorm_simd(l.element).merge_moments(cut - first_row(l, first), first_row(l, last) - cut,
                                            other, other + ld, ld, mean, mean + ld)


cdef void moments_task(const void *job, int64_t task) noexcept nogil:
    cdef const call_t *k = <const call_t *>job
    reduce_chunks(k, take_moments, join_moments, 0, k.l.chunks, task)


cdef void find_moments(const call_t *k) noexcept nogil:
    """Mean of every channel, and in k.var the sum of squares about it."""
    cdef const layout_t *l = &k.l
    cdef int64_t ld = width_of(l), r
    cdef const double *mean = part_of(k, 0)
    run_tasks(moments_task, k, l.threads, l.threads)
    reduce_chunks(k, take_moments, join_moments, 0, l.chunks, REST)
    memcpy(k.mean, mean, l.C * sizeof(double))
    memcpy(k.var, mean + ld, l.C * sizeof(double))
    for r in range(1, l.repeat):  # the rows that were taken as one
        batchnorm_simd(l.element).merge_moments(<double>(r * l.outer), <double>l.outer,
                                                mean + r * l.C, mean + ld + r * l.C, l.C, k.mean,
                                                k.var)


cdef void find_coefficients(const call_t *k, const double *mean, const double *invstd,
                            char *coefficients) noexcept nogil:
    cdef affines_t f = affines_at(&k.l, coefficients, 0)
    batchnorm_simd(k.l.element).find_affine(k.l.C, mean, invstd, k.weight, k.bias, &f)
    memset(<void *>f.k0, 0, 2 * affine_step(&k.l))
    lay_out(&k.l, coefficients)


cdef char *own_coefficients(const call_t *k, int64_t task) noexcept nogil:
    """The coefficients: the thread's own in inference, whose statistics nobody has just written."""
    cdef int64_t C = k.l.C
    cdef double *mean = own_statistics(k, task, affine_bytes(width_of(&k.l)))
    cdef char *coefficients
    if mean == NULL:
        return k.coefficients
    coefficients = in_phase(<char *>(mean + 2 * C), k.t.y)
    find_coefficients(k, mean, mean + C, coefficients)
    return coefficients


cdef void apply_rows(const call_t *k, int64_t at, int64_t rows, int64_t columns, int64_t ld,
                     const affines_t *f) noexcept nogil:
    """Normalise some columns of rows whose first value is so many bytes from that of x."""
    cdef const batchnorm_simd_t *simd = batchnorm_simd(k.l.element)
    cdef const char *residual = moved(k.t.residual, at)
    if k.act.kind == ACT_SMOOTH:
        simd.nhwc_smooth(k.t.x + at, NULL, residual, k.t.y + at, rows, columns, ld, f, &k.act)
    else:
        simd.nhwc_forward(k.t.x + at, residual, k.t.y + at, rows, columns, ld, f, &k.act, k.stream)


cdef void smooth_rows(const call_t *k, int64_t at, int64_t rows, int64_t columns, int64_t ld,
                      const affines_t *f) noexcept nogil:
    """dz of the same."""
    batchnorm_simd(k.l.element).nhwc_smooth(k.z.x + at, k.z.dy + at, moved(k.z.residual, at),
                                            k.z.y + at, rows, columns, ld, f, &k.smooth)


cdef void apply_task(const void *job, int64_t task) noexcept nogil:
    """Normalise a thread's chunks, in blocks of rows, the last one first."""
    cdef const call_t *k = <const call_t *>job
    cdef const layout_t *l = &k.l
    cdef char *coefficients = own_coefficients(k, task)
    cdef int64_t ld = width_of(l), row, j, columns, at, block = block_rows(l)
    cdef int64_t first = first_row(l, share(l, task)), last = first_row(l, share(l, task + 1))
    cdef affines_t f
    while last > first:
        row = max(first, last - block)
        j = 0
        while j < ld:
            columns = min(<int64_t>(STREAM_TILE if k.stream else TILE), ld - j)
            at = (row * ld + j) * l.itemsize
            f = affines_at(l, coefficients, j)
            apply_rows(k, at, last - row, columns, ld, &f)
            j = j + columns
        last = row
    store_fence()


cdef int take_memory(call_t *k, bint parts) noexcept nogil:
    """Room for the coefficients, and for what every chunk comes to."""
    cdef const layout_t *l = &k.l
    cdef int64_t bytes_ = 2 * l.chunks * width_of(l) * sizeof(double) if parts else 0
    cdef char *memory = <char *>scratch(0, bytes_ + affine_bytes(width_of(l)))
    k.parts = <double *>memory
    k.coefficients = in_phase(memory + bytes_, k.t.y if k.t.y != NULL else k.t.dx)
    return 0 if memory != NULL else -1


cdef int forward_nhwc(call_t *k) noexcept nogil:
    cdef const layout_t *l = &k.l
    cdef const batchnorm_simd_t *simd = batchnorm_simd(l.element)
    if take_memory(k, k.batch):
        return -1
    if k.batch:
        find_moments(k)
        settle_moments(k, 0, l.C)
    find_coefficients(k, k.mean, k.invstd, k.coefficients)
    run_tasks(apply_task, k, l.threads, l.threads)
    return 0


cdef void take_sums(const call_t *k, int64_t chunk) noexcept nogil:
    """The sums of d and d * (x - centre) of every column. Of a smooth activation dz comes first, so
    many rows at a time that the first caches still hold them for the sums."""
    cdef const layout_t *l = &k.l
    cdef bint smooth = k.z.y != NULL
    cdef int64_t ld = width_of(l), j = 0, columns, at, row, rows
    cdef int64_t first = first_row(l, chunk), last = first_row(l, chunk + 1)
    cdef double *sum_d = <double *>memset(part_of(k, chunk), 0, 2 * ld * sizeof(double))
    cdef affines_t f
    while j < ld:
        columns = min(TILE, ld - j)
        f = affines_at(l, k.coefficients, j)
        row = first
        while row < last:
            rows = min(<int64_t>SUM_ROWS, last - row) if smooth else last - row
            at = (row * ld + j) * l.itemsize
            if smooth:
                smooth_rows(k, at, rows, columns, ld, &f)
            batchnorm_simd(l.element).nhwc_sums(
                k.t.x + at, k.t.dy + at, moved(k.t.residual, at), rows, columns, ld,
                l.prefetch and not smooth, &f, &k.act, sum_d + j, sum_d + ld + j)
            row = row + rows
        j = j + columns


cdef void join_sums(const call_t *k, int64_t first, int64_t middle, int64_t last) noexcept nogil:
    cdef double *sums = part_of(k, first)
    cdef const double *other = part_of(k, middle)
    cdef int64_t j
    for j in range(2 * width_of(&k.l)):
        sums[j] += other[j]


cdef void sums_task(const void *job, int64_t task) noexcept nogil:
    cdef const call_t *k = <const call_t *>job
    reduce_chunks(k, take_sums, join_sums, 0, k.l.chunks, task)


cdef void find_sums(const call_t *k) noexcept nogil:
    """The sums of every channel, in the first C columns of the first chunk's part."""
    cdef const layout_t *l = &k.l
    cdef int64_t ld = width_of(l), r, c
    cdef double *sums = part_of(k, 0)
    run_tasks(sums_task, k, l.threads, l.threads)
    reduce_chunks(k, take_sums, join_sums, 0, l.chunks, REST)
    for r in range(1, l.repeat):  # the rows that were taken as one
        for c in range(l.C):
            sums[c] += sums[r * l.C + c]
            sums[ld + c] += sums[ld + r * l.C + c]


cdef void grad_task(const void *job, int64_t task) noexcept nogil:
    """dx of a thread's chunks, in blocks of rows, the last one first."""
    cdef const call_t *k = <const call_t *>job
    cdef const layout_t *l = &k.l
    cdef const batchnorm_simd_t *simd = batchnorm_simd(l.element)
    cdef int64_t ld = width_of(l), row, j, columns, at, block = block_rows(l)
    cdef int64_t first = first_row(l, share(l, task)), last = first_row(l, share(l, task + 1))
    cdef affines_t f
    while last > first:
        row = max(first, last - block)
        j = 0
        while j < ld:
            columns = min(<int64_t>(STREAM_TILE if k.stream else TILE), ld - j)
            at = (row * ld + j) * l.itemsize
            f = affines_at(l, k.coefficients, j)
            simd.nhwc_backward(k.t.x + at, k.t.dy + at, moved(k.t.residual, at),
                               moved(k.t.dx, at), moved(k.t.dresidual, at), last - row, columns,
                               ld, &f, &k.act, without_terms(k), l.prefetch, k.stream)
            j = j + columns
        last = row
    store_fence()


cdef void take_terms(const call_t *k, const affines_t *f) noexcept nogil:
    """The terms of dx that are given, about the centres."""
    cdef int element = k.l.element
    cdef int64_t c
    cdef double off
    for c in range(k.l.C):
        off = parameter(f.centre, c, element, 0.0) - k.mean[c]
        put(<void *>f.k1, c, element, k.slope[c])
        put(<void *>f.k0, c, element, k.slope[c] * off + k.constant[c])


cdef int backward_nhwc(call_t *k) noexcept nogil:
    cdef const layout_t *l = &k.l
    cdef const batchnorm_simd_t *simd = batchnorm_simd(l.element)
    cdef int64_t ld = width_of(l)
    cdef affines_t f
    if take_memory(k, True):
        return -1
    find_coefficients(k, k.mean, k.invstd, k.coefficients)
    if k.sums or k.z.y != NULL:
        find_sums(k)
    if k.sums or k.slope != NULL:
        f = affines_at(l, k.coefficients, 0)
        simd.order_parts(ld, &f, True)
        if k.sums:
            simd.gradient_terms(l.C, <double>l.count, k.mean, k.invstd, k.parts, k.parts + ld, &f,
                                k.dweight, k.dbias, k.frozen)
        if k.slope != NULL:
            take_terms(k, &f)
        lay_out(l, k.coefficients)
    if k.t.dx != NULL or k.t.dresidual != NULL:
        run_tasks(grad_task, k, l.threads, l.threads)
    return 0
