from libc.stdint cimport int64_t


cdef extern from "loss/table.h" nogil:
    ctypedef struct ce_row_t:
        int64_t label
        double top
        double scale

    ctypedef struct loss_simd_t:
        double (*ce_rows)(const void *x, ce_row_t *rows, int64_t count,
                          int64_t columns) noexcept nogil
        void (*ce_grad_rows)(const void *x, void *dx, const ce_row_t *rows, int64_t count,
                             int64_t columns, double factor) noexcept nogil
        double (*squares)(const void *p, const void *t, int64_t n) noexcept nogil
        void (*difference)(const void *p, const void *t, void *dp, int64_t n, double factor,
                           int stream) noexcept nogil

    const loss_simd_t *loss_table(int level, int element)
