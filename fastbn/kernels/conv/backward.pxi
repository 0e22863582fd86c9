# dx: rows are input pixels, those of each phase of the stride by themselves (see conv.pyx).

cdef int64_t phase_axis(int64_t size, int64_t phase, int64_t stride, int64_t dilation,
                        int64_t padding, int64_t kernel, axis_t *a,
                        int64_t *between) noexcept nogil:
    """What the input positions phase, phase + stride, ... see of dy along one axis.

    Position h sees row (h + padding - r * dilation) / stride under tap r of the filter, where that
    is whole. Returns the last such tap, which sees the first row; the others are `between` apart.
    """
    cdef int64_t r = 0, taps = 0, first = -1, last = 0
    between[0] = 1
    for r in range(kernel):
        if (phase + padding - r * dilation) % stride == 0:
            if taps == 0:
                first = r
            elif taps == 1:
                between[0] = r - first
            last = r
            taps += 1
    a.grid = (size - phase + stride - 1) // stride
    a.step, a.taps, a.apart = 1, taps, between[0] * dilation // stride
    a.first = (phase + padding - last * dilation) // stride if taps else 0
    return last


cdef bint reached(int64_t size, int64_t stride, int64_t dilation, int64_t padding,
                  int64_t kernel) noexcept nogil:
    """Does every phase along an axis see dy?"""
    cdef int64_t phase, between
    cdef axis_t a
    for phase in range(min(stride, size)):
        phase_axis(size, phase, stride, dilation, padding, kernel, &a, &between)
        if a.taps == 0:
            return False
    return True


cdef void fill_task(const void *job, int64_t row) noexcept nogil:
    """The bias, or zeros, in one row of dx."""
    cdef const rows_t *p = <const rows_t *>job
    cdef int64_t size = p.DC * p.itemsize, j
    cdef char *to = p.dst + row * p.DW * size
    if p.bias == NULL:
        memset(to, 0, p.DW * size)
        return
    for j in range(p.DW):
        memcpy(to + j * size, p.bias, size)


cdef int backward_rows(const conv_t *v, const char *dy, const char *w, const int64_t *sw,
                       const char *bias, char *dx) noexcept nogil:
    """dx (+ bias): a product of rows for each phase of the input's position modulo the stride."""
    cdef int64_t depth = v.K // v.groups, n = v.C // v.groups, last_h, last_w, i, j
    cdef int64_t between_h, between_w, count
    cdef room_t room
    cdef rows_t r
    cdef packing_t k
    if take_room(v, depth, n, &room):
        return -1
    r.N, r.src, r.channels, r.depth, r.n, r.groups = v.N, dy, v.K, depth, n, v.groups
    r.h.size, r.w.size = v.OH, v.OW
    r.dst, r.DH, r.DW, r.DC, r.skip_h, r.skip_w = dx, v.H, v.W, v.C, v.sh, v.sw
    r.packed, r.bias, r.element, r.itemsize = room.packed, bias, v.element, v.itemsize
    k.w, k.depth, k.n, k.groups = w, depth, n, v.groups
    k.sg, k.sk, k.sn, k.off, k.packed = depth * sw[0], sw[0], sw[1], room.off, room.packed
    k.element, k.itemsize = v.element, v.itemsize
    if not (reached(v.H, v.sh, v.dh, v.ph, v.kh) and reached(v.W, v.sw, v.dw, v.pw, v.kw)):
        run_tasks(fill_task, &r, v.N * v.H, team(<double>v.N * v.H * v.W * v.C * v.itemsize))
    for r.first_h in range(min(v.sh, v.H)):
        last_h = phase_axis(v.H, r.first_h, v.sh, v.dh, v.ph, v.kh, &r.h, &between_h)
        for r.first_w in range(min(v.sw, v.W)):
            last_w = phase_axis(v.W, r.first_w, v.sw, v.dw, v.pw, v.kw, &r.w, &between_w)
            if r.h.taps == 0 or r.w.taps == 0:
                continue
            plan(&r, room.plan)
            count = 0
            for i in range(r.h.taps):
                for j in range(r.w.taps):
                    room.off[count] = ((last_h - i * between_h) * sw[2]
                                       + (last_w - j * between_w) * sw[3])
                    count += 1
            k.taps, k.dots = count, r.dots
            run_packing(&k)
            if run_rows(&r, NULL, v):
                return -1
    return 0
