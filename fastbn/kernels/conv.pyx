"""Two-dimensional convolution, channels-last: three products on the tile kernels of simd/matmul.h.

Nothing is unfolded where the input has enough channels: a row of the product is one output pixel,
and for every tap of the filter it is a pointer to the input pixel under that tap, or to zeros where
the tap lies in the padding. With few channels (the stem of a network) the pixels under the filter
are copied together first, a block of rows at a time.

forward     rows are output pixels, columns output channels
dx          rows are input pixels, columns input channels; the taps that reach a pixel depend on its
            position modulo the stride, so that each such phase is a product of its own
dweight     rows are (tap, input channel), columns output channels, the sum runs over output pixels;
            long sums are cut into chunks of pixels, added up in their order

Cuts come from the shapes alone: threads never change a result.
"""

from cython.parallel cimport prange
from libc.stdint cimport int64_t
from libc.string cimport memcpy, memset

cimport numpy as cnp

from fastbn.kernels.border cimport (
    check_vector, data, dense, element_of, output, overlaps, product_element, weight_of,
)
from fastbn.kernels.linear cimport column_sums
from fastbn.kernels.runtime cimport scratch, spans_of, team
from fastbn.kernels.spans cimport matmul_spans_t

import numpy as np

cnp.import_array()

cdef enum:
    TILES = 16           # tiles of rows in a task
    PIXELS = 128         # output pixels that dweight's tiles run through at a time
    FEW_CHANNELS = 8     # fewer are unfolded
    MOST_CHUNKS = 16
    CHUNK_PIXELS = 1024  # of a chunk of dweight, at least
    PARTIAL_BYTES = 8388608


cdef struct conv_t:
    int64_t N, H, W, C, OH, OW, K, kh, kw, sh, sw, ph, pw, dh, dw, groups
    int element, itemsize


# ---- rows of pixels: forward, and each phase of dx ----

cdef struct rows_t:
    int64_t N, GH, GW                     # the grid of rows: (n, i, j)
    const char *src                       # (N, SH, SW, SC): what the taps look at
    int64_t SH, SW, SC, step_h, step_w    # row (i, j) looks at (i * step_h + off_h, ...)
    char *dst                             # (N, DH, DW, DC): pixel (i * skip_h + first_h, ...)
    int64_t DH, DW, DC, skip_h, skip_w, first_h, first_w
    int64_t taps, depth, n                # n columns of each group
    int64_t run                           # taps that see neighbouring pixels
    const int64_t *off_h                  # of every tap
    const int64_t *off_w
    const char *packed                    # [group][panel][tap][depth][nr]
    const char *bias
    const char *zeros
    int64_t groups
    bint unfold
    int element, itemsize


cdef struct place_t:  # of a row in the grid; walked, because divisions are slow
    int64_t n, i, j


cdef inline place_t place_of(const rows_t *p, int64_t row) noexcept nogil:
    cdef place_t at
    at.n = row // (p.GH * p.GW)
    row -= at.n * (p.GH * p.GW)
    at.i = row // p.GW
    at.j = row - at.i * p.GW
    return at


cdef inline void step_to_next(const rows_t *p, place_t *at) noexcept nogil:
    at.j += 1
    if at.j == p.GW:
        at.j = 0
        at.i += 1
        if at.i == p.GH:
            at.i = 0
            at.n += 1


cdef inline const char *source(const rows_t *p, const place_t *at, int64_t tap,
                               int64_t channel) noexcept nogil:
    """What a row sees under a tap: a pixel's channels from this one on, or zeros."""
    cdef int64_t h = at.i * p.step_h + p.off_h[tap], w = at.j * p.step_w + p.off_w[tap]
    if 0 <= h < p.SH and 0 <= w < p.SW:
        return p.src + (((at.n * p.SH + h) * p.SW + w) * p.SC + channel) * p.itemsize
    return p.zeros


cdef void row_pointers(const rows_t *p, int64_t first, int64_t last, int64_t channel, int mr,
                       const void **rows) noexcept nogil:
    """rows[tile][tap][i] for the rows from first to last."""
    cdef place_t at = place_of(p, first)
    cdef int64_t row = first, tap, m = 0
    while row < last:
        for tap in range(p.taps):
            rows[tap * mr + m] = source(p, &at, tap, channel)
        step_to_next(p, &at)
        m += 1
        if m == mr:
            m = 0
            rows += p.taps * mr
        row += 1


cdef void tap_pointers(const rows_t *p, int64_t first, int64_t last, int64_t tap, int64_t channel,
                       const void **rows) noexcept nogil:
    """rows[i] for one tap."""
    cdef place_t at = place_of(p, first)
    cdef int64_t row
    for row in range(last - first):
        rows[row] = source(p, &at, tap, channel)
        step_to_next(p, &at)


cdef void unfold_rows(const rows_t *p, int64_t first, int64_t last, int64_t channel,
                      const void **rows, char *to) noexcept nogil:
    """Copy what all taps of a row see together; rows[i] points at the copies.

    Taps next to each other see pixels next to each other: p.run of them are copied at once.
    """
    cdef place_t at = place_of(p, first)
    cdef int64_t row, tap, h, w, k, size = p.depth * p.itemsize
    for row in range(last - first):
        rows[row] = to
        tap = 0
        while tap < p.taps:
            h = at.i * p.step_h + p.off_h[tap]
            w = at.j * p.step_w + p.off_w[tap]
            if 0 <= h < p.SH and 0 <= w and w + p.run <= p.SW:
                memcpy(to, p.src + (((at.n * p.SH + h) * p.SW + w) * p.SC + channel) * p.itemsize,
                       p.run * size)
            else:
                for k in range(p.run):
                    memcpy(to + k * size, source(p, &at, tap + k, channel), size)
            to += p.run * size
            tap += p.run
        step_to_next(p, &at)


cdef void destinations(const rows_t *p, int64_t first, int64_t last, void **c) noexcept nogil:
    cdef place_t at = place_of(p, first)
    cdef int64_t row
    for row in range(last - first):
        c[row] = p.dst + ((at.n * p.DH + at.i * p.skip_h + p.first_h) * p.DW + at.j * p.skip_w
                          + p.first_w) * p.DC * p.itemsize
        step_to_next(p, &at)


cdef void rows_task(const rows_t *p, int64_t task) noexcept nogil:
    """TILES tiles of rows of one group: all panels of columns."""
    cdef const matmul_spans_t *spans = &spans_of(p.element).matmul
    cdef int64_t total = p.N * p.GH * p.GW, block = TILES * spans.mr
    cdef int64_t first = task // p.groups * block, last = min(total, first + block)
    cdef int64_t group = task % p.groups, panels = (p.n + spans.nr - 1) // spans.nr
    cdef int64_t taps = p.taps, depth = p.depth, panel, row, column, panel_bytes
    cdef int mr = spans.mr
    cdef const void **rows = <const void **>scratch(1, block * p.taps * sizeof(void *)
                                                    + block * sizeof(void *))
    cdef void **c = <void **>(rows + block * p.taps)
    cdef const char *b
    cdef const char *bias = NULL
    destinations(p, first, last, c)
    if p.unfold:
        unfold_rows(p, first, last, group * p.depth, rows,
                    <char *>scratch(2, block * taps * depth * p.itemsize))
        depth = taps * depth
        taps = 1
    else:
        row_pointers(p, first, last, group * p.depth, mr, rows)
    panel_bytes = taps * depth * spans.nr * p.itemsize
    for panel in range(panels):
        b = p.packed + (group * panels + panel) * panel_bytes
        column = group * p.n + panel * spans.nr
        if p.bias != NULL:
            bias = p.bias + column * p.itemsize
        row = 0
        while row < last - first:
            spans.product_tile(taps, depth, rows + row * taps, b, c + row, column,
                               <int>min(<int64_t>mr, last - first - row),
                               min(<int64_t>spans.nr, p.n - panel * spans.nr), bias, 0)
            row = row + mr


cdef void run_rows(const rows_t *p) noexcept nogil:
    cdef const matmul_spans_t *spans = &spans_of(p.element).matmul
    cdef int64_t block = TILES * spans.mr, total = p.N * p.GH * p.GW, task
    cdef int64_t blocks = (total + block - 1) // block
    cdef int threads = team(<double>total * p.n * p.groups * p.depth * max(p.taps, <int64_t>1))
    for task in prange(blocks * p.groups, schedule="dynamic", num_threads=threads):
        rows_task(p, task)


cdef struct packing_t:
    const char *w                         # element (tap, k, n) of group g at
    int64_t taps, depth, n, groups        #   g * sg + off[tap] + k * sk + n * sn
    int64_t sg, sk, sn
    const int64_t *off
    char *packed
    int element, itemsize


cdef void pack_task(const packing_t *p, int64_t task) noexcept nogil:
    """One panel of one group, all taps."""
    cdef const matmul_spans_t *spans = &spans_of(p.element).matmul
    cdef int64_t panels = (p.n + spans.nr - 1) // spans.nr, group = task // panels
    cdef int64_t column = (task - group * panels) * spans.nr, tap
    cdef int64_t bytes_ = p.depth * spans.nr * p.itemsize
    for tap in range(p.taps):
        spans.pack_panel(p.w + (group * p.sg + p.off[tap] + column * p.sn) * p.itemsize, p.depth,
                         min(<int64_t>spans.nr, p.n - column), p.sk, p.sn,
                         p.packed + (task * p.taps + tap) * bytes_)


cdef void run_packing(const packing_t *p) noexcept nogil:
    cdef const matmul_spans_t *spans = &spans_of(p.element).matmul
    cdef int64_t tasks = (p.n + spans.nr - 1) // spans.nr * p.groups, task
    cdef int threads = team(<double>p.taps * p.depth * p.n * p.groups * p.itemsize)
    for task in prange(tasks, schedule="static", num_threads=threads):
        pack_task(p, task)


cdef int64_t packed_bytes(const matmul_spans_t *spans, int64_t taps, int64_t depth, int64_t n,
                          int64_t groups, int itemsize) noexcept nogil:
    return (n + spans.nr - 1) // spans.nr * spans.nr * groups * taps * depth * itemsize


cdef rows_t forward_geometry(const conv_t *v, const char *x, int64_t *off,
                             const char *zeros) noexcept nogil:
    """Output pixels as rows, and what their taps see; `off` has room for two numbers a tap."""
    cdef rows_t r
    cdef int64_t tap, taps = v.kh * v.kw
    for tap in range(taps):
        off[tap] = tap // v.kw * v.dh - v.ph
        off[taps + tap] = tap % v.kw * v.dw - v.pw
    r.N, r.GH, r.GW = v.N, v.OH, v.OW
    r.src, r.SH, r.SW, r.SC, r.step_h, r.step_w = x, v.H, v.W, v.C, v.sh, v.sw
    r.taps, r.depth, r.off_h, r.off_w = taps, v.C // v.groups, off, off + taps
    r.run = v.kw if v.dw == 1 and v.groups == 1 else 1
    r.unfold = r.depth < FEW_CHANNELS and taps > 1
    r.zeros, r.groups, r.element, r.itemsize = zeros, v.groups, v.element, v.itemsize
    return r


cdef int forward_rows(const conv_t *v, const char *x, const char *w, const int64_t *sw,
                      const char *bias, char *y) noexcept nogil:
    """y = conv(x, w) + bias; sw are the strides of w (O, I, kh, kw) in elements."""
    cdef const matmul_spans_t *spans = &spans_of(v.element).matmul
    cdef int64_t taps = v.kh * v.kw, depth = v.C // v.groups, n = v.K // v.groups, tap
    cdef int64_t size = packed_bytes(spans, taps, depth, n, v.groups, v.itemsize)
    cdef char *memory = <char *>scratch(0, size + depth * v.itemsize
                                        + 3 * taps * sizeof(int64_t) + 64)
    cdef char *zeros = memory + size
    cdef int64_t *off = <int64_t *>(memory + (size + depth * v.itemsize + 7) // 8 * 8)
    cdef rows_t r
    cdef packing_t k
    if memory == NULL:
        return -1
    memset(zeros, 0, depth * v.itemsize)
    for tap in range(taps):
        off[2 * taps + tap] = tap // v.kw * sw[2] + tap % v.kw * sw[3]
    k.w, k.taps, k.depth, k.n, k.groups = w, taps, depth, n, v.groups
    k.sg, k.sk, k.sn, k.off, k.packed = n * sw[0], sw[1], sw[0], off + 2 * taps, memory
    k.element, k.itemsize = v.element, v.itemsize
    run_packing(&k)
    r = forward_geometry(v, x, off, zeros)
    r.dst, r.DH, r.DW, r.DC = y, v.OH, v.OW, v.K
    r.skip_h = r.skip_w = 1
    r.first_h = r.first_w = 0
    r.n, r.packed, r.bias = n, memory, bias
    run_rows(&r)
    return 0


cdef int backward_rows(const conv_t *v, const char *dy, const char *w, const int64_t *sw,
                       char *dx) noexcept nogil:
    """dx, phase by phase: input rows h = i * sh + first_h see dy rows (h + ph - r * dh) / sh."""
    cdef const matmul_spans_t *spans = &spans_of(v.element).matmul
    cdef int64_t taps = v.kh * v.kw, depth = v.K // v.groups, n = v.C // v.groups
    cdef int64_t size = packed_bytes(spans, taps, depth, n, v.groups, v.itemsize)
    cdef char *memory = <char *>scratch(0, size + depth * v.itemsize
                                        + 3 * taps * sizeof(int64_t) + 64)
    cdef char *zeros = memory + size
    cdef int64_t *off = <int64_t *>(memory + (size + depth * v.itemsize + 7) // 8 * 8)
    cdef int64_t first_h, first_w, i, j, h, wd
    cdef rows_t r
    cdef packing_t k
    if memory == NULL:
        return -1
    memset(zeros, 0, depth * v.itemsize)
    k.w, k.depth, k.n, k.groups = w, depth, n, v.groups
    k.sg, k.sk, k.sn, k.off, k.packed = depth * sw[0], sw[0], sw[1], off + 2 * taps, memory
    k.element, k.itemsize = v.element, v.itemsize
    r.N = v.N
    r.src, r.SH, r.SW, r.SC, r.step_h, r.step_w = dy, v.OH, v.OW, v.K, 1, 1
    r.dst, r.DH, r.DW, r.DC, r.skip_h, r.skip_w = dx, v.H, v.W, v.C, v.sh, v.sw
    r.depth, r.n, r.off_h, r.off_w = depth, n, off, off + taps
    r.packed, r.bias, r.zeros, r.groups = memory, NULL, zeros, v.groups
    r.element, r.itemsize = v.element, v.itemsize
    for first_h in range(min(v.sh, v.H)):
        for first_w in range(min(v.sw, v.W)):
            r.taps = 0
            for i in range(v.kh):
                h = first_h + v.ph - i * v.dh
                if h % v.sh:
                    continue
                for j in range(v.kw):
                    wd = first_w + v.pw - j * v.dw
                    if wd % v.sw:
                        continue
                    off[r.taps] = h // v.sh
                    off[taps + r.taps] = wd // v.sw
                    off[2 * taps + r.taps] = i * sw[2] + j * sw[3]
                    r.taps += 1
            k.taps = r.taps
            run_packing(&k)
            r.GH = (v.H - first_h + v.sh - 1) // v.sh
            r.GW = (v.W - first_w + v.sw - 1) // v.sw
            r.first_h, r.first_w = first_h, first_w
            r.unfold = depth < FEW_CHANNELS and r.taps > 1
            r.run = 1
            run_rows(&r)
    return 0


# ---- dweight ----

cdef struct weights_t:
    const conv_t *v
    rows_t rows          # output pixels, and what their taps see
    const char *dy
    char *parts          # [chunk][kh][kw][C / groups][K]
    int64_t chunks, pieces, tiles, row_tiles


cdef void weights_task(const weights_t *p, int64_t task) noexcept nogil:
    """One piece of the rows of dweight, over one chunk of output pixels."""
    cdef const conv_t *v = p.v
    cdef const matmul_spans_t *spans = &spans_of(v.element).matmul
    cdef int64_t total = v.N * v.OH * v.OW, chunk = task // p.pieces, piece = task % p.pieces
    cdef int64_t first = total * chunk // p.chunks, last = total * (chunk + 1) // p.chunks
    cdef int64_t begin = p.tiles * piece // p.pieces, end = p.tiles * (piece + 1) // p.pieces
    cdef int64_t depth = v.C // v.groups, n = v.K // v.groups, taps = v.kh * v.kw
    cdef int64_t start = first, count, tile, tap, row, column, group, current
    cdef char *part = p.parts + chunk * taps * depth * v.K * v.itemsize
    cdef const char *dy
    cdef const void *a[PIXELS]
    cdef char *unfolded = NULL
    cdef int m
    if p.rows.unfold:
        unfolded = <char *>scratch(2, PIXELS * taps * depth * v.itemsize)
        depth = taps * depth
        taps = 1
    while start < last:
        count = min(<int64_t>PIXELS, last - start)
        current = -1
        for tile in range(begin, end):  # tiles in the order group, tap, rows of the tap
            group = tile // (taps * p.row_tiles)
            tap = tile // p.row_tiles % taps
            row = tile % p.row_tiles * spans.mr
            if group * taps + tap != current:
                current = group * taps + tap
                if p.rows.unfold:
                    unfold_rows(&p.rows, start, start + count, group * p.rows.depth, a, unfolded)
                else:
                    tap_pointers(&p.rows, start, start + count, tap, group * depth, a)
            m = <int>min(<int64_t>spans.mr, depth - row)
            column = 0
            while column < n:
                dy = p.dy + (start * v.K + group * n + column) * v.itemsize
                spans.outer_tile(count, a, row, dy, v.K,
                                 part + ((tap * depth + row) * v.K + group * n + column)
                                 * v.itemsize, v.K, m, min(<int64_t>spans.nr, n - column),
                                 start > first)
                column = column + spans.nr
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
    cdef int64_t depth = v.C // v.groups, taps = v.kh * v.kw, count = taps * depth * v.K
    cdef int64_t size = count * v.itemsize, pixels = v.N * v.OH * v.OW, task, slices, per
    cdef int threads
    cdef weights_t p
    cdef char *memory
    cdef char *zeros
    cdef int64_t *off
    p.v, p.dy = v, dy
    p.chunks = max(1, min(<int64_t>MOST_CHUNKS, pixels // CHUNK_PIXELS, PARTIAL_BYTES // size))
    memory = <char *>scratch(0, (size if p.chunks > 1 else 0) * p.chunks
                             + (2 * taps + 1) * sizeof(int64_t) + depth * v.itemsize)
    if memory == NULL:
        return -1
    off = <int64_t *>(memory + ((size * p.chunks if p.chunks > 1 else 0) + 7) // 8 * 8)
    zeros = <char *>(off + 2 * taps)
    memset(zeros, 0, depth * v.itemsize)
    p.rows = forward_geometry(v, x, off, zeros)
    if p.rows.unfold:
        p.row_tiles = (taps * depth + spans.mr - 1) // spans.mr
        p.tiles = p.row_tiles * v.groups
    else:
        p.row_tiles = (depth + spans.mr - 1) // spans.mr
        p.tiles = p.row_tiles * taps * v.groups
    p.pieces = min(p.tiles, (MOST_CHUNKS + p.chunks - 1) // p.chunks)
    p.parts = memory if p.chunks > 1 else dweight
    threads = team(<double>pixels * taps * depth * v.K // v.groups)
    for task in prange(p.chunks * p.pieces, schedule="dynamic", num_threads=threads):
        weights_task(&p, task)
    if p.chunks > 1:
        slices = (count + 4095) // 4096
        for task in prange(slices, schedule="static", num_threads=threads):
            add_parts(memory, p.chunks, count, v.itemsize, task * 4096,
                      min(count, (task + 1) * 4096))
        memcpy(dweight, memory, size)
    return 0


# ---- the border ----

cdef class ConvSaved:
    """What backward needs: x, weight and bias themselves, and the geometry."""

    cdef readonly object x, weight, bias
    cdef readonly tuple output_shape
    cdef conv_t v


cdef tuple pair(object value, str what, int least):
    try:
        a, b = (value, value) if isinstance(value, int) else value
        a, b = int(a), int(b)
    except (TypeError, ValueError):
        raise TypeError(f"{what}: expected an int or a pair of ints, got {value!r}") from None
    if a < least or b < least:
        raise ValueError(f"{what} should be at least {least}, got {value!r}")
    return a, b


cdef int pads(conv_t *v, object padding) except -1:
    """Padding before and the output's size; "same" pads more behind where it is odd."""
    cdef int64_t reach_h = v.dh * (v.kh - 1), reach_w = v.dw * (v.kw - 1), after_h, after_w
    if padding == "valid":
        v.ph = v.pw = after_h = after_w = 0
    elif padding == "same":
        if v.sh != 1 or v.sw != 1:
            raise ValueError("padding='same' is not supported for strided convolutions")
        v.ph, v.pw = reach_h // 2, reach_w // 2
        after_h, after_w = reach_h - v.ph, reach_w - v.pw
    elif isinstance(padding, str):
        raise ValueError(f"padding should be an int, a pair, 'same' or 'valid', got {padding!r}")
    else:
        v.ph, v.pw = pair(padding, "padding", 0)
        after_h, after_w = v.ph, v.pw
    if v.H + v.ph + after_h <= reach_h or v.W + v.pw + after_w <= reach_w:
        raise ValueError(
            f"Calculated padded input size per channel: ({v.H + v.ph + after_h} x "
            f"{v.W + v.pw + after_w}). Kernel size: ({reach_h + 1} x {reach_w + 1}). Kernel size "
            "can't be greater than actual input size")
    v.OH = (v.H + v.ph + after_h - reach_h - 1) // v.sh + 1
    v.OW = (v.W + v.pw + after_w - reach_w - 1) // v.sw + 1
    return 0


cdef int strides_of(cnp.ndarray w, int64_t *strides) except -1:
    cdef int i
    for i in range(4):
        strides[i] = cnp.PyArray_STRIDE(w, i) // cnp.PyArray_ITEMSIZE(w)
    return 0


def forward(object x_, object weight, object bias, object stride, object padding, object dilation,
            int64_t groups, object out):
    """Check the arguments of ``functional.conv2d``, then compute it."""
    cdef cnp.ndarray x = dense(x_, "x"), w, y
    cdef int64_t strides[4]
    cdef cnp.npy_intp shape[4]
    cdef conv_t v
    cdef ConvSaved saved
    cdef const char *bias_data
    cdef int status = 0
    v.element = product_element(x, "x")
    v.itemsize = cnp.PyArray_ITEMSIZE(x)
    if cnp.PyArray_NDIM(x) != 4:
        raise ValueError(f"expected 4D input (N, H, W, C), got {cnp.PyArray_NDIM(x)}D input")
    w = weight_of(weight, x, "weight", 4)
    v.N, v.H, v.W, v.C = x.shape[0], x.shape[1], x.shape[2], x.shape[3]
    v.K, v.kh, v.kw = w.shape[0], w.shape[2], w.shape[3]
    v.groups = groups
    if groups < 1:
        raise ValueError(f"groups should be at least 1, got {groups}")
    if min(v.K, v.kh, v.kw) < 1:
        raise ValueError(f"weight: no side may be 0, got shape {np.shape(w)}")
    if v.K % groups:
        raise ValueError(f"weight: {v.K} output channels are not divisible by groups={groups}")
    if v.C != w.shape[1] * groups:
        raise ValueError(f"given groups={groups}, weight of shape {np.shape(w)}, expected an input "
                         f"of {w.shape[1] * groups} channels, got shape {np.shape(x)}")
    v.sh, v.sw = pair(stride, "stride", 1)
    v.dh, v.dw = pair(dilation, "dilation", 1)
    pads(&v, padding)
    check_vector(bias, "bias", v.K, cnp.PyArray_TYPE(x))
    shape[0], shape[1], shape[2], shape[3] = v.N, v.OH, v.OW, v.K
    if out is None:
        y = cnp.PyArray_EMPTY(4, shape, cnp.PyArray_TYPE(x), 0)
    else:
        y = output(out, cnp.PyArray_EMPTY(4, shape, cnp.PyArray_TYPE(x), 0), "out")
        if overlaps(y, x) or overlaps(y, w):
            raise ValueError("out must overlap neither x nor weight")
    strides_of(w, strides)
    bias_data = <char *>data(bias)
    if v.N:
        with nogil:
            status = forward_rows(&v, <char *>cnp.PyArray_DATA(x), <char *>cnp.PyArray_DATA(w),
                                  strides, bias_data,
                                  <char *>cnp.PyArray_DATA(y))
    if status:
        raise MemoryError
    saved = ConvSaved.__new__(ConvSaved)
    saved.x, saved.weight, saved.bias, saved.v = x, w, bias, v
    saved.output_shape = (v.N, v.OH, v.OW, v.K)
    return y, saved


def backward(object dy_, ConvSaved saved, bint need_dx, bint need_dweight, bint need_dbias,
             object out, object dweight, object dbias):
    """Check the arguments of ``functional.conv2d_backward``, then compute it."""
    cdef cnp.ndarray x = saved.x, w = saved.weight, dy = dense(dy_, "dy"), store = None
    cdef object dx = None, dw = None, db = None
    cdef conv_t v = saved.v
    cdef int64_t strides[4]
    cdef int status = 0
    if cnp.PyArray_TYPE(dy) != cnp.PyArray_TYPE(x):
        raise TypeError(f"dy: expected {x.dtype}, got {dy.dtype}")
    if (<object>dy).shape != saved.output_shape:
        raise ValueError(f"dy: expected shape {saved.output_shape}, got {np.shape(dy)}")
    if need_dx:
        dx = output(out, x, "out")
        if overlaps(dx, dy) or overlaps(dx, x):
            raise ValueError("out must overlap neither dy nor x")
    if need_dweight:
        dw, store = gradient_like(dweight, w)
    if need_dbias and saved.bias is not None:
        db = output(dbias, saved.bias, "dbias")
    strides_of(w, strides)
    if v.N == 0:
        if need_dweight:
            dw[...] = 0
        if db is not None:
            db[...] = 0
        return dx, dw, db
    if need_dx:
        with nogil:
            status = backward_rows(&v, cnp.PyArray_BYTES(dy), cnp.PyArray_BYTES(w), strides,
                                   cnp.PyArray_BYTES(<cnp.ndarray>dx))
    if need_dweight and not status:
        with nogil:
            status = backward_weights(&v, cnp.PyArray_BYTES(x), cnp.PyArray_BYTES(dy),
                                      cnp.PyArray_BYTES(store))
        if not cnp.PyArray_BYTES(store) == cnp.PyArray_BYTES(<cnp.ndarray>dw):
            dw[...] = np.transpose(store, (3, 2, 0, 1))
    if status:
        raise MemoryError
    if db is not None:
        with nogil:
            column_sums(cnp.PyArray_BYTES(dy), v.N * v.OH * v.OW, v.K, v.element, v.itemsize,
                        cnp.PyArray_DATA(<cnp.ndarray>db))
    return dx, dw, db


cdef tuple gradient_like(object destination, cnp.ndarray w):
    """dweight (O, I, kh, kw), and the dense (kh, kw, I, O) storage it is computed in."""
    O, I, kh, kw = np.shape(w)
    if destination is None:
        store = np.empty((kh, kw, I, O), dtype=w.dtype)
        return store.transpose(3, 2, 0, 1), store
    if not isinstance(destination, cnp.ndarray):
        raise TypeError(f"dweight: expected a numpy.ndarray, got {type(destination).__name__}")
    if destination.dtype != w.dtype:
        raise TypeError(f"dweight: expected {w.dtype}, got {destination.dtype}")
    if destination.shape != (O, I, kh, kw):
        raise ValueError(f"dweight: expected shape {(O, I, kh, kw)}, got {destination.shape}")
    if not destination.flags.writeable:
        raise ValueError("dweight is read-only")
    view = destination.transpose(2, 3, 1, 0)
    if view.flags.c_contiguous and view.flags.aligned:
        return destination, view
    return destination, np.empty((kh, kw, I, O), dtype=w.dtype)
