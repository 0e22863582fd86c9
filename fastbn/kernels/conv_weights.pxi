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
    bint padded


cdef int64_t split_block(const weights_t *p, int64_t first, int64_t last, int64_t channel,
                         int64_t *at, char **copy) noexcept nogil:
    """Copy what the pixels from first to last see; at[p] is where the window of pixel p begins.

    Returns the number of elements that a run of channels takes.
    """
    cdef const conv_t *v = p.v
    cdef const matmul_spans_t *spans = &spans_of(v.element).matmul
    cdef int64_t row = first // v.OW, last_row = (last - 1) // v.OW, depth = v.C // v.groups
    cdef int64_t width = columns_seen(&p.w), runs = (depth + p.run - 1) // p.run
    cdef int64_t apart = rows_seen(&p.h, row, last_row) * width * p.run
    cdef int64_t begin = max(-p.w.first, <int64_t>0), end = min(width, p.w.size - p.w.first)
    cdef int64_t slot = 0, slots = 0, image, i, j, k, h, m = 0
    copy[0] = <char *>scratch(2, apart * runs * v.itemsize)
    if p.padded:
        memset(copy[0], 0, apart * runs * v.itemsize)
    while row <= last_row:
        image = row // p.h.grid
        i = row - image * p.h.grid
        if m == 0 or i == 0:  # as in point()
            slot = slots
            k = 0
        else:
            slot += p.h.step
            k = slots - slot
        for k in range(k, reach(&p.h)):
            h = i * p.h.step + p.h.first + k
            if 0 <= h < p.h.size and begin < end:
                spans.split_pixels(
                    p.x + (((image * p.h.size + h) * p.w.size + p.w.first + begin) * v.C + channel)
                    * v.itemsize, end - begin, v.C, depth, p.run,
                    copy[0] + ((slot + k) * width + begin) * p.run * v.itemsize, apart)
        slots = slot + reach(&p.h)
        for j in range(max(first - row * v.OW, <int64_t>0), min(last - row * v.OW, v.OW)):
            at[m] = (slot * width + j * p.w.step) * p.run
            m += 1
        row += 1
    return apart


cdef void tile_rows(const weights_t *p, int64_t first, int64_t count, int64_t apart,
                    int64_t *off) noexcept nogil:
    """Where rows of dweight find their values, seen from the beginning of a window."""
    cdef int64_t depth = p.v.C // p.v.groups, width = columns_seen(&p.w), i
    cdef int64_t tap = first // depth, c = first - tap * depth
    for i in range(count):
        off[i] = (c // p.run * apart + c % p.run
                  + (tap // p.w.taps * p.h.apart * width + tap % p.w.taps * p.w.apart) * p.run)
        c += 1
        if c == depth:
            c = 0
            tap += 1


cdef void weights_task(const weights_t *p, int64_t task) noexcept nogil:
    """One piece of the rows of dweight, over one chunk of output pixels."""
    cdef const conv_t *v = p.v
    cdef const matmul_spans_t *spans = &spans_of(v.element).matmul
    cdef int64_t total = v.N * v.OH * v.OW, chunk = task // p.pieces, piece = task % p.pieces
    cdef int64_t first = total * chunk // p.chunks, last = total * (chunk + 1) // p.chunks
    cdef int64_t begin = p.tiles * piece // p.pieces, end = p.tiles * (piece + 1) // p.pieces
    cdef int64_t n = v.K // v.groups, panels = (n + spans.nr - 1) // spans.nr
    cdef int64_t panel_bytes = PIXELS * spans.nr * v.itemsize
    cdef int64_t start, count, group, panel, tile, row, rows, column, apart
    cdef char *part = p.parts + chunk * p.rows * v.K * v.itemsize
    cdef char *copy
    cdef char *panels_of_dy = <char *>scratch(3, panels * panel_bytes)
    cdef int64_t at[PIXELS]
    cdef int64_t off[MOST_ROWS]
    for group in range(v.groups):
        start = first
        while start < last:
            count = min(<int64_t>PIXELS, last - start)
            apart = split_block(p, start, start + count, group * (v.C // v.groups), at, &copy)
            for panel in range(panels):
                column = group * n + panel * spans.nr
                spans.pack_panel(p.dy + (start * v.K + column) * v.itemsize, count,
                                 min(<int64_t>spans.nr, n - panel * spans.nr), v.K, 1,
                                 panels_of_dy + panel * panel_bytes)
            for panel in range(panels):
                column = group * n + panel * spans.nr
                for tile in range(begin, end):
                    row = p.rows * tile // p.tiles
                    rows = p.rows * (tile + 1) // p.tiles - row
                    tile_rows(p, row, rows, apart, off)
                    spans.outer_tile(count, copy, at, off, panels_of_dy + panel * panel_bytes,
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
