from libc.stdint cimport int32_t, int64_t


cdef extern from "pooling/table.h" nogil:
    enum:
        NARROW_TAPS

    ctypedef struct pool_t:
        int64_t in_h, in_w, channels, out_h, out_w
        int64_t kh, kw, sh, sw, ph, pw, dh, dw
        const int32_t *first
        const int32_t *out
        const int32_t *tap
        const int32_t *row_count
        const int32_t *column_count
        int wide

    ctypedef struct pooling_simd_t:
        void (*max_row)(const pool_t *g, const void *x, void *y, void *winners,
                        int64_t out) noexcept nogil
        void (*max_grad_row)(const pool_t *g, const void *dy, const void *winners, void *dx,
                             int64_t row) noexcept nogil
        void (*avg_row)(const pool_t *g, const void *x, void *y, int64_t out) noexcept nogil
        void (*avg_grad_row)(const pool_t *g, const void *dy, void *dx,
                             int64_t row) noexcept nogil
        void (*pixel_means)(const void *x, void *y, int64_t pixels, int64_t channels,
                            int64_t ld) noexcept nogil
        void (*pixel_shares)(const void *dy, void *dx, int64_t pixels, int64_t channels,
                             int64_t total, int stream) noexcept nogil
        void (*stream_copy)(const void *x, void *y, int64_t n) noexcept nogil

    const pooling_simd_t *pooling_table(int level, int element)
