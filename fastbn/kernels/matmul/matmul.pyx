"""Matrix products: the tile kernels that linear and convolution layers share.

A tile of sums stays in registers while the numbers that it is made of pass by (tiles.h; blocked.h
for what Winograd convolution makes). Which tiles there are, and who computes them, linear and conv
say: how rows are read is their business. Here is what both need beside tiles.
"""

from libc.stdint cimport int64_t

from fastbn.kernels.runtime cimport isa_level, run_tasks, team

cdef enum:
    SUMS = 64       # columns of a task that sums them
    SUM_ROWS = 128  # rows whose sums are taken in T


cdef const matmul_simd_t *matmul_simd(int element) noexcept nogil:
    return matmul_table(isa_level(), element)


cdef struct columns_t:
    const char *x       # (rows, columns)
    int64_t rows, columns
    void *sums
    int element, itemsize


cdef void sums_task(const void *job, int64_t task) noexcept nogil:
    """The sums of SUMS columns."""
    cdef const columns_t *p = <const columns_t *>job
    cdef const matmul_simd_t *simd = matmul_simd(p.element)
    cdef double total[SUMS]
    cdef int64_t first = task * SUMS, n = min(<int64_t>SUMS, p.columns - first), row = 0, j
    for j in range(n):
        total[j] = 0.0
    while row < p.rows:
        simd.col_sums(p.x + (row * p.columns + first) * p.itemsize,
                      min(<int64_t>SUM_ROWS, p.rows - row), n, p.columns, total)
        row = row + SUM_ROWS
    for j in range(n):
        if p.itemsize == 8:
            (<double *>p.sums)[first + j] = total[j]
        else:
            (<float *>p.sums)[first + j] = <float>total[j]


cdef void column_sums(const char *x, int64_t rows, int64_t columns, int element, int itemsize,
                      void *sums) noexcept nogil:
    """The sums of the columns of a (rows, columns) array: the gradient of a bias."""
    cdef columns_t p
    p.x, p.rows, p.columns, p.sums = x, rows, columns, sums
    p.element, p.itemsize = element, itemsize
    run_tasks(sums_task, &p, (columns + SUMS - 1) // SUMS,
              team(<double>rows * columns * itemsize))
