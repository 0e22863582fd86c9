from libc.stdint cimport int64_t


cdef extern from "loss/table.h" nogil:
    enum:
        LOSS_SQUARED
        LOSS_ABSOLUTE
        LOSS_HUBER
        LOSS_LOGISTIC

    ctypedef struct ce_row_t:
        int64_t label
        double top
        double scale

    ctypedef struct ce_share_t:
        double hit
        double spread
        double total

    ctypedef struct loss_simd_t:
        double (*ce_rows)(const void *x, ce_row_t *rows, int64_t count,
                          int64_t columns) noexcept nogil
        void (*ce_grad_rows)(const void *x, void *dx, const ce_row_t *rows, int64_t count,
                             int64_t columns, double factor) noexcept nogil
        double (*ce_shared_rows)(const void *x, const void *w, const void *p, ce_row_t *rows,
                                 ce_share_t *shares, int64_t count,
                                 int64_t columns) noexcept nogil
        void (*ce_shared_grad_rows)(const void *x, const void *w, const void *p, void *dx,
                                    const ce_row_t *rows, const ce_share_t *shares,
                                    int64_t count, int64_t columns, double factor) noexcept nogil
        double (*pairs)(const void *x, const void *t, int64_t n, int op,
                        double delta) noexcept nogil
        void (*pairs_grad)(const void *x, const void *t, void *dx, int64_t n, int op,
                           double delta, double factor, int stream) noexcept nogil

    const loss_simd_t *loss_table(int level, int element)
