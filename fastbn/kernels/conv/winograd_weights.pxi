# dweight of 3x3 convolutions by Winograd (see winograd.pxi).
#
# Windows and spread gradients of a block of tiles are made, then multiplied and added to the sums.
# A task takes a chunk of the tiles, with sums of its own, which are added up in their order. Where
# there are too many weights or too few tiles for that, all threads share every block: its rows,
# then its products.

cdef enum:
    OUTER_TILES = 224      # of a block and of a sum, at most
    FEWEST_OUTER = 48
    OUTER_BYTES = 4194304  # of its windows and gradients
    OWN_BYTES = 786432     # where it is not shared
    CHUNKS = 8
    FEWEST_CHUNKS = 4      # with fewer, every block is shared
    SUM_BYTES = 1048576    # and with more than this in the sums
    SUM_TILES = 32         # the same, with m = 4
    GROUP_BLOCKS = 16      # whose sums are added up before they join the others


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
    int64_t run          # tiles of a sum: all of a block, unless a row of it has more
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
    p.TH, p.TW = tiles_along(v.OH, p.m), tiles_along(v.OW, p.m)
    p.sum_pitch = pitch_of(size, v.itemsize)
    sums = p.products * p.sum_pitch * v.itemsize
    total = v.N * p.TH
    p.chunks = min(min(<int64_t>CHUNKS, total), total * p.TW // OUTER_TILES)
    shared = sums > SUM_BYTES or p.chunks < FEWEST_CHUNKS
    if shared:
        p.chunks = 1
    tiles = (OUTER_BYTES if shared else OWN_BYTES) // (p.products * (C + K) * v.itemsize)
    p.run = SUM_TILES if p.m == 4 else OUTER_TILES
    tiles = min(p.run, max(<int64_t>FEWEST_OUTER, tiles))
    p.rows = min(total, max(<int64_t>1, tiles // p.TW))
    p.pieces = min(C // matmul_simd(v.element).width, <int64_t>2) if shared else 1
    tiles = p.rows * p.TW
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
