from libc.stdint cimport int64_t


cdef extern from "yardsticks/table.h" nogil:
    ctypedef struct yardsticks_simd_t:
        int64_t (*read_bytes)(const void *x, int64_t n) noexcept nogil
        void (*stream_copy)(const void *x, void *y, int64_t n) noexcept nogil
        void (*triad)(const void *a, const void *b, void *y, int64_t n, int stream) noexcept nogil
        int a_round
        double (*multiply_adds)(int64_t rounds) noexcept nogil

    const yardsticks_simd_t *yardsticks_table(int level, int element)
