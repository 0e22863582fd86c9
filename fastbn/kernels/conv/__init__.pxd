from libc.stdint cimport int64_t


cdef extern from "conv/table.h" nogil:
    ctypedef struct winograd_simd_t:
        void (*windows)(const void *const *rows, int64_t width, int64_t first, int64_t channels,
                        int64_t tiles, const void *zeros, void *to, int64_t step, int64_t apart,
                        int64_t pitch) noexcept nogil
        int (*outputs)(const void *u, int64_t step, int64_t pitch, int64_t tiles,
                       int64_t channels, const void *bias, void *y, int64_t high,
                       int64_t width) noexcept nogil
        void (*spread)(const void *dy, int64_t high, int64_t width, int64_t channels,
                       int64_t tiles, void *to, int64_t apart, int64_t pitch) noexcept nogil
        void (*filters)(const void *g, int64_t n, void *to, int64_t pitch) noexcept nogil
        int (*gradients)(const void *u, int64_t n, int64_t pitch, void *to,
                         int64_t apart) noexcept nogil

    ctypedef struct conv_simd_t:
        winograd_simd_t winograd[2]
        void (*depth_rows)(int64_t taps, const void **x, const void *const *w, int64_t count,
                           int64_t x_step, void *y, int64_t y_step, int64_t channels,
                           const void *bias, int prefetch) noexcept nogil
        void (*depth_sums)(int64_t taps, const void *const *x, const void *dy, int64_t count,
                           int64_t x_step, int64_t y_step, int64_t channels,
                           void *const *dw) noexcept nogil

    const conv_simd_t *conv_table(int level, int element)
