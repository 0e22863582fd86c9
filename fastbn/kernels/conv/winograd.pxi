# 3x3 convolutions of stride 1 by Winograd, in tiles of m x m outputs, m = 2 or 4: (m + 2)^2
# products for one, 16 or 36, where the direct algorithm needs 36 or 144 (see conv.pyx, winograd.h).
#
# forward and dx   A task takes some rows of tiles through all three steps: windows, products with
#                  the filters, outputs. What is between them stays in cache.
# dweight          winograd_weights.pxi
#
# The shape decides between m = 2 and m = 4: outputs of a tile that lie beyond the image are
# computed in vain, and for few tiles the transform of the filters costs more than products save.
#
# With m = 4 the last step multiplies the rounding errors of the sums (winograd_points.h). So sums
# are kept short: SUM_CHANNELS products, or SUM_TILES of dweight, are added up before they join the
# others.
#
# A number that is not finite would reach all outputs of its tiles: where one comes out, the direct
# algorithm is taken after all.

cdef enum:
    FEWEST_CHANNELS = 16   # below, what the products save goes into the steps around them
    FEWEST_WINDOWS = 32    # tiles of 2x2 that filters are worth being transformed for
    FILTER_TILES = 32      # tiles whose products take as long as the transform of the filters
    FEWEST_BLOCKS = 4      # tasks
    TASK_BYTES = 196608    # of a task's windows and products
    TASK_TILES = 64        # at least
    NEAR_BYTES = 65536     # of one of the matrices of filters
    SUM_CHANNELS = 32      # of a sum, with m = 4


cdef inline int64_t tiles_along(int64_t outputs, int64_t m) noexcept nogil:
    return (outputs + m - 1) // m


cdef bint is_winograd(const conv_t *v) noexcept nogil:
    return (v.kh == 3 and v.kw == 3 and v.sh == 1 and v.sw == 1 and v.dh == 1 and v.dw == 1
            and v.groups == 1 and v.ph <= 2 and v.pw <= 2
            and v.C >= FEWEST_CHANNELS and v.K >= FEWEST_CHANNELS
            and <double>v.N * tiles_along(v.OH, 2) * tiles_along(v.OW, 2) >= FEWEST_WINDOWS)


cdef inline double work(const conv_t *v, int64_t m, int products) noexcept nogil:
    """Of a pair of channels, with so many products a tile."""
    cdef double tiles = <double>v.N * tiles_along(v.OH, m) * tiles_along(v.OW, m)
    return products * (tiles + FILTER_TILES)


cdef int64_t tile_side(const conv_t *v) noexcept nogil:
    """m: as measured, 36 products of larger tiles take as long as 40."""
    if min(v.H, v.W) < 3:
        return 2  # windows are mostly padding, from which rounding errors are no smaller
    return 4 if work(v, 4, 40) < work(v, 2, 16) else 2


cdef inline const winograd_simd_t *winograd_simd(const conv_t *v, int64_t m) noexcept nogil:
    return &conv_simd(v.element).winograd[m // 4]


cdef struct winograd_t:
    const conv_t *v                # for dx, from dy to x
    int64_t m                      # side of a tile
    int64_t products               # (m + 2)^2
    int64_t TH, TW                 # tiles of an image
    const char *x
    char *y
    const packing_t *packing
    char *filters                  # [product][panel][C][nr]
    const char *zeros              # m + 2 pixels
    const char *bias
    int64_t filter_pitch           # elements from one of the matrices to the next
    int64_t rows                   # of tiles in a task
    parts_t moments                # of y
    bint finite


cdef inline int64_t ceil_to(int64_t n, int64_t step) noexcept nogil:
    return (n + step - 1) // step * step


cdef inline int64_t pitch_of(int64_t n, int itemsize) noexcept nogil:
    """Of matrices of n elements: no multiple of a page, or all would meet in one cache set."""
    return ceil_to(n * itemsize, 64) // itemsize + 64 // itemsize


cdef int64_t rows_of_task(const winograd_t *p, int64_t tile_bytes, int mr) noexcept nogil:
    """Rows of tiles: about TASK_BYTES, and few rows short of whole tiles of the products."""
    cdef int64_t most = max(<int64_t>TASK_TILES, TASK_BYTES // tile_bytes), rows = 1, best = 1
    cdef double share, most_share = 0.0
    while rows == 1 or rows * p.TW <= most:
        share = <double>(rows * p.TW) / ceil_to(rows * p.TW, mr)
        if share >= most_share:
            best, most_share = rows, share
        rows += 1
    return min(best, max(<int64_t>1, p.v.N * p.TH // FEWEST_BLOCKS))


cdef void windows_row(const conv_t *v, int64_t m, const char *x, int64_t image, int64_t i,
                      int64_t tiles, const char *zeros, char *to, int64_t step, int64_t apart,
                      int64_t pitch) noexcept nogil:
    """The windows of row i of an image's tiles (see winograd.h)."""
    cdef const void *seen[6]
    cdef int64_t r, h
    for r in range(m + 2):
        h = m * i - v.ph + r
        seen[r] = NULL
        if 0 <= h < v.H:
            seen[r] = x + (image * v.H + h) * v.W * v.C * v.itemsize
    winograd_simd(v, m).windows(seen, v.W, -v.pw, v.C, tiles, zeros, to, step, apart, pitch)


cdef void filter_task(const void *job, int64_t panel) noexcept nogil:
    """One panel of filters."""
    cdef const winograd_t *p = <const winograd_t *>job
    cdef const packing_t *k = p.packing
    cdef const conv_t *v = p.v
    cdef const matmul_simd_t *simd = matmul_simd(v.element)
    cdef int64_t size = v.C * simd.nr, tap
    cdef char *taps = <char *>scratch(1, 9 * size * v.itemsize)
    for tap in range(9):
        simd.pack_panel(k.w + (k.off[tap] + panel * simd.nr * k.sn) * v.itemsize, v.C,
                        min(<int64_t>simd.nr, v.K - panel * simd.nr), k.sk, k.sn,
                        taps + tap * size * v.itemsize)
    winograd_simd(v, p.m).filters(taps, size, p.filters + panel * size * v.itemsize,
                                  p.filter_pitch)


cdef void winograd_task(const void *job, int64_t task) noexcept nogil:
    """Some rows of tiles."""
    cdef winograd_t *p = <winograd_t *>job
    cdef const conv_t *v = p.v
    cdef const matmul_simd_t *simd = matmul_simd(v.element)
    cdef int64_t first = task * p.rows, count = min(p.rows, v.N * p.TH - first)
    cdef int64_t tiles = count * p.TW, width = matmul_simd(v.element).width
    cdef int64_t C = ceil_to(v.C, width), K = ceil_to(v.K, width)
    cdef int64_t pitch = pitch_of(tiles * C, v.itemsize)
    cdef int64_t product_pitch = pitch_of(tiles * K, v.itemsize)
    cdef int64_t panels = (v.K + simd.nr - 1) // simd.nr, panel, row, i, at
    cdef int64_t chunks = chunks_of(simd, v.C, v.itemsize), chunk, begin, length, ahead = 0
    cdef char *windows = <char *>scratch(2, p.products * (pitch + product_pitch) * v.itemsize)
    cdef char *products = windows + p.products * pitch * v.itemsize
    cdef const char *b
    if p.m == 4:
        chunks = max(chunks, (v.C + SUM_CHANNELS - 1) // SUM_CHANNELS)
    for row in range(count):
        windows_row(v, p.m, p.x, (first + row) // p.TH, (first + row) % p.TH, p.TW, p.zeros,
                    windows + row * p.TW * width * v.itemsize, width, tiles * width, pitch)
    if p.filter_pitch * v.itemsize > NEAR_BYTES:  # the next panel is fetched meanwhile
        ahead = v.C // chunks * simd.nr * v.itemsize
    for i in range(p.products):
        for chunk in range(chunks):
            begin = C // width * chunk // chunks * width  # whole runs
            length = min(v.C, C // width * (chunk + 1) // chunks * width) - begin
            for panel in range(panels):
                b = p.filters + (i * p.filter_pitch + (panel * v.C + begin) * simd.nr) * v.itemsize
                simd.product_blocked(
                    windows + (i * pitch + begin * tiles) * v.itemsize, tiles * width, length, b,
                    products + (i * product_pitch + panel * simd.nr) * v.itemsize, K, tiles,
                    min(<int64_t>simd.nr, v.K - panel * simd.nr), chunk > 0,
                    b + v.C * simd.nr * v.itemsize, ahead)
    for row in range(count):
        if not winograd_simd(v, p.m).outputs(
                products + row * p.TW * K * v.itemsize, K, product_pitch, p.TW, v.K, p.bias,
                p.y + pixels_before(p, first + row) * v.K * v.itemsize,
                min(p.m, v.OH - (first + row) % p.TH * p.m), v.OW):
            p.finite = False
    if p.moments.parts != NULL:
        at = pixels_before(p, first)
        take_part(&p.moments, task, p.y + at * v.K * v.itemsize,
                  pixels_before(p, first + count) - at, 0, v.K)


cdef int64_t pixels_before(const winograd_t *p, int64_t row) noexcept nogil:
    """Pixels of y in front of a row of tiles."""
    return (row // p.TH * p.v.OH + p.m * (row % p.TH)) * p.v.OW


cdef int run_winograd(const conv_t *v, const char *x, const packing_t *k, const char *bias,
                      char *y, double *moments) noexcept nogil:
    """0: done; 1: a number is not finite; -1: no memory."""
    cdef const matmul_simd_t *simd = matmul_simd(v.element)
    cdef int64_t panels = (v.K + simd.nr - 1) // simd.nr, task, size, tasks
    cdef int threads
    cdef winograd_t p
    p.v, p.x, p.y, p.packing, p.bias, p.finite = v, x, y, k, bias, True
    p.m = tile_side(v)
    p.products = (p.m + 2) * (p.m + 2)
    p.TH, p.TW = tiles_along(v.OH, p.m), tiles_along(v.OW, p.m)
    p.filter_pitch = pitch_of(panels * v.C * simd.nr, v.itemsize)
    p.rows = rows_of_task(&p, p.products * (v.C + v.K) * v.itemsize, simd.mr)
    size = p.products * p.filter_pitch * v.itemsize
    p.filters = <char *>scratch(0, size + (p.m + 2) * v.C * v.itemsize)
    if p.filters == NULL:
        return -1
    p.zeros = <char *>memset(p.filters + size, 0, (p.m + 2) * v.C * v.itemsize)
    tasks = (v.N * p.TH + p.rows - 1) // p.rows
    if open_parts(&p.moments, moments, v, tasks):
        return -1
    threads = team(<double>v.N * p.TH * p.TW * v.C * v.K)
    run_tasks(filter_task, &p, panels, threads)
    run_tasks(winograd_task, &p, tasks, threads)
    if moments != NULL:
        for task in range(tasks):
            size = pixels_before(&p, min((task + 1) * p.rows, v.N * p.TH))
            add_part(&p.moments, task, size - pixels_before(&p, task * p.rows))
    return 0 if p.finite else 1


cdef int winograd_forward(const conv_t *v, const char *x, const char *w, const int64_t *sw,
                          const char *bias, char *y, double *moments) noexcept nogil:
    """As forward_rows; 1 where that should be done instead."""
    cdef packing_t k
    cdef int64_t off[9]
    cdef int64_t tap
    for tap in range(9):
        off[tap] = tap // 3 * sw[2] + tap % 3 * sw[3]
    k.w, k.off, k.sk, k.sn = w, off, sw[1], sw[0]
    return run_winograd(v, x, &k, bias, y, moments)


cdef int winograd_backward(const conv_t *v, const char *dy, const char *w, const int64_t *sw,
                           const char *bias, char *dx) noexcept nogil:
    """As backward_rows: a convolution of dy with the filters turned round."""
    cdef conv_t turned = v[0]
    cdef packing_t k
    cdef int64_t off[9]
    cdef int64_t tap
    turned.H, turned.W, turned.C, turned.OH, turned.OW, turned.K = v.OH, v.OW, v.K, v.H, v.W, v.C
    turned.ph, turned.pw = 2 - v.ph, 2 - v.pw
    for tap in range(9):
        off[tap] = (2 - tap // 3) * sw[2] + (2 - tap % 3) * sw[3]
    k.w, k.off, k.sk, k.sn = w, off, sw[0], sw[1]
    return run_winograd(&turned, dy, &k, bias, dx, NULL)
