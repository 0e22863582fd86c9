"""Linear layers: three matrix products on the tile kernels of kernels/matmul.

Forward and dx are cut into blocks of rows times panels of columns; a task packs its panel, then
runs through the rows. dweight is cut into groups of its own rows; where there is work enough, what
it is made of is packed, too. All cuts come from the shapes, and a number is summed by one task in
one order, so threads never change a result.
"""

from libc.stdint cimport int64_t

cimport numpy as cnp

from fastbn.kernels.arguments cimport (
    arrays_t, check_arrays, check_filled, check_size, check_vector, data, dense, element_of, output,
    product_element, reads, weight_of, writes,
)
from fastbn.kernels.matmul cimport (
    MOST_MR, ahead_t, column_sums, matmul_simd, matmul_simd_t,
)
from fastbn.kernels.runtime cimport run_tasks, scratch, team

import numpy as np

cnp.import_array()

cdef enum:
    DEPTH = 1024       # of a packed panel: 64 KB of float32
    TILES = 16         # tiles of rows in a task, at most
    FEW_ROWS = 48      # for which a panel is not packed
    COUNT = 128        # rows of x and dy that dweight's tiles run through at a time
    MOST_COUNT = 1024  # of those that are packed at once
    FEW_PANELS = 4     # of dy; with fewer, or with fewer than COUNT rows, nothing is packed
    GROUP = 4          # tiles of dweight's rows in a task


cdef inline int64_t panels_of(int64_t columns, const matmul_simd_t *simd) noexcept nogil:
    return (columns + simd.nr - 1) // simd.nr


cdef struct product_t:  # c (m, n) = a (m, k) b (k, n) + bias
    int64_t m, k, n
    const char *a       # row-major
    const char *b       # element (k, n) at k * sk + n * sn
    int64_t sk, sn
    const char *bias
    char *c             # row-major
    int64_t block       # rows of a task
    int element, itemsize


cdef void product_task(const void *job, int64_t task) noexcept nogil:
    """One panel of columns for one block of rows."""
    cdef const product_t *p = <const product_t *>job
    cdef const matmul_simd_t *simd = matmul_simd(p.element)
    cdef int64_t panels = panels_of(p.n, simd)
    cdef int64_t column = task % panels * simd.nr, first = task // panels * p.block
    cdef int64_t count = min(p.m - first, p.block), i, k = 0, depth, start = 0
    cdef int64_t n = min(<int64_t>simd.nr, p.n - column)
    cdef int size = p.itemsize
    cdef const void *rows[TILES * MOST_MR]
    cdef void *c[TILES * MOST_MR]
    # Few rows do not repay the packing of a panel that they could read where it lies.
    cdef bint as_it_lies = p.sn == 1 and n == simd.nr and count <= FEW_ROWS
    cdef char *panel = <char *>scratch(1, min(p.k, <int64_t>DEPTH) * simd.nr * size)
    cdef const char *b
    for i in range(count):
        rows[i] = p.a + (first + i) * p.k * size
        c[i] = p.c + ((first + i) * p.n + column) * size
    while k < p.k or k == 0:
        depth = min(p.k - k, <int64_t>DEPTH)
        b = p.b + (k * p.sk + column * p.sn) * size
        if not as_it_lies:
            simd.pack_panel(b, depth, n, p.sk, p.sn, panel)
            b = panel
        start = k
        simd.product_rows(1, &start, &depth, rows, b, p.sk if as_it_lies else simd.nr, c, 0,
                          count, n,
                          p.bias + column * size if p.bias != NULL and k == 0 else NULL, k > 0,
                          False, NULL, 0)
        k = k + DEPTH


cdef void product(product_t *p) noexcept nogil:
    cdef const matmul_simd_t *simd = matmul_simd(p.element)
    cdef int64_t tiles = (p.m + simd.mr - 1) // simd.mr
    cdef int64_t blocks = (tiles + TILES - 1) // TILES
    cdef int64_t panels = panels_of(p.n, simd)
    if blocks == 0:
        return
    p.block = (tiles + blocks - 1) // blocks * simd.mr  # as much work for every thread
    run_tasks(product_task, p, blocks * panels, team(<double>p.m * p.n * p.k))


cdef struct outer_t:    # c (m, n) = a (count, m) transposed, b (count, n)
    int64_t m, n, count
    const char *a
    const char *b
    char *c             # rows ldc apart
    int64_t ldc
    char *panels        # b, COUNT rows by COUNT rows, in panels of columns; NULL: as it lies
    bint add            # to what c holds
    int element, itemsize


cdef void split_task(const void *job, int64_t task) noexcept nogil:
    """Cut COUNT rows of b into panels."""
    cdef const outer_t *p = <const outer_t *>job
    cdef const matmul_simd_t *simd = matmul_simd(p.element)
    cdef int64_t start = task * COUNT, count = min(p.count - start, <int64_t>COUNT)
    simd.split_pixels(p.b + start * p.n * p.itemsize, count, p.n, p.n, simd.nr,
                      p.panels + start * panels_of(p.n, simd) * simd.nr * p.itemsize,
                      count * simd.nr)


cdef void outer_task(const void *job, int64_t task) noexcept nogil:
    """GROUP tiles of rows of c, all its columns.

    The columns of a that they need stand side by side in `packed`, where all tiles find them in
    the first cache: in a, they are parts of rows that may be a multiple of 4096 bytes apart."""
    cdef const outer_t *p = <const outer_t *>job
    cdef const matmul_simd_t *simd = matmul_simd(p.element)
    cdef int64_t group = GROUP * simd.mr, first = task * group, rows = min(p.m - first, group)
    cdef int64_t panels = panels_of(p.n, simd), start = 0, i, panel, count, n
    cdef int64_t lda = p.m, ldb = p.n
    cdef int size = p.itemsize
    cdef const char *seen
    cdef const char *b
    cdef const void *a[COUNT]
    cdef int64_t off[GROUP * MOST_MR]
    cdef ahead_t[2] nothing
    cdef char *packed = NULL
    if p.panels != NULL:
        packed = <char *>scratch(1, COUNT * group * size)
        ldb = simd.nr
    if packed != NULL:
        lda = group
    nothing[0].p = nothing[1].p = NULL
    nothing[0].bytes = nothing[1].bytes = 0
    for i in range(rows):
        off[i] = i
    while start < p.count:
        count = min(<int64_t>COUNT, p.count - start)
        seen = p.a + (start * p.m + first) * size
        if packed != NULL:
            simd.split_pixels(seen, count, p.m, rows, group, packed, 0)
            seen = packed
        for i in range(count):
            a[i] = seen + i * lda * size
        for panel in range(panels):
            n = min(<int64_t>simd.nr, p.n - panel * simd.nr)
            if p.panels != NULL:
                b = p.panels + (start * panels + panel * count) * simd.nr * size
            else:
                b = p.b + (start * p.n + panel * simd.nr) * size
            simd.outer_rows(count, a, off, b, ldb,
                            p.c + (first * p.ldc + panel * simd.nr) * size, p.ldc, rows, n,
                            start > 0 or p.add, nothing, 0)
        start = start + count


cdef void outer(outer_t *p) noexcept nogil:
    cdef const matmul_simd_t *simd = matmul_simd(p.element)
    cdef int64_t tasks = (p.m + GROUP * simd.mr - 1) // (GROUP * simd.mr), left = p.count
    cdef int64_t most = left, panels = panels_of(p.n, simd)
    cdef int threads = team(<double>p.m * p.n * p.count)
    p.panels, p.add = NULL, False
    if panels >= FEW_PANELS and left >= COUNT:
        most = min(left, <int64_t>MOST_COUNT)
        p.panels = <char *>scratch(0, most * panels * simd.nr * p.itemsize)
    while left > 0:
        p.count = min(left, most)
        if p.panels != NULL:
            run_tasks(split_task, p, (p.count + COUNT - 1) // COUNT, threads)
        run_tasks(outer_task, p, tasks, threads)
        p.a, p.b = p.a + p.count * p.m * p.itemsize, p.b + p.count * p.n * p.itemsize
        left, p.add = left - p.count, True


# ---- arguments are checked, arrays go in and out ----

cdef class LinearSaved:
    """What backward needs: x as rows, the weight, and the shape of x."""

    cdef readonly object x, weight, bias
    cdef readonly tuple shape


def forward(object x_, object weight, object bias, object out):
    """Check the arguments of ``functional.linear``, then compute it."""
    cdef cnp.ndarray x = dense(x_, "x"), w, y, like
    cdef product_t p
    cdef LinearSaved saved
    cdef arrays_t a
    cdef object shape = (<object>x).shape
    p.element = product_element(x, "x")
    w = weight_of(weight, x, "weight", 2)
    p.n, p.k = cnp.PyArray_DIM(w, 0), cnp.PyArray_DIM(w, 1)
    if cnp.PyArray_NDIM(x) < 1 or shape[len(shape) - 1] != p.k:
        raise ValueError(f"expected an input of {p.k} features, got shape {shape}")
    check_vector(bias, "bias", p.n, cnp.PyArray_TYPE(x))
    p.m = 1
    for d in shape[:len(shape) - 1]:
        p.m *= d
    check_size(<double>p.m * p.n, "y")
    if out is None:
        y = cnp.PyArray_EMPTY(2, [p.m, p.n], cnp.PyArray_TYPE(x), 0)
        result = y if len(shape) == 2 else (<object>y).reshape((*shape[:len(shape) - 1], p.n))
    else:
        like = cnp.PyArray_EMPTY(2, [p.m, p.n], cnp.PyArray_TYPE(x), 0)
        if len(shape) != 2:
            like = (<object>like).reshape((*shape[:len(shape) - 1], p.n))
        y = result = output(out, like, "out")
        a.count = 0
        writes(&a, y, b"out")
        reads(&a, x, b"x")
        reads(&a, w, b"weight")
        reads(&a, bias, b"bias")
        check_arrays(&a)
    p.itemsize = cnp.PyArray_ITEMSIZE(x)
    p.a, p.b, p.c = <char *>data(x), <char *>data(w), <char *>data(y)
    p.sn = cnp.PyArray_STRIDE(w, 0) // p.itemsize
    p.sk = cnp.PyArray_STRIDE(w, 1) // p.itemsize
    p.bias = <char *>data(bias)
    with nogil:
        product(&p)
    saved = LinearSaved.__new__(LinearSaved)
    saved.x, saved.weight, saved.bias, saved.shape = x, w, bias, shape
    return result, saved


def backward(object dy_, LinearSaved saved not None, bint need_dx, bint need_dweight,
             bint need_dbias, object out, object dweight, object dbias):
    """Check the arguments of ``functional.linear_backward``, then compute it."""
    check_filled(saved.x, "linear")
    cdef cnp.ndarray x = saved.x, w = saved.weight, dy = dense(dy_, "dy")
    cdef cnp.ndarray dw = None, dx = None, db = None
    cdef arrays_t a
    cdef int64_t k = cnp.PyArray_DIM(w, 1), n = cnp.PyArray_DIM(w, 0)
    cdef int itemsize = cnp.PyArray_ITEMSIZE(x), element = element_of(x, "x")
    cdef product_t p
    cdef outer_t o
    cdef int64_t m = 1
    expected = (*saved.shape[:len(saved.shape) - 1], n)
    for d in saved.shape[:len(saved.shape) - 1]:
        m *= d
    if cnp.PyArray_TYPE(dy) != cnp.PyArray_TYPE(x):
        raise TypeError(f"dy: expected {x.dtype}, got {dy.dtype}")
    if (<object>dy).shape != expected:
        raise ValueError(f"dy: expected shape {expected}, got {(<object>dy).shape}")
    if need_dx:
        dx = output(out, x, "out")
    if need_dweight:
        dw = gradient_like(dweight, w, "dweight")
    if need_dbias and saved.bias is not None:
        db = output(dbias, saved.bias, "dbias")
    else:
        need_dbias = False
    a.count = 0
    writes(&a, dx, b"out")
    writes(&a, dw, b"dweight")
    writes(&a, db, b"dbias")
    reads(&a, dy, b"dy")
    reads(&a, x, b"x")
    reads(&a, w, b"weight")
    check_arrays(&a)
    if need_dx:
        p.m, p.k, p.n = m, n, k
        p.a, p.b, p.c, p.bias = <char *>data(dy), <char *>data(w), <char *>data(dx), NULL
        p.sk = cnp.PyArray_STRIDE(w, 0) // itemsize
        p.sn = cnp.PyArray_STRIDE(w, 1) // itemsize
        p.element, p.itemsize = element, itemsize
        with nogil:
            product(&p)
    if need_dweight:
        if m == 0:
            (<object>dw)[...] = 0
        o.count, o.element, o.itemsize = m, element, itemsize
        if cnp.PyArray_STRIDE(dw, 0) == itemsize:  # storage (in, out)
            o.m, o.n, o.a, o.b = k, n, <char *>data(x), <char *>data(dy)
            o.ldc = cnp.PyArray_STRIDE(dw, 1) // itemsize
        else:                                      # storage (out, in)
            o.m, o.n, o.a, o.b = n, k, <char *>data(dy), <char *>data(x)
            o.ldc = cnp.PyArray_STRIDE(dw, 0) // itemsize
        o.c = <char *>data(dw)
        with nogil:
            outer(&o)
    if need_dbias:
        with nogil:
            column_sums(<char *>cnp.PyArray_DATA(dy), m, n, element, itemsize,
                        cnp.PyArray_DATA(db))
    return dx, dw, db


cdef cnp.ndarray gradient_like(object destination, cnp.ndarray w, str what):
    """The destination of a weight's gradient: dense, with the weight's order of axes."""
    cdef cnp.ndarray g
    if destination is None:
        turned = cnp.PyArray_IS_F_CONTIGUOUS(w) and not cnp.PyArray_IS_C_CONTIGUOUS(w)
        return np.empty((<object>w).shape, dtype=w.dtype, order="F" if turned else "C")
    if not isinstance(destination, cnp.ndarray):
        raise TypeError(f"{what}: expected a numpy.ndarray, got {type(destination).__name__}")
    g = <cnp.ndarray>destination
    if cnp.PyArray_TYPE(g) != cnp.PyArray_TYPE(w):
        raise TypeError(f"{what}: expected {w.dtype}, got {g.dtype}")
    if not cnp.PyArray_SAMESHAPE(g, w):
        raise ValueError(f"{what}: expected shape {(<object>w).shape}, got {(<object>g).shape}")
    if not cnp.PyArray_ISBEHAVED(g) or not (
            cnp.PyArray_IS_C_CONTIGUOUS(g) or cnp.PyArray_IS_F_CONTIGUOUS(g)):
        raise ValueError(f"{what} must be contiguous (in any order of axes), aligned and writeable")
    return g
