# y: rows are output pixels. What all directions pack and plan comes first (see conv.pyx).

cdef struct packing_t:
    const char *w                         # element (tap, k, n) of group g at
    int64_t taps, depth, n, groups        # g * sg + off[tap] + k * sk + n * sn
    int64_t sg, sk, sn
    const int64_t *off
    char *packed
    bint dots
    int element, itemsize


cdef void pack_task(const void *job, int64_t task) noexcept nogil:
    """One panel of one group, all taps."""
    cdef const packing_t *p = <const packing_t *>job
    cdef const matmul_simd_t *simd = matmul_simd(p.element)
    cdef int64_t panels = (p.n + simd.nr - 1) // simd.nr, group = task // panels
    cdef int64_t column = (task - group * panels) * simd.nr, tap, k, n
    cdef int64_t bytes_ = p.depth * simd.nr * p.itemsize
    cdef const char *w = p.w + group * p.sg * p.itemsize
    cdef char *to
    if p.dots:
        to = p.packed + group * p.n * p.taps * p.depth * p.itemsize
        for n in range(p.n):
            for tap in range(p.taps):
                for k in range(p.depth):
                    memcpy(to, w + (p.off[tap] + k * p.sk + n * p.sn) * p.itemsize, p.itemsize)
                    to += p.itemsize
        return
    for tap in range(p.taps):
        simd.pack_panel(w + (p.off[tap] + column * p.sn) * p.itemsize, p.depth,
                        min(<int64_t>simd.nr, p.n - column), p.sk, p.sn,
                        p.packed + (task * p.taps + tap) * bytes_)


cdef void run_packing(const packing_t *p) noexcept nogil:
    cdef const matmul_simd_t *simd = matmul_simd(p.element)
    run_tasks(pack_task, p, (p.n + simd.nr - 1) // simd.nr * p.groups,
              team(<double>p.taps * p.depth * p.n * p.groups * p.itemsize))


cdef struct room_t:  # what a product of rows needs: packed weights, the plan, the taps' offsets
    char *packed
    int64_t *plan
    int64_t *off


cdef int take_room(const conv_t *v, int64_t depth, int64_t n, room_t *room) noexcept nogil:
    cdef const matmul_simd_t *simd = matmul_simd(v.element)
    cdef int64_t taps = v.kh * v.kw, columns = (n + simd.nr - 1) // simd.nr * simd.nr
    cdef int64_t size = (columns * v.groups * taps * depth * v.itemsize + 63) // 64 * 64
    cdef int64_t numbers = 2 * (taps + 2 * chunks_of(simd, taps * depth, v.itemsize)) + 1
    room.packed = <char *>scratch(0, size + (numbers + taps) * sizeof(int64_t))
    if room.packed == NULL:
        return -1
    room.plan = <int64_t *>(room.packed + size)
    room.off = room.plan + numbers
    return 0


cdef void forward_axes(const conv_t *v, axis_t *h, axis_t *w) noexcept nogil:
    """What output pixels see of x."""
    h.grid, h.size, h.step, h.first, h.taps, h.apart = v.OH, v.H, v.sh, -v.ph, v.kh, v.dh
    w.grid, w.size, w.step, w.first, w.taps, w.apart = v.OW, v.W, v.sw, -v.pw, v.kw, v.dw


cdef int forward_rows(const conv_t *v, const char *x, const char *w, const int64_t *sw,
                      const char *bias, char *y, double *moments) noexcept nogil:
    """y = conv(x, w) + bias; sw are the strides of w (O, I, kh, kw) in elements.

    moments, if not NULL: mean of every channel of y, and the sum of squares about it.
    """
    cdef int64_t depth = v.C // v.groups, n = v.K // v.groups, tap
    cdef room_t room
    cdef rows_t r
    cdef packing_t k
    if take_room(v, depth, n, &room):
        return -1
    forward_axes(v, &r.h, &r.w)
    r.N, r.src, r.channels, r.depth, r.n, r.groups = v.N, x, v.C, depth, n, v.groups
    r.dst, r.DH, r.DW, r.DC = y, v.OH, v.OW, v.K
    r.skip_h = r.skip_w = 1
    r.first_h = r.first_w = 0
    r.packed, r.bias, r.element, r.itemsize = room.packed, bias, v.element, v.itemsize
    plan(&r, room.plan)
    for tap in range(v.kh * v.kw):
        room.off[tap] = tap // v.kw * sw[2] + tap % v.kw * sw[3]
    k.w, k.taps, k.depth, k.n, k.groups = w, v.kh * v.kw, depth, n, v.groups
    k.sg, k.sk, k.sn, k.off, k.packed = n * sw[0], sw[1], sw[0], room.off, room.packed
    k.dots, k.element, k.itemsize = r.dots, v.element, v.itemsize
    run_packing(&k)
    return run_rows(&r, moments, v)
