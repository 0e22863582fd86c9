# dweight: its rows are (tap, input channel), its columns output channels (see conv.pyx).
#
# A block of output pixels at a time, x and dy are copied together: dy into panels of columns, where
# there are several, x into blocks of channels with zeros for the padding. With a stride, the
# columns of x are sorted by their place in a step, so that neighbouring windows see neighbours.
# What windows of one pixel see is read where it lies. A tile of dweight stays in registers while
# the block passes by; the rows of a tile may lie under different taps.

cdef struct weights_t:
    const conv_t *v
    axis_t h, w
    const char *x
    const char *dy
    char *parts          # [chunk][kh][kw][C / groups][K]
    int64_t chunks, pieces, tiles
    int64_t rows         # of dweight: kh * kw * C / groups
    int64_t run          # channels that lie side by side in the copy of x, or in x
    int64_t phase        # columns of one place in a step
    int64_t width        # columns of a row in the copy of x
    bint padded
    bint lies, direct    # x, dy is read where it lies
    bint failed          # there was no memory


cdef void split_row(const weights_t *p, int64_t image, int64_t h, int64_t channel, char *to,
                    int64_t apart) noexcept nogil:
    """A row of x, its columns counted from the first window's left edge and sorted by phases."""
    cdef const conv_t *v = p.v
    cdef const matmul_simd_t *simd = matmul_simd(v.element)
    cdef int64_t phase, begin, end, step = p.w.step, first
    if h < 0 or h >= p.h.size:
        return
    for phase in range(p.width // p.phase):
        first = p.w.first + phase
        begin = (max(-first, <int64_t>0) + step - 1) // step
        end = min(p.phase, (p.w.size - first + step - 1) // step)
        if begin < end:
            simd.split_pixels(
                p.x + (((image * p.h.size + h) * p.w.size + first + begin * step) * v.C + channel)
                * v.itemsize, end - begin, step * v.C, v.C // v.groups, p.run,
                to + (phase * p.phase + begin) * p.run * v.itemsize, apart)


cdef int64_t split_block(const weights_t *p, int64_t first, int64_t last, int64_t channel,
                         const void **at) noexcept nogil:
    """Copy what the pixels from first to last see; at[p] is where the window of pixel p begins.

    Returns the number of elements that a run of channels takes, -1 if there is no memory.
    """
    cdef const conv_t *v = p.v
    cdef int64_t row = first // v.OW, last_row = (last - 1) // v.OW, depth = v.C // v.groups
    cdef int64_t runs = (depth + p.run - 1) // p.run
    cdef int64_t apart = rows_seen(&p.h, row, last_row) * p.width * p.run
    cdef int64_t slot = 0, slots = 0, image, i, j, k, m = 0
    cdef char *copy = room_for(<double>rows_seen(&p.h, row, last_row) * p.width * p.run * runs,
                               v.itemsize)
    if copy == NULL:
        return -1
    if p.padded:
        memset(copy, 0, apart * runs * v.itemsize)
    while row <= last_row:
        image = row // p.h.grid
        i = row - image * p.h.grid
        if m == 0 or i == 0:  # as in point()
            slot = slots
            k = 0
        else:
            slot += p.h.step
            k = max(slots - slot, <int64_t>0)
        for k in range(k, reach(&p.h)):
            split_row(p, image, i * p.h.step + p.h.first + k, channel,
                      copy + (slot + k) * p.width * p.run * v.itemsize, apart)
        slots = slot + reach(&p.h)
        for j in range(max(first - row * v.OW, <int64_t>0), min(last - row * v.OW, v.OW)):
            at[m] = copy + (slot * p.width + j) * p.run * v.itemsize
            m += 1
        row += 1
    return apart


cdef inline const char *row_of(const weights_t *p, int64_t row, int64_t channel) noexcept nogil:
    """What the first pixel of a row of dy sees of x through a window of one pixel."""
    cdef const conv_t *v = p.v
    cdef int64_t image = row // v.OH, i = row - image * v.OH
    return p.x + ((image * v.H + i * v.sh) * v.W * v.C + channel) * v.itemsize


cdef int64_t point_block(const weights_t *p, int64_t first, int64_t count, int64_t channel,
                         const void **at) noexcept nogil:
    """at[k] is what pixel first + k sees of x; returns the bytes to what the next block sees."""
    cdef const conv_t *v = p.v
    cdef int64_t row = first // v.OW, j = first - row * v.OW, step = v.sw * v.C * v.itemsize, k
    cdef const char *pixel = row_of(p, row, channel) + j * step
    for k in range(count):
        at[k] = pixel
        pixel += step
        j += 1
        if j == v.OW:
            row += 1
            pixel, j = row_of(p, row, channel), 0
    return pixel - <const char *>at[0]


cdef void row_offsets(const weights_t *p, int64_t apart, int64_t *off) noexcept nogil:
    """Where the rows of dweight find their values, seen from the beginning of a window."""
    cdef int64_t depth = p.v.C // p.v.groups, i, j, c, k, column, m = 0
    for i in range(p.h.taps):
        for j in range(p.w.taps):
            column = j * p.w.apart % p.w.step * p.phase + j * p.w.apart // p.w.step
            c = 0
            while c < depth:
                for k in range(min(p.run, depth - c)):
                    off[m] = c // p.run * apart + (i * p.h.apart * p.width + column) * p.run + k
                    m += 1
                c += p.run


cdef void weights_task(const void *job, int64_t task) noexcept nogil:
    """One piece of the rows of dweight, over one chunk of output pixels."""
    cdef const weights_t *p = <const weights_t *>job
    cdef const conv_t *v = p.v
    cdef const matmul_simd_t *simd = matmul_simd(v.element)
    cdef int64_t total = v.N * v.OH * v.OW, chunk = task // p.pieces, piece = task % p.pieces
    cdef int64_t first = total * chunk // p.chunks, last = total * (chunk + 1) // p.chunks
    cdef int64_t begin = p.rows * piece // p.pieces, end = p.rows * (piece + 1) // p.pieces
    cdef int64_t depth = v.C // v.groups, n = v.K // v.groups
    cdef int64_t panels = (n + simd.nr - 1) // simd.nr, size = simd.nr * v.itemsize
    cdef int64_t blocks = (last - first + PIXELS - 1) // PIXELS, block, start, count, row, rows
    cdef int64_t group, panel, column, apart = 0, before = -1, ldb = simd.nr, seen, k, behind = 0
    cdef char *part = p.parts + chunk * p.rows * v.K * v.itemsize
    cdef char *dy = <char *>scratch(3, panels * PIXELS * size)
    cdef int64_t *off = <int64_t *>scratch(1, p.rows * sizeof(int64_t))
    cdef const void *at[PIXELS]
    cdef ahead_t[2] next_block
    cdef ahead_t[2] ahead
    for group in range(v.groups):
        for block in range(blocks):
            start = first + (last - first) * block // blocks
            count = first + (last - first) * (block + 1) // blocks - start
            if p.lies:
                behind = point_block(p, start, count, group * depth, at)
            else:
                apart = split_block(p, start, start + count, group * depth, at)
            if apart < 0 or off == NULL or dy == NULL:
                (<weights_t *>p).failed = True
                return
            if apart != before:
                row_offsets(p, apart, off)
                before = apart
            if p.direct:
                dy = <char *>p.dy + (start * v.K + group * n) * v.itemsize
                size, ldb = simd.nr * v.itemsize, v.K
            else:
                simd.split_pixels(p.dy + (start * v.K + group * n) * v.itemsize, count, v.K, n,
                                  simd.nr, dy, PIXELS * simd.nr)
                size = PIXELS * simd.nr * v.itemsize
            # what the next block's windows see begins, about, at its first pixel's row
            seen = count * v.sh * v.sw * v.C
            next_block[0].p = p.dy + (start + count) * v.K * v.itemsize
            next_block[0].bytes = count * v.K * v.itemsize
            next_block[1].p = p.x + (start + count) // v.OW * v.sh * v.W * v.C * v.itemsize
            next_block[1].bytes = 0 if p.lies else seen * v.itemsize
            if (block + 2 >= blocks or v.groups > 1
                    or next_block[0].bytes + next_block[1].bytes > AHEAD_BYTES):
                next_block[0].bytes = next_block[1].bytes = 0
            row = begin
            while row < end:  # rows whose values stay in the second-level cache for all panels
                rows = min(end - row, <int64_t>GROUP * simd.mr)
                for k in range(2):
                    ahead[k].bytes = next_block[k].bytes * rows // (panels * (end - begin))
                for panel in range(panels):
                    column = group * n + panel * simd.nr
                    for k in range(2):
                        ahead[k].p = next_block[k].p
                        next_block[k].p = <const char *>next_block[k].p + ahead[k].bytes
                    simd.outer_rows(count, at, off + row, dy + panel * size, ldb,
                                    part + (row * v.K + column) * v.itemsize, v.K, rows,
                                    min(<int64_t>simd.nr, n - panel * simd.nr), block > 0, ahead,
                                    behind if panel == 0 else 0)
                row += rows


cdef struct sums_t:
    char *parts          # [chunk][count]
    int64_t chunks, count
    const conv_t *v


cdef void add_task(const void *job, int64_t task) noexcept nogil:
    """parts[0] += parts[1] + ..., in that order, for one slice of the numbers."""
    cdef const sums_t *s = <const sums_t *>job
    cdef int64_t first = task * SLICE, chunk = 1, k
    cdef char *total = s.parts + first * s.v.itemsize
    cdef const void *terms[MOST_TERMS]
    terms[0] = total
    while chunk < s.chunks:
        k = 1
        while k < MOST_TERMS and chunk < s.chunks:
            terms[k] = total + chunk * s.count * s.v.itemsize
            k += 1
            chunk += 1
        add_simd(s.v.element).sum_terms(terms, <int>k, total,
                                        min(<int64_t>SLICE, s.count - first), False)


cdef void add_parts(const conv_t *v, char *parts, int64_t chunks, int64_t count,
                    int threads) noexcept nogil:
    """Add what chunks have come to, `count` numbers each, to the first one's."""
    cdef sums_t s
    s.v, s.parts, s.chunks, s.count = v, parts, chunks, count
    run_tasks(add_task, &s, (count + SLICE - 1) // SLICE, threads)


cdef int backward_weights(const conv_t *v, const char *x, const char *dy,
                          char *dweight) noexcept nogil:
    """dweight, stored (kh, kw, C / groups, K)."""
    cdef const matmul_simd_t *simd = matmul_simd(v.element)
    cdef int64_t depth = v.C // v.groups, pixels = v.N * v.OH * v.OW, count, size
    cdef int threads
    cdef weights_t p
    p.v, p.x, p.dy = v, x, dy
    forward_axes(v, &p.h, &p.w)
    p.padded = not (inside(&p.h) and inside(&p.w))
    p.lies = v.kh == 1 and v.kw == 1 and not p.padded
    p.rows = v.kh * v.kw * depth
    p.run = depth if p.lies else min(depth, <int64_t>matmul_simd(v.element).width)
    p.phase = (columns_seen(&p.w) + p.w.step - 1) // p.w.step
    p.width = p.phase * min(p.w.step, reach(&p.w))
    p.tiles = (p.rows + simd.mr - 1) // simd.mr
    p.direct = p.tiles <= FEW_TILES or v.K <= simd.nr
    count = p.rows * v.K
    size = count * v.itemsize
    p.chunks = max(1, min(<int64_t>MOST_CHUNKS, pixels // CHUNK_PIXELS, PARTIAL_BYTES // size))
    p.pieces = min(p.tiles, (FEWEST_TASKS + p.chunks - 1) // p.chunks)
    p.parts = dweight
    if p.chunks > 1:
        p.parts = <char *>scratch(0, size * p.chunks)
        if p.parts == NULL:
            return -1
    threads = team(<double>pixels * count // v.groups)
    p.failed = False
    run_tasks(weights_task, &p, p.chunks * p.pieces, threads)
    if p.failed:
        return -1
    if p.chunks > 1:
        add_parts(v, p.parts, p.chunks, count, threads)
        memcpy(dweight, p.parts, size)
    return 0
