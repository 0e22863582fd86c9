# dweight: its rows are (tap, input channel), its columns output channels (see conv.pyx).
#
# A block of output pixels at a time, x and dy are copied together: dy into panels of columns, x into
# runs of channels with zeros for the padding. A tile of dweight stays in registers while a part of
# the block passes by; the rows of a tile may lie under different taps.

cdef struct weights_t:
    const conv_t *v
    axis_t h, w
    const char *x
    const char *dy
    char *parts          # [chunk][kh][kw][C / groups][K]
    int64_t chunks, pieces, tiles
    int64_t rows         # of dweight: kh * kw * C / groups
    int64_t run          # channels that lie side by side in the copy of x
    int64_t skip         # every so many columns of x are looked at
    bint padded


cdef int64_t split_block(const weights_t *p, int64_t first, int64_t last, int64_t channel,
                         const void **at) noexcept nogil:
    """Copy what the pixels from first to last see; at[p] is where the window of pixel p begins.

    Returns the number of elements that a run of channels takes.
    """
    cdef const conv_t *v = p.v
    cdef const matmul_spans_t *spans = &spans_of(v.element).matmul
    cdef int64_t row = first // v.OW, last_row = (last - 1) // v.OW, depth = v.C // v.groups
    cdef int64_t width = columns_seen(&p.w), runs = (depth + p.run - 1) // p.run
    cdef int64_t apart = rows_seen(&p.h, row, last_row) * width * p.run
    cdef int64_t begin = (max(-p.w.first, <int64_t>0) + p.skip - 1) // p.skip
    cdef int64_t end = min(width, (p.w.size - p.w.first + p.skip - 1) // p.skip)
    cdef int64_t slot = 0, slots = 0, image, i, j, k, h, m = 0
    cdef char *copy = <char *>scratch(2, apart * runs * v.itemsize)
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
            h = i * p.h.step + p.h.first + k
            if 0 <= h < p.h.size and begin < end:
                spans.split_pixels(
                    p.x + (((image * p.h.size + h) * p.w.size + p.w.first + begin * p.skip) * v.C
                           + channel) * v.itemsize, end - begin, p.skip * v.C, depth, p.run,
                    copy + ((slot + k) * width + begin) * p.run * v.itemsize, apart)
        slots = slot + reach(&p.h)
        for j in range(max(first - row * v.OW, <int64_t>0), min(last - row * v.OW, v.OW)):
            at[m] = copy + (slot * width + j * p.w.step) * p.run * v.itemsize
            m += 1
        row += 1
    return apart


cdef void row_offsets(const weights_t *p, int64_t apart, int64_t *off) noexcept nogil:
    """Where the rows of dweight find their values, seen from the beginning of a window."""
    cdef int64_t depth = p.v.C // p.v.groups, width = columns_seen(&p.w), i, j, c, k, m = 0
    for i in range(p.h.taps):
        for j in range(p.w.taps):
            c = 0
            while c < depth:
                for k in range(min(p.run, depth - c)):
                    off[m] = (c // p.run * apart
                              + (i * p.h.apart * width + j * p.w.apart) * p.run + k)
                    m += 1
                c += p.run


cdef void weights_task(const weights_t *p, int64_t task) noexcept nogil:
    """One piece of the rows of dweight, over one chunk of output pixels."""
    cdef const conv_t *v = p.v
    cdef const matmul_spans_t *spans = &spans_of(v.element).matmul
    cdef int64_t total = v.N * v.OH * v.OW, chunk = task // p.pieces, piece = task % p.pieces
    cdef int64_t first = total * chunk // p.chunks, last = total * (chunk + 1) // p.chunks
    cdef int64_t begin = p.tiles * piece // p.pieces, end = p.tiles * (piece + 1) // p.pieces
    cdef int64_t n = v.K // v.groups, panels = (n + spans.nr - 1) // spans.nr
    cdef int64_t panel_bytes = PIXELS * spans.nr * v.itemsize
    cdef int64_t start, count, group, panel, tile, row, rows, column, apart, before = -1
    cdef char *part = p.parts + chunk * p.rows * v.K * v.itemsize
    cdef char *panels_of_dy = <char *>scratch(3, panels * panel_bytes)
    cdef int64_t *off = <int64_t *>scratch(1, p.rows * sizeof(int64_t))
    cdef const void *at[PIXELS]
    for group in range(v.groups):
        start = first
        while start < last:
            count = min(<int64_t>PIXELS, last - start)
            apart = split_block(p, start, start + count, group * (v.C // v.groups), at)
            if apart != before:
                row_offsets(p, apart, off)
                before = apart
            spans.split_pixels(p.dy + (start * v.K + group * n) * v.itemsize, count, v.K, n, spans.nr,
                               panels_of_dy, PIXELS * spans.nr)
            for panel in range(panels):
                column = group * n + panel * spans.nr
                for tile in range(begin, end):
                    row = p.rows * tile // p.tiles
                    rows = p.rows * (tile + 1) // p.tiles - row
                    spans.outer_tile(count, at, off + row, panels_of_dy + panel * panel_bytes,
                                     spans.nr, part + (row * v.K + column) * v.itemsize, v.K,
                                     <int>rows, min(<int64_t>spans.nr, n - panel * spans.nr),
                                     start > first)
            start = start + count


cdef void add_parts(char *parts, int64_t chunks, int64_t count, int itemsize,
                    int64_t first, int64_t last) noexcept nogil:
    """parts[0] += parts[1] + ..., in that order, for the numbers from first to last."""
    cdef int64_t k, i
    cdef float *f = <float *>parts
    cdef double *d = <double *>parts
    for k in range(1, chunks):
        if itemsize == 8:
            for i in range(first, last):
                d[i] += d[k * count + i]
        else:
            for i in range(first, last):
                f[i] += f[k * count + i]


cdef int backward_weights(const conv_t *v, const char *x, const char *dy,
                          char *dweight) noexcept nogil:
    """dweight, stored (kh, kw, C / groups, K)."""
    cdef const matmul_spans_t *spans = &spans_of(v.element).matmul
    cdef int64_t depth = v.C // v.groups, pixels = v.N * v.OH * v.OW, count, size, task, slices
    cdef int threads
    cdef weights_t p
    p.v, p.x, p.dy = v, x, dy
    forward_axes(v, &p.h, &p.w)
    p.skip = 1
    if p.w.taps == 1:
        p.skip, p.w.step = p.w.step, 1
    p.padded = not (inside(&p.h) and inside(&p.w))
    p.rows = v.kh * v.kw * depth
    p.run = min(depth, <int64_t>spans_of(v.element).width)
    p.tiles = (p.rows + spans.mr - 1) // spans.mr
    count = p.rows * v.K
    size = count * v.itemsize
    p.chunks = max(1, min(<int64_t>MOST_CHUNKS, pixels // CHUNK_PIXELS, PARTIAL_BYTES // size))
    p.pieces = min(p.tiles, (MOST_CHUNKS + p.chunks - 1) // p.chunks)
    p.parts = dweight
    if p.chunks > 1:
        p.parts = <char *>scratch(0, size * p.chunks)
        if p.parts == NULL:
            return -1
    threads = team(<double>pixels * count // v.groups)
    for task in prange(p.chunks * p.pieces, schedule="dynamic", num_threads=threads):
        weights_task(&p, task)
    if p.chunks > 1:
        slices = (count + 4095) // 4096
        for task in prange(slices, schedule="static", num_threads=threads):
            add_parts(p.parts, p.chunks, count, v.itemsize, task * 4096,
                      min(count, (task + 1) * 4096))
        memcpy(dweight, p.parts, size)
    return 0
