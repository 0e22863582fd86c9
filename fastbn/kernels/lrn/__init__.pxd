from libc.stdint cimport int64_t


cdef extern from "lrn/table.h" nogil:
    enum:
        LRN_ROWS

    ctypedef struct lrn_t:
        int64_t n
        int64_t before
        int64_t behind
        double scale
        double beta
        double k

    ctypedef struct lrn_simd_t:
        void (*rows)(const void *x, void *y, int64_t rows, const lrn_t *f,
                     void *room) noexcept nogil
        void (*grad_rows)(const void *x, const void *dy, void *dx, int64_t rows, const lrn_t *f,
                          void *room) noexcept nogil

    const lrn_simd_t *lrn_table(int level, int element)
    int64_t lrn_pitch(const lrn_t *f)
