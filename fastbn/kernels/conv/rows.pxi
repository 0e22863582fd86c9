# What forward and dx share: rows of pixels times packed weights (see conv.pyx).
#
# A grid of rows looks at a source through a window. Both axes are alike: along one, position i of
# the grid sees i * step + first and what lies 1, 2, ... times `apart` behind it. Where a window
# leaves the source, or does not see its channels side by side, what a block of rows sees is copied
# together first, zeros for padding; a row of the product then is one pointer, and the window's
# values stand in the same segments behind it for every row.
#
# The sum runs over chunks of the window whose panels of weights stay in the first-level cache while
# all tiles of a block pass by.

cdef struct axis_t:
    int64_t grid, size, step, first, taps, apart


cdef struct rows_t:
    int64_t N
    axis_t h, w
    const char *src                # (N, h.size, w.size, channels)
    int64_t channels
    char *dst                      # (N, DH, DW, DC): pixel (i * skip_h + first_h, ...)
    int64_t DH, DW, DC, skip_h, skip_w, first_h, first_w
    int64_t depth, n, groups       # of each group: channels of the source, columns
    const char *packed             # [group][panel][tap][depth][nr], or [group][column][tap][depth]
    const char *bias
    parts_t moments                # of dst, where it is the output
    bint gather, dots
    bint prefetch                  # rows see one pixel each, where it lies: it is fetched ahead
    int64_t block                  # rows of a task
    int64_t pixel, pitch           # elements from a pixel, and a row of them, to the next
    int64_t chunks                 # of the window
    const int64_t *chunk_segments  # the first segment of every chunk, and the end
    const int64_t *start
    const int64_t *length
    int element, itemsize
    bint failed                    # there was no memory


cdef inline int64_t reach(const axis_t *a) noexcept nogil:
    return (a.taps - 1) * a.apart + 1


cdef inline bint inside(const axis_t *a) noexcept nogil:
    return a.first >= 0 and (a.grid - 1) * a.step + a.first + reach(a) <= a.size


cdef inline int64_t columns_seen(const axis_t *a) noexcept nogil:
    return (a.grid - 1) * a.step + reach(a)


cdef int64_t rows_seen(const axis_t *h, int64_t first, int64_t last) noexcept nogil:
    """Rows of the source, image by image, under the grid's rows from first to last."""
    cdef int64_t row = first, count, total = 0
    while row <= last:
        count = min(h.grid - row % h.grid, last - row + 1)
        total += (count - 1) * h.step + reach(h)
        row += count
    return total


cdef void copy_row(const rows_t *p, int64_t image, int64_t h, int64_t low, int64_t high,
                   int64_t channel, char *to) noexcept nogil:
    """A row of the source, its columns from low to high seen from the first window's left edge."""
    cdef int64_t size = p.depth * p.itemsize, begin, end, k
    cdef const char *source
    begin = max(low, -p.w.first)
    end = min(high, p.w.size - p.w.first)
    if h < 0 or h >= p.h.size or begin >= end:
        memset(to + low * size, 0, (high - low) * size)
        return
    if begin > low:
        memset(to + low * size, 0, (begin - low) * size)
    if end < high:
        memset(to + end * size, 0, (high - end) * size)
    source = p.src + (((image * p.h.size + h) * p.w.size + p.w.first + begin) * p.channels
                      + channel) * p.itemsize
    if p.depth == p.channels:
        memcpy(to + begin * size, source, (end - begin) * size)
        return
    for k in range(begin, end):
        memcpy(to + k * size, source, size)
        source += p.channels * p.itemsize


cdef char *room_for(double elements, int itemsize) noexcept nogil:
    """Scratch of a copy of what windows see; NULL where dilation makes it more than there is."""
    if elements * itemsize > 1e15:  # more than any machine has, and still an int64
        return NULL
    return <char *>scratch(2, <int64_t>elements * itemsize)


cdef bint point(const rows_t *p, int64_t first, int64_t last, int64_t group, const void **rows,
                void **c) noexcept nogil:
    """What the rows from first to last see, and where they go; False if there is no memory."""
    cdef int64_t row = first // p.w.grid, last_row = (last - 1) // p.w.grid, width = p.w.grid
    cdef int64_t image, i, j, begin, end, low = 0, high = columns_seen(&p.w), k, m = 0
    cdef int64_t slot = 0, slots = 0, channel = group * p.depth, step = p.w.step * p.pixel
    cdef char *copy = NULL
    cdef const char *at
    cdef char *to
    if p.gather:
        copy = room_for(<double>rows_seen(&p.h, row, last_row) * p.pitch, p.itemsize)
        if copy == NULL:
            return False
        if row == last_row:
            low = (first - row * width) * p.w.step
            high = (last - 1 - row * width) * p.w.step + reach(&p.w)
    while row <= last_row:
        image = row // p.h.grid
        i = row - image * p.h.grid
        begin = max(first - row * width, <int64_t>0)
        end = min(last - row * width, width)
        if p.gather:
            # Rows that the row before did not see; those of a new image are all new.
            if m == 0 or i == 0:
                slot = slots
                k = 0
            else:
                slot += p.h.step
                k = max(slots - slot, <int64_t>0)
            for k in range(k, reach(&p.h)):
                copy_row(p, image, i * p.h.step + p.h.first + k, low, high, channel,
                         copy + (slot + k) * p.pitch * p.itemsize)
            slots = slot + reach(&p.h)
            at = copy + slot * p.pitch * p.itemsize
        else:
            at = p.src + ((image * p.h.size + i * p.h.step + p.h.first) * p.pitch
                          + p.w.first * p.pixel + channel) * p.itemsize
        to = p.dst + (((image * p.DH + i * p.skip_h + p.first_h) * p.DW + p.first_w)
                      * p.DC) * p.itemsize
        for j in range(begin, end):
            rows[m] = at + j * step * p.itemsize
            c[m] = to + j * p.skip_w * p.DC * p.itemsize
            m += 1
        row += 1
    return True


cdef void rows_task(const void *job, int64_t task) noexcept nogil:
    """A block of rows of one group: all chunks of the window, all panels of columns."""
    cdef const rows_t *p = <const rows_t *>job
    cdef const matmul_simd_t *simd = matmul_simd(p.element)
    cdef int64_t total = p.N * p.h.grid * p.w.grid, block = p.block
    cdef int64_t first = task // p.groups * block, count = min(total - first, block)
    cdef int64_t group = task % p.groups, panels = (p.n + simd.nr - 1) // simd.nr
    cdef int64_t window = p.h.taps * p.w.taps * p.depth, chunk, segment, panel
    cdef int64_t begin, column, row_bytes = simd.nr * p.itemsize, bytes_
    cdef const void **rows = <const void **>scratch(1, 2 * block * sizeof(void *))
    cdef void **c = <void **>(rows + block)
    cdef const char *b
    cdef const char *ahead
    cdef const char *bias = NULL
    if rows == NULL or not point(p, first, first + count, group, rows, c):
        (<rows_t *>p).failed = True
        return
    if p.dots:
        if p.bias != NULL:
            bias = p.bias + group * p.n * p.itemsize
        simd.dot_rows(p.chunk_segments[1], p.start, p.length, rows,
                      p.packed + group * p.n * window * p.itemsize, window, c, group * p.n, count,
                      <int>p.n, bias, 0)
        take_rows(p, task)
        return
    for chunk in range(p.chunks):
        segment = p.chunk_segments[chunk]
        begin = window * chunk // p.chunks
        bytes_ = (window * (chunk + 1) // p.chunks - begin) * row_bytes
        for panel in range(panels):
            b = p.packed + ((group * panels + panel) * window + begin) * row_bytes
            column = group * p.n + panel * simd.nr
            ahead = b + window * row_bytes
            if panel == panels - 1:
                ahead = p.packed + group * panels * window * row_bytes + begin * row_bytes + bytes_
            bias = p.bias + column * p.itemsize if p.bias != NULL and chunk == 0 else NULL
            simd.product_rows(p.chunk_segments[chunk + 1] - segment, p.start + segment,
                              p.length + segment, rows, b, simd.nr, c, column, count,
                              min(<int64_t>simd.nr, p.n - panel * simd.nr), bias, chunk > 0,
                              p.prefetch and panel == 0, ahead,
                              bytes_ if p.chunks > 1 else 0)
    take_rows(p, task)


cdef void take_rows(const rows_t *p, int64_t task) noexcept nogil:
    """The moments of what a task has written."""
    cdef int64_t first = task // p.groups * p.block, total = p.N * p.h.grid * p.w.grid
    if p.moments.parts != NULL:
        take_part(&p.moments, task // p.groups, p.dst + first * p.DC * p.itemsize,
                  min(p.block, total - first), task % p.groups * p.n, p.n)


cdef int run_rows(rows_t *p, double *moments, const conv_t *v) noexcept nogil:
    cdef int64_t total = p.N * p.h.grid * p.w.grid, block = p.block, task
    cdef int64_t blocks = (total + block - 1) // block
    cdef int threads = team(<double>total * p.n * p.groups * p.depth * p.h.taps * p.w.taps)
    if open_parts(&p.moments, moments, v, blocks):
        return -1
    p.failed = False
    run_tasks(rows_task, p, blocks * p.groups, threads)
    if p.failed:
        return -1
    if moments != NULL:
        for task in range(blocks):
            add_part(&p.moments, task, min(block, total - task * block))
    return 0


cdef int64_t chunks_of(const matmul_simd_t *simd, int64_t window, int itemsize) noexcept nogil:
    return max((window * simd.nr * itemsize + PANEL_BYTES - 1) // PANEL_BYTES, 1)


cdef void plan(rows_t *p, int64_t *memory) noexcept nogil:
    """Settle how the window is read; memory holds 2 * (taps + 2 * chunks) + 1 numbers or more."""
    cdef const matmul_simd_t *simd = matmul_simd(p.element)
    cdef int64_t window = p.h.taps * p.w.taps * p.depth, runs, run, taken, k, count = 0, end
    cdef int64_t chunk = 0
    cdef int64_t *start
    cdef int64_t *length
    cdef bint side_by_side
    p.gather = not (inside(&p.h) and inside(&p.w))
    if p.groups > 1 and p.w.taps > 1:
        p.gather = True
    p.pixel = p.depth if p.gather else p.channels
    p.pitch = (columns_seen(&p.w) if p.gather else p.w.size) * p.pixel
    side_by_side = p.w.taps == 1 or (p.w.apart == 1 and p.pixel == p.depth)
    runs = p.h.taps if side_by_side else p.h.taps * p.w.taps
    run = window // runs
    p.dots = p.n <= DOT_COLUMNS and run >= DOT_RUN * simd.nr
    p.chunks = 1 if p.dots else chunks_of(simd, window, p.itemsize)
    p.block = simd.mr * min(max(
        BLOCK_BYTES // (simd.mr * (window // p.chunks + p.n) * p.itemsize),
        <int64_t>FEWEST_TILES), <int64_t>MOST_TILES)
    p.prefetch = not p.gather and p.h.taps * p.w.taps == 1
    start = memory + p.chunks + 1
    length = start + runs + p.chunks
    memory[0] = 0
    for k in range(runs):
        taken = 0
        while taken < run:
            end = min(run, window * (chunk + 1) // p.chunks - k * run)
            if side_by_side:
                start[count] = k * p.h.apart * p.pitch + taken
            else:
                start[count] = (k // p.w.taps * p.h.apart * p.pitch
                                + k % p.w.taps * p.w.apart * p.pixel + taken)
            length[count] = end - taken
            taken = end
            count += 1
            if k * run + taken == window * (chunk + 1) // p.chunks:
                chunk += 1
                memory[chunk] = count
    p.chunk_segments, p.start, p.length = memory, start, length
