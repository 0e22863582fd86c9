# 3x3 convolutions of stride 1 by Winograd, in tiles of m x m outputs, m = 2 or 4: (m + 2)^2 products
# for one, 16 or 36, where the direct algorithm needs 36 or 144 (see conv.pyx and winograd.h).
#
# forward and dx   A task takes some rows of tiles through all three steps: windows, products with
#                  the filters, outputs. What is between them stays in cache.
# dweight          Windows and spread gradients of a block of tiles are made, then multiplied and
#                  added to the sums. A task takes a chunk of the tiles, with sums of its own, which
#                  are added up in their order. Where there are too many weights or too few tiles
#                  for that, all threads share every block: its rows, then its products.
#
# A number that is not finite would reach all outputs of its tiles: where one comes out, the direct
# algorithm is taken after all.

cdef enum:
    FEWEST_CHANNELS = 16   # below, what the products save goes into the steps around them
    FEWEST_WINDOWS = 32    # tiles that filters are worth being transformed for
    FEWEST_BLOCKS = 4      # tasks
    TASK_BYTES = 196608    # of a task's windows and products
    TASK_TILES = 64        # at least
    NEAR_BYTES = 65536     # of one of the matrices of filters
    FILTER_TILES = 8       # whose products take as long as to transform the filters
    SUM_CHANNELS = 32      # whose products are added up in one go if m = 4: see ROUNDING
    OUTER_TILES = 224      # of a block of dweight, at most
    FEWEST_OUTER = 48
    OUTER_BYTES = 4194304  # of its windows and gradients
    OWN_BYTES = 1048576    # where it is not shared
    CHUNKS = 8
    FEWEST_CHUNKS = 4      # with fewer, every block is shared
    SUM_TILES = 64         # as SUM_CHANNELS, for dweight
    GROUP_BLOCKS = 16      # likewise: whose sums are added up before they join the others
    SUM_BYTES = 524288     # and with more than this in the sums


cdef bint is_winograd(const conv_t *v) noexcept nogil:
    return (v.kh == 3 and v.kw == 3 and v.sh == 1 and v.sw == 1 and v.dh == 1 and v.dw == 1
            and v.groups == 1 and v.ph <= 2 and v.pw <= 2
            and v.C >= FEWEST_CHANNELS and v.K >= FEWEST_CHANNELS
            and <double>v.N * ((v.OH + 1) // 2) * ((v.OW + 1) // 2) >= FEWEST_WINDOWS)


cdef double work(const conv_t *v, int64_t m) noexcept nogil:
    """Products of a pair of channels in tiles of m x m outputs."""
    cdef double tiles = <double>v.N * ((v.OH + m - 1) // m) * ((v.OW + m - 1) // m)
    return (m + 2) * (m + 2) * (tiles + FILTER_TILES)


cdef int64_t tile_side(const conv_t *v) noexcept nogil:
    return 4 if work(v, 4) < work(v, 2) else 2


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
    p.TH, p.TW = (v.OH + p.m - 1) // p.m, (v.OW + p.m - 1) // p.m
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


# ---- dweight ----

cdef struct outer_t:
    const conv_t *v
    const char *x
    const char *dy
    char *dweight
    char *sums           # [chunk][product][C][K]
    const char *zeros    # m + 2 pixels
    int64_t m, products, TH, TW
    int64_t chunks       # of the rows of tiles
    int64_t rows         # of a block
    int64_t run          # tiles that are added up in one go
    int64_t window_pitch, spread_pitch, sum_pitch
    int64_t pieces       # of the C rows of each product
    int status           # 1: a number is not finite; -1: no memory


cdef struct block_t:
    const outer_t *p
    int64_t first, count  # rows of tiles
    char *windows         # [product][C / width][tile][width]
    char *spread          # [product][panel][tile][nr]
    char *total           # [product][C][K]: of the chunk
    char *sums            # the same, of a group of blocks: total for the first
    bint add


cdef void spread_task(const void *job, int64_t row) noexcept nogil:
    """Windows and gradients of one row of a block."""
    cdef const block_t *b = <const block_t *>job
    cdef const outer_t *p = b.p
    cdef const conv_t *v = p.v
    cdef int64_t width = matmul_simd(v.element).width, nr = matmul_simd(v.element).nr
    cdef int64_t image = (b.first + row) // p.TH, i = (b.first + row) % p.TH
    cdef int64_t tiles = p.rows * p.TW
    cdef const char *dy = p.dy + (image * v.OH + p.m * i) * v.OW * v.K * v.itemsize
    windows_row(v, p.m, p.x, image, i, p.TW, p.zeros, b.windows + row * p.TW * width * v.itemsize,
                width, tiles * width, p.window_pitch)
    winograd_simd(v, p.m).spread(dy, min(p.m, v.OH - p.m * i), v.OW, v.K, p.TW,
                                 b.spread + row * p.TW * nr * v.itemsize, tiles * nr,
                                 p.spread_pitch)


cdef void outer_task(const void *job, int64_t task) noexcept nogil:
    """A piece of the rows of one of the products."""
    cdef const block_t *b = <const block_t *>job
    cdef const outer_t *p = b.p
    cdef const conv_t *v = p.v
    cdef const matmul_simd_t *simd = matmul_simd(v.element)
    cdef int64_t i = task // p.pieces, piece = task % p.pieces, width = matmul_simd(v.element).width
    cdef int64_t runs = (v.C + width - 1) // width, begin = runs * piece // p.pieces * width
    cdef int64_t end = min(v.C, runs * (piece + 1) // p.pieces * width), panel
    cdef int64_t tiles = p.rows * p.TW, panels = (v.K + simd.nr - 1) // simd.nr, first
    cdef const char *windows = b.windows + (i * p.window_pitch + begin * tiles) * v.itemsize
    cdef const char *spread = b.spread + i * p.spread_pitch * v.itemsize
    cdef char *sums = b.sums + (i * p.sum_pitch + begin * v.K) * v.itemsize
    for panel in range(panels):
        first = 0
        while first < b.count * p.TW:
            simd.outer_blocked(min(p.run, b.count * p.TW - first),
                               windows + first * width * v.itemsize, tiles * width,
                               spread + (panel * tiles + first) * simd.nr * v.itemsize,
                               sums + panel * simd.nr * v.itemsize, v.K, end - begin,
                               min(<int64_t>simd.nr, v.K - panel * simd.nr),
                               b.add or first > 0)
            first += p.run


cdef void join_task(const void *job, int64_t task) noexcept nogil:
    """A slice of the sums of a group of blocks."""
    cdef const block_t *b = <const block_t *>job
    cdef int64_t first = task * SLICE, itemsize = b.p.v.itemsize
    cdef const void *terms[2]
    terms[0], terms[1] = b.total + first * itemsize, b.sums + first * itemsize
    add_simd(b.p.v.element).sum_terms(
        terms, 2, b.total + first * itemsize,
        min(<int64_t>SLICE, b.p.products * b.p.sum_pitch - first), False)


cdef void add_blocks(outer_t *p, int64_t chunk, int threads) noexcept nogil:
    """Sum over a chunk of the tiles, block by block."""
    cdef int64_t total = p.v.N * p.TH
    cdef int64_t first = total * chunk // p.chunks, last = total * (chunk + 1) // p.chunks
    cdef int64_t size = p.products * p.sum_pitch * p.v.itemsize, blocks = 0, spare = 0
    cdef int64_t pixels = p.products * (p.window_pitch + p.spread_pitch) * p.v.itemsize
    cdef block_t b
    if last - first > GROUP_BLOCKS * p.rows:
        spare = size
    b.p = p
    b.windows = <char *>scratch(2, pixels + spare)
    if b.windows == NULL:
        p.status = -1
        return
    b.spread = b.windows + p.products * p.window_pitch * p.v.itemsize
    b.total = b.sums = p.sums + chunk * size
    while first < last:
        b.first, b.count, b.add = first, min(p.rows, last - first), blocks % GROUP_BLOCKS > 0
        run_tasks(spread_task, &b, b.count, threads)
        run_tasks(outer_task, &b, p.products * p.pieces, threads)
        first += b.count
        blocks += 1
        if b.sums != b.total and (blocks % GROUP_BLOCKS == 0 or first == last):
            run_tasks(join_task, &b, (p.products * p.sum_pitch + SLICE - 1) // SLICE, threads)
        if blocks == GROUP_BLOCKS:
            b.sums = b.windows + pixels


cdef void chunk_task(const void *job, int64_t chunk) noexcept nogil:
    add_blocks(<outer_t *>job, chunk, 1)


cdef void gradients_task(const void *job, int64_t task) noexcept nogil:
    """From the sums to the filters' gradients, for one slice of the filters."""
    cdef outer_t *p = <outer_t *>job
    cdef int64_t size = p.v.C * p.v.K, first = task * SLICE, itemsize = p.v.itemsize
    if not winograd_simd(p.v, p.m).gradients(
            p.sums + first * itemsize, min(<int64_t>SLICE, size - first), p.sum_pitch,
            p.dweight + first * itemsize, size):
        p.status = 1


cdef int winograd_weights(const conv_t *v, const char *x, const char *dy,
                          char *dweight) noexcept nogil:
    """As backward_weights; 1 where that should be done instead."""
    cdef const matmul_simd_t *simd = matmul_simd(v.element)
    cdef int64_t C = ceil_to(v.C, matmul_simd(v.element).width), K = ceil_to(v.K, simd.nr)
    cdef int64_t size = v.C * v.K, tiles, total, sums
    cdef bint shared
    cdef int threads
    cdef outer_t p
    p.v, p.x, p.dy, p.dweight, p.status = v, x, dy, dweight, 0
    p.m = tile_side(v)
    p.products = (p.m + 2) * (p.m + 2)
    p.TH, p.TW = (v.OH + p.m - 1) // p.m, (v.OW + p.m - 1) // p.m
    p.sum_pitch = pitch_of(size, v.itemsize)
    sums = p.products * p.sum_pitch * v.itemsize
    total = v.N * p.TH
    p.chunks = min(min(<int64_t>CHUNKS, total), total * p.TW // OUTER_TILES)
    shared = sums > SUM_BYTES or p.chunks < FEWEST_CHUNKS
    if shared:
        p.chunks = 1
    tiles = (OUTER_BYTES if shared else OWN_BYTES) // (p.products * (C + K) * v.itemsize)
    tiles = min(<int64_t>OUTER_TILES, max(<int64_t>FEWEST_OUTER, tiles))
    p.rows = min(total, max(<int64_t>1, tiles // p.TW))
    p.pieces = min(C // matmul_simd(v.element).width, <int64_t>2) if shared else 1
    tiles = p.rows * p.TW
    p.run = SUM_TILES if p.m == 4 else tiles
    p.window_pitch = pitch_of(tiles * C, v.itemsize)
    p.spread_pitch = pitch_of(tiles * K, v.itemsize)
    p.sums = <char *>scratch(0, p.chunks * sums + (p.m + 2) * v.C * v.itemsize)
    if p.sums == NULL:
        return -1
    p.zeros = <char *>memset(p.sums + p.chunks * sums, 0, (p.m + 2) * v.C * v.itemsize)
    threads = team(<double>total * p.TW * size)
    if shared:
        add_blocks(&p, 0, threads)
    else:
        run_tasks(chunk_task, &p, p.chunks, threads)
    if p.status:
        return p.status
    if p.chunks > 1:
        add_parts(v, p.sums, p.chunks, p.products * p.sum_pitch, threads)
    run_tasks(gradients_task, &p, (size + SLICE - 1) // SLICE, threads)
    return p.status
