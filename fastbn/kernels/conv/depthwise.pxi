# Depthwise: as many groups as channels, in and out, or nearly (see conv.pyx and depthwise.h).
#
# Geometry and phases are those of conv_rows.pxi, without its copies: the taps that a pixel sees in
# the padding are left out, which costs nothing where all pixels of a run see the same taps.
#
# Groups of a few channels, as many in as out, are too narrow for the columns of a product. They are
# depthwise, too, once the source is turned: in its copy s, channel j of every group of g channels
# is the source's channel (j + s) mod g, and a tap of the window is a tap in each of the g copies.

cdef struct depth_t:
    int64_t N, C, width          # width: channels of a group
    axis_t h, w
    const char *src              # (N, h.size, w.size, C)
    char *dst                    # (N, DH, DW, C); of dweight: dy, which is read
    int64_t DH, DW, skip_h, skip_w, first_h, first_w
    char *weights                # [tap][turn][C], taps as the axes have them
    char *sums                   # of dweight: [chunk][tap][turn][C]
    int64_t chunks
    bint prefetch                     # src and dst are in memory, not in a cache
    const char *bias
    int element, itemsize


cdef struct turned_t:
    char *copies                 # of rows of one image: all turns but the first, the source itself
    int64_t low, apart           # the first row, elements from a copy to the next


cdef bint is_depthwise(const conv_t *v) noexcept nogil:
    return v.groups > 1 and v.C == v.K and v.C // v.groups <= NARROW


cdef inline void turn_groups(const floating *x, int64_t count, int width, floating *to,
                             int64_t apart) noexcept nogil:
    cdef floating[NARROW] group
    cdef int64_t k
    cdef int j, s
    for k in range(count // width):
        for j in range(width):
            group[j] = x[k * width + j]
        for s in range(1, width):
            for j in range(width):
                to[(s - 1) * apart + k * width + j] = group[(j + s) % width]


cdef void turn(const floating *x, int64_t count, int64_t width, floating *to,
               int64_t apart) noexcept nogil:
    """`turn_groups`, with loops that the compiler unrolls."""
    if width == 2:
        turn_groups(x, count, 2, to, apart)
    elif width == 3:
        turn_groups(x, count, 3, to, apart)
    else:
        turn_groups(x, count, 4, to, apart)


cdef void turn_rows(const depth_t *p, int64_t image, int64_t first, int64_t last,
                    turned_t *t) noexcept nogil:
    """Copy and turn what rows of the grid see of an image, from `first` up to `last`."""
    cdef int64_t high, count
    cdef const char *x
    t.low = max(first * p.h.step + p.h.first, <int64_t>0)
    high = min((last - 1) * p.h.step + p.h.first + reach(&p.h), p.h.size)
    count = max(high - t.low, <int64_t>0) * p.w.size * p.C
    t.apart = count + TURN_GAP
    t.copies = <char *>scratch(2, (p.width - 1) * t.apart * p.itemsize)
    x = p.src + (image * p.h.size + t.low) * p.w.size * p.C * p.itemsize
    if p.itemsize == 8:
        turn(<const double *>x, count, p.width, <double *>t.copies, t.apart)
    else:
        turn(<const float *>x, count, p.width, <float *>t.copies, t.apart)


cdef int64_t taps_of(const depth_t *p, const turned_t *t, int64_t image, int64_t i, int64_t j,
                     char *weights, const void **x, const void **w) noexcept nogil:
    """Pointers to what pixel (i, j) sees and to the weights it meets; how many there are."""
    cdef int64_t a, b, s, row, column, count = 0
    for a in range(p.h.taps):
        row = i * p.h.step + p.h.first + a * p.h.apart
        if row < 0 or row >= p.h.size:
            continue
        for b in range(p.w.taps):
            column = j * p.w.step + p.w.first + b * p.w.apart
            if 0 <= column < p.w.size:
                for s in range(p.width):
                    if s == 0:
                        x[count] = p.src + (((image * p.h.size + row) * p.w.size + column) * p.C
                                            * p.itemsize)
                    else:
                        x[count] = t.copies + ((s - 1) * t.apart + ((row - t.low) * p.w.size
                                                                    + column) * p.C) * p.itemsize
                    w[count] = weights + ((a * p.w.taps + b) * p.width + s) * p.C * p.itemsize
                    count += 1
    return count


cdef void depth_row(const depth_t *p, const turned_t *t, int64_t row, char *sums) noexcept nogil:
    """One row of the grid; with `sums`, of its dweight, which is added there."""
    cdef const conv_simd_t *simd = conv_simd(p.element)
    cdef int64_t taps = p.h.taps * p.w.taps * p.width, image = row // p.h.grid
    cdef int64_t i = row % p.h.grid, j = 0, count, run, begin, end
    cdef const void **x = <const void **>scratch(1, 2 * taps * sizeof(void *))
    cdef const void **w = x + taps
    cdef char *to = p.dst + ((image * p.DH + i * p.skip_h + p.first_h) * p.DW
                             + p.first_w) * p.C * p.itemsize
    # from begin to end, windows lie inside
    begin = max((-p.w.first + p.w.step - 1) // p.w.step, <int64_t>0)
    end = p.w.size - p.w.first - reach(&p.w)
    end = min(end // p.w.step + 1, p.w.grid) if end >= 0 else 0
    while j < p.w.grid:
        run = end - j if begin <= j < end else 1
        count = taps_of(p, t, image, i, j, p.weights if sums == NULL else sums, x, w)
        if sums == NULL:
            simd.depth_rows(count, x, w, run, p.w.step * p.C, to, p.skip_w * p.C, p.C, p.bias,
                            p.prefetch and count > 0)
        else:
            simd.depth_sums(count, x, to, run, p.w.step * p.C, p.C, p.C, <void *const *>w)
        to += run * p.skip_w * p.C * p.itemsize
        j += run


cdef void depth_span(const depth_t *p, int64_t first, int64_t last, char *sums) noexcept nogil:
    """Rows of the grid, from `first` up to `last`, some of an image at a time."""
    cdef int64_t end, row, image
    cdef turned_t t
    while first < last:
        image = first // p.h.grid
        end = min(first + DEPTH_ROWS, min(last, (image + 1) * p.h.grid))
        if p.width > 1:
            turn_rows(p, image, first - image * p.h.grid, end - image * p.h.grid, &t)
        for row in range(first, end):
            depth_row(p, &t, row, sums)
        first = end


cdef void depth_task(const void *job, int64_t task) noexcept nogil:
    cdef const depth_t *p = <const depth_t *>job
    depth_span(p, task * DEPTH_ROWS, min(p.N * p.h.grid, (task + 1) * DEPTH_ROWS), NULL)


cdef void run_depth(const depth_t *p) noexcept nogil:
    run_tasks(depth_task, p, (p.N * p.h.grid + DEPTH_ROWS - 1) // DEPTH_ROWS,
              team(<double>p.N * p.h.grid * p.w.grid * p.C * p.width * p.itemsize))


cdef inline int64_t turned(const depth_t *p, int64_t c, int64_t s) noexcept nogil:
    """The channel that stands at c in copy s."""
    cdef int64_t j = c % p.width
    return c - j + (j + s) % p.width


cdef void place_weights(const depth_t *p, const char *w, int64_t source, int64_t result,
                        const int64_t *sw, int64_t r, int64_t r_step, int64_t s,
                        int64_t s_step) noexcept nogil:
    """Taps (a, b) of the axes are taps (r + a * r_step, s + b * s_step) of the filter.

    `source` and `result` are the axes of w for the channels that are read and written.
    """
    cdef int64_t a, b, c, k, from_, to_
    cdef char *to = p.weights
    for a in range(p.h.taps):
        for b in range(p.w.taps):
            for k in range(p.width):
                for c in range(p.C):
                    from_, to_ = turned(p, c, k), c
                    if source == 1:  # counted within its group
                        from_ %= p.width
                    else:
                        to_ %= p.width
                    memcpy(to, w + (from_ * sw[source] + to_ * sw[result]
                                    + (r + a * r_step) * sw[2] + (s + b * s_step) * sw[3])
                           * p.itemsize, p.itemsize)
                    to += p.itemsize


cdef int depth_forward(const conv_t *v, const char *x, const char *w, const int64_t *sw,
                       const char *bias, char *y) noexcept nogil:
    cdef depth_t p
    p.weights = <char *>scratch(0, v.kh * v.kw * v.C * (v.C // v.groups) * v.itemsize)
    if p.weights == NULL:
        return -1
    forward_axes(v, &p.h, &p.w)
    p.width = v.C // v.groups
    p.N, p.C, p.src, p.dst, p.DH, p.DW = v.N, v.C, x, y, v.OH, v.OW
    p.skip_h = p.skip_w = 1
    p.first_h = p.first_w = 0
    p.bias, p.element, p.itemsize = bias, v.element, v.itemsize
    p.prefetch = is_far(<double>v.N * v.H * v.W * v.C * v.itemsize, 2)
    place_weights(&p, w, 1, 0, sw, 0, 1, 0, 1)
    run_depth(&p)
    return 0


cdef int depth_backward(const conv_t *v, const char *dy, const char *w, const int64_t *sw,
                        const char *bias, char *dx) noexcept nogil:
    """dx (+ bias), phase by phase as in backward_rows."""
    cdef int64_t last_h, last_w, between_h, between_w
    cdef depth_t p
    p.weights = <char *>scratch(0, v.kh * v.kw * v.C * (v.C // v.groups) * v.itemsize)
    if p.weights == NULL:
        return -1
    p.width = v.C // v.groups
    p.N, p.C, p.src, p.dst, p.DH, p.DW = v.N, v.C, dy, dx, v.H, v.W
    p.h.size, p.w.size, p.skip_h, p.skip_w = v.OH, v.OW, v.sh, v.sw
    p.bias, p.element, p.itemsize = bias, v.element, v.itemsize
    p.prefetch = is_far(<double>v.N * v.H * v.W * v.C * v.itemsize, 2)
    for p.first_h in range(min(v.sh, v.H)):
        last_h = phase_axis(v.H, p.first_h, v.sh, v.dh, v.ph, v.kh, &p.h, &between_h)
        for p.first_w in range(min(v.sw, v.W)):
            last_w = phase_axis(v.W, p.first_w, v.sw, v.dw, v.pw, v.kw, &p.w, &between_w)
            place_weights(&p, w, 0, 1, sw, last_h, -between_h, last_w, -between_w)
            run_depth(&p)
    return 0


cdef void depth_weights_task(const void *job, int64_t chunk) noexcept nogil:
    cdef const depth_t *p = <const depth_t *>job
    cdef int64_t total = p.N * p.h.grid
    cdef int64_t size = p.h.taps * p.w.taps * p.width * p.C * p.itemsize
    cdef char *sums = <char *>memset(p.sums + chunk * size, 0, size)
    depth_span(p, total * chunk // p.chunks, total * (chunk + 1) // p.chunks, sums)


cdef int depth_weights(const conv_t *v, const char *x, const char *dy,
                       char *dweight) noexcept nogil:
    """dweight, stored (kh, kw, C / groups, C)."""
    cdef int64_t width = v.C // v.groups, count = v.kh * v.kw * width * v.C, k, c
    cdef int threads = team(<double>v.N * v.OH * v.OW * v.C * width * v.itemsize)
    cdef depth_t p
    forward_axes(v, &p.h, &p.w)
    p.width = v.C // v.groups
    p.N, p.C, p.src, p.dst, p.DH, p.DW = v.N, v.C, x, <char *>dy, v.OH, v.OW
    p.skip_h = p.skip_w = 1
    p.first_h = p.first_w = 0
    p.weights, p.bias, p.element, p.itemsize = NULL, NULL, v.element, v.itemsize
    p.chunks = max(1, min(<int64_t>MOST_CHUNKS, v.N * v.OH * v.OW // CHUNK_PIXELS))
    p.sums = <char *>scratch(0, p.chunks * count * v.itemsize)
    if p.sums == NULL:
        return -1
    run_tasks(depth_weights_task, &p, p.chunks, threads)
    add_parts(v, p.sums, p.chunks, count, 1)
    for k in range(v.kh * v.kw * width):  # a tap and a turn, which stand for an input channel
        for c in range(v.C):
            memcpy(dweight + ((k - k % width + turned(&p, c, k % width) % width) * v.C + c)
                   * v.itemsize, p.sums + (k * v.C + c) * v.itemsize, v.itemsize)
    return 0
